"""Points of a sweep share the files of what the sweep leaves alone, and none of what it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.checkpoint import open_checkpoint
from merge_assets.plan import Plan, PlanInput, Together, build_plan
from merge_assets.plan.layout import lay_out
from merge_assets.plan.sharing import groups
from merge_assets.recipe import LayerFigure, Recipe, RecipeBook
from tests.synthetic import write_llama

SLERP = """\
merge_method: slerp
models: [{model: A}, {model: B}]
base_model: A
parameters: {t: [{filter: self_attn, value: 0.5}, {filter: mlp, value: 0.5}, {value: 0.5}]}
dtype: float32
sweep: SWEEP
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("AB"):
        write_llama(root / name, 4, seed=seed)
    return root


def planned(models: Path, folder: Path, sweep: str, shard_size: int = 5_000_000_000) -> dict[str, Plan]:
    text = SLERP.replace("SWEEP", sweep)
    for name in "AB":
        text = text.replace(f"model: {name}", f"model: {models / name}")
    (folder / "s.yaml").write_text(text)
    book = RecipeBook.load([folder])
    assert not book.broken

    def plan(recipe: Recipe) -> Plan:
        inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
        return build_plan(recipe, inputs, together=Together(book.beside(recipe)), shard_size=shard_size)

    return {recipe.name: plan(recipe) for recipe in book.sweeps["s"]}


def files(plan: Plan) -> dict[tuple[object, ...], set[str]]:
    """What tells one file's bytes from another's -> the tensors in it."""
    found: dict[int, list[tuple[str, str]]] = {}
    for tensor in plan.tensors:
        found.setdefault(tensor.shard, []).append((tensor.name, tensor.key))
    return {(plan.shards[n].header, *held): {name for name, _ in held} for n, held in found.items()}


def shared(plans: dict[str, Plan]) -> set[str]:
    """The tensors in files that all points have."""
    first, *others = map(files, plans.values())
    both = set(first).intersection(*others)
    return {name for identity in both for name in first[identity]}


def test_what_the_sweep_leaves_alone_is_one_file_for_all_points(models: Path, tmp_path: Path) -> None:
    plans = planned(models, tmp_path, '{"parameters.t[0].value": {low: 0, high: 1, count: 5}}')
    names = {tensor.name for plan in plans.values() for tensor in plan.tensors}

    assert shared(plans) == {name for name in names if "self_attn" not in name}
    assert {len(plan.shards) for plan in plans.values()} == {2}


def test_each_axis_has_files_of_its_own(models: Path, tmp_path: Path) -> None:
    plans = planned(models, tmp_path, '{"parameters.t[0].value": [0.1, 0.2], "parameters.t[1].value": [0.3, 0.4]}')

    attention = {name: plan for name, plan in plans.items() if "t_0_0.1" in name}
    assert len(attention) == 2
    assert {name for name in shared(attention) if "self_attn" in name}
    assert not {name for name in shared(attention) if ".mlp." in name}
    assert {len(plan.shards) for plan in plans.values()} == {3}


def test_small_shards_do_not_hold_tensors_of_two_groups(models: Path, tmp_path: Path) -> None:
    plans = planned(models, tmp_path, '{"parameters.t[0].value": [0.1, 0.2, 0.3]}', shard_size=4000)
    names = {tensor.name for plan in plans.values() for tensor in plan.tensors}

    assert all(len(plan.shards) > 3 for plan in plans.values())
    assert shared(plans) == {name for name in names if "self_attn" not in name}


def test_a_sweep_over_depth_is_laid_out_as_any_other_variant(models: Path, tmp_path: Path) -> None:
    text = f"merge_method: passthrough\ndepth_upscale: {{model: {models / 'A'}, overlap: 1}}\n"
    (tmp_path / "d.yaml").write_text(text + "sweep: {depth_upscale.overlap: [1, 2]}\n")
    book = RecipeBook.load([tmp_path])
    for recipe in book.sweeps["d"]:
        inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
        assert (
            build_plan(recipe, inputs, together=Together(book.beside(recipe))).shards
            == build_plan(recipe, inputs).shards
        )


def test_a_point_that_cannot_be_planned_tells_the_others_nothing(models: Path, tmp_path: Path) -> None:
    text = f"merge_method: linear\nmodels: [{{model: {models / 'A'}}}]\nparameters: {{weight: 1}}\n"
    (tmp_path / "w.yaml").write_text(text + "sweep: {parameters.weight: [1, wrong]}\n")
    book = RecipeBook.load([tmp_path])
    recipe = book.sweeps["w"][0]
    inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]

    assert (
        build_plan(recipe, inputs, together=Together(book.beside(recipe))).shards == build_plan(recipe, inputs).shards
    )


def test_points_whose_layers_cannot_be_told_tell_the_others_nothing(models: Path, tmp_path: Path) -> None:
    """Figures are those of one metric; another metric's layers are not to be told by them, nor is there a depth beyond all."""
    pruned = "{model: MODEL, by: snr, tensor: self_attn.v_proj, remove: 1}"
    text = f"merge_method: passthrough\nprune_layers: {pruned}\nsweep: SWEEP\n"
    swept = "{prune_layers.by: [snr, margin], prune_layers.remove: [1, infinite]}"
    (tmp_path / "p.yaml").write_text(text.replace("MODEL", str(models / "A")).replace("SWEEP", swept))
    (tmp_path / "d.yaml").write_text(
        f"merge_method: passthrough\ndepth_upscale: {{model: {models / 'A'}, overlap: 1}}\n"
        "sweep: {depth_upscale.overlap: [1, 20]}\n"
    )
    book = RecipeBook.load([tmp_path])
    figures = [LayerFigure(layer, float(layer), infinite=False, margin=0.5, tensor="v") for layer in range(4)]
    for name, told in (("p", figures), ("d", None)):
        recipe = book.sweeps[name][0]
        inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
        alone = build_plan(recipe, inputs, figures=told)
        assert build_plan(recipe, inputs, figures=told, together=Together(book.beside(recipe))).key == alone.key


@given(st.lists(st.dictionaries(st.sampled_from("abcde"), st.sampled_from("xyz"), min_size=5), max_size=4))
def test_tensors_are_together_if_the_same_points_change_them(points: list[dict[str, str]]) -> None:
    found = groups(points)
    if not points:
        assert found == {}
        return

    def changed(name: str) -> list[bool]:
        return [point[name] != points[0][name] for point in points[1:]]

    for one in "abcde":
        assert (found[one] == 0) == (not any(changed(one)))
        assert all((found[one] == found[other]) == (changed(one) == changed(other)) for other in "abcde")


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "F64"]), st.integers(1, 9), st.integers(0, 2)), min_size=1))
def test_no_shard_holds_two_groups_and_none_is_empty(kinds: list[tuple[str, int, int]]) -> None:
    tensors = [(f"t{number}", dtype, (size,)) for number, (dtype, size, _) in enumerate(kinds)]
    together = {f"t{number}": group for number, (_, _, group) in enumerate(kinds)}
    shards, ranges = lay_out(tensors, 64, together=together)

    held: dict[int, set[int]] = {}
    for name, where in ranges.items():
        held.setdefault(where.shard, set()).add(together[name])
    assert sorted(held) == list(range(len(shards))) and all(len(found) == 1 for found in held.values())
