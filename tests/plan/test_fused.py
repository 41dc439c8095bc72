"""Contract: a recipe that is not stored becomes a part of its consumers' plans, and nothing else of the plan changes.

Where there is an oracle, it is the same project with the inner recipe stored or written out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from merge_assets import api
from merge_assets.errors import CheckpointError, PlanError
from merge_assets.plan import OutputTensor, Plan, TensorInput
from merge_assets.plan.describe import dropped_tensors, folded_recipes, peak_memory_estimate
from merge_assets.plan.difference import difference
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.parameter_table import ParameterRow, parameter_table
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import Models
from tests.synthetic import llama_shapes, write_llama, write_project

SLERP = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.25}\n"
MEAN = "merge_method: linear\nmodels: [{model: inner}, {model: c}]\nparameters: {weight: 1}\n"
UPPER = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [1, 4]}]}]\n"
STACK = """
merge_method: passthrough
slices:
  - sources: [{model: inner, layer_range: [0, 2]}]
  - sources: [{model: c, layer_range: [3, 4]}]
  - sources: [{model: inner, layer_range: [1, 3]}]
"""
MLP = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path)


def workspace(root: Path, **recipes: str) -> api.Workspace:
    """A project of these recipes; the one called ``outer`` and those that start with ``stored`` are stored."""
    for name, text in recipes.items():
        stored = name == "outer" or name.startswith("stored")
        (root / "recipes" / f"{name}.yaml").write_text(text if stored else f"materialize: false\n{text}")
    return api.Workspace.open(Settings(root=root))


def outer_plan(root: Path, **recipes: str) -> Plan:
    space = workspace(root, **recipes)
    return api.plan(space, space.recipe("outer"))


def tensor(plan: Plan, name: str) -> OutputTensor:
    return next(tensor for tensor in plan.tensors if tensor.name == name)


def place(tensor: OutputTensor) -> tuple[object, ...]:
    return tensor.name, tensor.dtype, tensor.shape, tensor.shard, tensor.begin, tensor.end, tensor.layer


def leaves(plan: Plan, item: TensorInput) -> Iterator[tuple[str, str]]:
    if item.nested is None:
        yield plan.models[item.model].reference, item.header.name
    else:
        for deeper in item.nested.inputs:
            yield from leaves(plan, deeper)


# -- expressions -------------------------------------------------------------------------------------------------------


def test_a_tensor_of_the_inner_recipe_is_an_expression_inside_the_outer_one(root: Path) -> None:
    plan = outer_plan(root, inner=SLERP, outer=MEAN)
    found = tensor(plan, MLP.format(2))
    first, second = found.inputs
    assert (found.method, [dict(item.parameters) for item in found.inputs]) == ("linear", [{"weight": 1.0}] * 2)
    assert second.nested is None
    nested = first.nested
    assert nested is not None
    assert (nested.method, dict(nested.parameters), nested.base) == ("slerp", {"t": 0.25}, 0)
    assert (nested.name, nested.dtype, nested.shape) == (MLP.format(2), "F32", found.shape)
    assert (nested.shard, nested.begin, nested.end) == (-1, 0, 0)
    assert (first.header.name, first.header.dtype, first.header.shape) == (nested.name, "F32", found.shape)
    assert (first.header.file, first.header.nbytes, first.digest) == ("", 0, nested.key)
    assert list(leaves(plan, first)) == [("a", MLP.format(2)), ("b", MLP.format(2))]


def test_models_of_the_inner_recipe_follow_those_of_the_outer_and_equal_ones_are_shared(root: Path) -> None:
    mean = "merge_method: linear\nmodels: [{model: b}, {model: inner}, {model: c}]\nparameters: {weight: 1}\n"
    plan = outer_plan(root, inner=SLERP, outer=mean)
    assert [model.reference for model in plan.models] == ["b", "inner", "c", "a"]
    assert [model.folded is not None for model in plan.models] == [False, True, False, False]
    item = tensor(plan, MLP.format(0)).inputs[1]
    assert item.nested is not None
    assert [inner.model for inner in item.nested.inputs] == [3, 0]


def test_what_surrounds_the_weights_is_that_of_a_stored_inner_recipe(root: Path) -> None:
    """The same names, shapes, dtypes, places, config and carried files."""
    inner = f"{SLERP}dtype: float16\n"
    folded = outer_plan(root, inner=inner, outer=STACK)
    stored = outer_plan(root, stored=inner, outer=STACK.replace("inner", "stored"))
    assert [place(t) for t in folded.tensors] == [place(t) for t in stored.tensors]
    assert (folded.config, folded.shards) == (stored.config, stored.shards)
    assert [carried.file for carried in folded.carried] == [carried.file for carried in stored.carried]
    assert {folded.models[carried.model].reference for carried in folded.carried} == {"a"}
    assert folded.models[folded.donor].reference == "inner"


def test_trees_may_be_deep(root: Path) -> None:
    middle = "merge_method: linear\nmodels: [{model: inner}, {model: c}]\nparameters: {weight: 1}\n"
    ties = "merge_method: task_arithmetic\nbase_model: a\nmodels: [{model: middle}, {model: inner}]\nparameters: {weight: 1}\n"
    plan = outer_plan(root, inner=SLERP, middle=middle, outer=ties)
    found = tensor(plan, MLP.format(1))
    name = MLP.format(1)
    assert [list(leaves(plan, item)) for item in found.inputs] == [
        [("a", name)],
        [("a", name), ("b", name), ("c", name)],
        [("a", name), ("b", name)],
    ]
    assert found.inputs[1].nested is not None
    # One expression in two places is one expression, whichever way it was reached.
    assert found.inputs[1].nested.inputs[0].nested == found.inputs[2].nested


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_stack_of_a_stack_is_copied_from_the_files(root: Path) -> None:
    by_hand = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [1, 3]}]
  - sources: [{model: c, layer_range: [3, 4]}]
  - sources: [{model: a, layer_range: [2, 4]}]
"""
    plan = outer_plan(root, inner=UPPER, outer=STACK)
    assert all(tensor.is_copy for tensor in plan.tensors)
    assert [t.key for t in plan.tensors] == [t.key for t in outer_plan(root, outer=by_hand).tensors]
    assert plan.bytes_to_read == sum(t.nbytes for t in plan.tensors)


def test_a_stack_of_a_merge_is_the_merge_itself(root: Path) -> None:
    """Computed as in the inner recipe alone, and rounded once; keys are those of the inner recipe's own variant."""
    space = workspace(root, inner=SLERP, outer=STACK)
    plan, inner = api.plan(space, space.recipe("outer")), api.plan(space, space.recipe("inner"))
    for layer, source in enumerate([0, 1, None, 1, 2]):
        found = tensor(plan, MLP.format(layer))
        assert found.is_copy == (source is None)
        assert all(item.nested is None for item in found.inputs)
        if source is not None:
            assert found.key == tensor(inner, MLP.format(source)).key


@pytest.mark.parametrize(
    ("inner", "outer", "dtype", "copied"),
    [
        ("", "", "BF16", True),
        ("dtype: float32\n", "", "F32", False),
        ("dtype: float16\n", "", "F16", False),
        ("dtype: float16\n", "dtype: bfloat16\n", "BF16", True),
        ("dtype: float32\n", "dtype: bfloat16\n", "BF16", True),
    ],
)
def test_the_dtype_of_the_inner_recipe_rounds_nothing(
    inner: str, outer: str, dtype: str, copied: bool, root: Path
) -> None:
    """It is the dtype of an outer recipe that names none; bytes that agree with the output's dtype are copied."""
    plan = outer_plan(root, inner=UPPER + inner, outer=STACK + outer)
    found = tensor(plan, MLP.format(0))
    assert (found.dtype, found.inputs[0].header.dtype, found.is_copy) == (dtype, "BF16", copied)


def test_a_narrower_dtype_of_the_inner_recipe_loses_no_bits_of_the_inputs(root: Path) -> None:
    write_llama(root / "wide", dtype=torch.float32)
    inner = "merge_method: passthrough\nmodels: [{model: wide}]\ndtype: bfloat16\n"
    plan = outer_plan(root, inner=inner, outer="merge_method: passthrough\nmodels: [{model: inner}]\ndtype: float32\n")
    assert all(tensor.is_copy and tensor.dtype == "F32" for tensor in plan.tensors)


def test_a_scaled_passthrough_is_an_expression(root: Path) -> None:
    inner = (
        "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: [{filter: mlp, value: 2}, {value: 1}]}}]\n"
    )
    plan = outer_plan(root, inner=inner, outer=MEAN)
    scaled, plain = tensor(plan, MLP.format(0)).inputs[0], tensor(plan, "lm_head.weight").inputs[0]
    assert scaled.nested is not None and dict(scaled.nested.inputs[0].parameters) == {"scale": 2.0}
    assert plain.nested is None and plan.models[plain.model].reference == "a"
    assert dict(plain.parameters) == {"weight": 1.0}


def test_integers_pass_through_both(root: Path) -> None:
    write_llama(root / "odd", edit={"model.layers.1.position_ids": torch.arange(5)})
    copy = "merge_method: passthrough\nmodels: [{{model: {}}}]\ndtype: float16\n"
    plan = outer_plan(root, inner=copy.format("odd"), outer=copy.format("inner"))
    found = tensor(plan, "model.layers.1.position_ids")
    assert (found.dtype, found.is_copy) == ("I64", True)


def test_random_masks_keep_the_name_and_seed_of_their_own_recipe(root: Path) -> None:
    dare = "merge_method: dare_linear\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: 1, density: 0.5}\nseed: 7\n"
    plan = outer_plan(root, inner=dare, outer=f"{STACK}seed: 8\n")
    found = tensor(plan, MLP.format(3))  # layer 1 of the inner recipe
    assert (found.method, dict(found.parameters)) == ("passthrough", {})
    nested = found.inputs[0].nested
    assert nested is not None
    assert (nested.name, nested.parameters["seed"]) == (MLP.format(1), 7)


# -- bytes to read and memory -------------------------------------------------------------------------------------------


def test_bytes_to_read_count_every_sweep_over_the_files(root: Path) -> None:
    """slerp takes one pass. Outer tiles 1 sweep over a, b, c; inner statistics 1 over a, b."""
    plan = outer_plan(root, inner=SLERP, outer=MEAN)
    one = tensor(plan, MLP.format(0)).nbytes
    assert tensor(plan, MLP.format(0)).bytes_to_read() == one * (3 + 2)
    assert plan.bytes_to_read == 5 * sum(t.nbytes for t in plan.tensors)


def test_statistics_of_both_levels_are_counted(root: Path) -> None:
    """Outer slerp: tiles and one pass, each over a, b, c; the inner statistics once more over a, b, not once per pass."""
    outer = "merge_method: slerp\nbase_model: c\nmodels: [{model: inner}]\nparameters: {t: 0.5}\n"
    plan = outer_plan(root, inner=SLERP, outer=outer)
    found = tensor(plan, MLP.format(0))
    assert found.bytes_to_read() == found.nbytes * (2 * 3 + 2)
    assert found.needs_statistics


def test_an_elementwise_merge_of_a_merge_with_statistics_needs_statistics(root: Path) -> None:
    assert tensor(outer_plan(root, inner=SLERP, outer=MEAN), MLP.format(0)).needs_statistics
    linear = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    assert not tensor(outer_plan(root, inner=linear, outer=MEAN), MLP.format(0)).needs_statistics


def test_folding_takes_no_more_memory_than_the_bound(root: Path) -> None:
    deep = outer_plan(root, inner=SLERP, outer=MEAN)
    flat = outer_plan(root, stored=SLERP, outer=MEAN.replace("inner", "stored"))
    assert peak_memory_estimate(deep, 1 << 28) == peak_memory_estimate(flat, 1 << 28) > 1 << 28


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("t: 0.25", "t: 0.75", "parameters"),
        ("merge_method: slerp", "merge_method: nearswap", "method"),
        ("model: b", "model: c", "source tensors"),
    ],
)
def test_keys_follow_whatever_changes_underneath(before: str, after: str, reason: str, root: Path) -> None:
    old = outer_plan(root, inner=SLERP, outer=MEAN)
    new = outer_plan(root, inner=SLERP.replace(before, after), outer=MEAN)
    made = difference(new, old.to_json())
    assert made.unchanged == 0
    assert reason in made.reasons


def test_a_change_underneath_touches_only_its_tensors(root: Path) -> None:
    old = outer_plan(root, inner=SLERP, outer=MEAN)
    filtered = SLERP.replace("t: 0.25", "t: [{filter: mlp, value: 0.5}, {value: 0.25}]")
    made = difference(outer_plan(root, inner=filtered, outer=MEAN), old.to_json())
    assert set(made.changed) == {name for name in llama_shapes(4) if ".mlp." in name}
    assert made.reasons == {"parameters": len(made.changed)}


def test_the_key_is_not_that_of_the_stored_merge(root: Path) -> None:
    """Its bytes are others: they are not rounded in between."""
    folded = outer_plan(root, inner=SLERP, outer=MEAN)
    stored = outer_plan(root, stored=SLERP, outer=MEAN.replace("inner", "stored"))
    assert {t.key for t in folded.tensors}.isdisjoint(t.key for t in stored.tensors)


# -- nothing is lost ----------------------------------------------------------------------------------------------------


def test_every_tensor_in_a_file_is_used_or_listed_as_dropped(root: Path) -> None:
    write_llama(root / "donor", seed=9)
    inner = """
merge_method: linear
base_model: donor
slices: [{sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [1, 4]}]}]
parameters: {weight: 1}
"""
    plan = outer_plan(root, inner=inner, outer=STACK)
    used = {place for found in plan.tensors for item in found.inputs for place in leaves(plan, item)}
    dropped = {(plan.models[d.model].reference, d.tensor): d.reason for d in plan.dropped}
    stored = {place: reason for place, reason in dropped.items() if place[0] != "inner"}
    assert used | stored.keys() == {(model, name) for model in ("a", "b", "c", "donor") for name in llama_shapes(4)}
    assert used.isdisjoint(stored)
    assert stored["a", MLP.format(3)] == "layer 3 is in no slice"
    assert stored["donor", MLP.format(0)] == "donates only config and tokenizer"
    said = dropped_tensors(plan)
    assert "39 tensors of donor: donates only config and tokenizer" in said


def test_what_the_outer_recipe_does_not_take_is_dropped_with_all_that_is_only_in_it(root: Path) -> None:
    outer = "merge_method: passthrough\nslices: [{sources: [{model: inner, layer_range: [0, 1]}]}]\n"
    said = dropped_tensors(outer_plan(root, inner=SLERP, outer=outer))
    assert said == [
        "27 tensors of inner: layers 1–3 in no slice",
        "27 tensors of a: only in tensors of inner that are not used",
        "27 tensors of b: only in tensors of inner that are not used",
    ]


# -- what people see ----------------------------------------------------------------------------------------------------


def test_the_layer_map_shows_what_the_inner_recipe_takes(root: Path) -> None:
    inner = """
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]
  - sources: [{model: b, layer_range: [0, 2]}]
"""
    plan = outer_plan(root, inner=inner, outer=STACK.replace("[1, 3]", "[1, 4]"))
    rows = {row.output: row.sources for row in layer_map(plan)}
    assert rows["0–1"] == "inner(a 0–1 + b 2–3)"
    assert rows["2"] == "c 3"
    assert rows["3–5"] == "inner(a 1 + b 3, b 0–1)"
    assert folded_recipes(plan) == ["inner (linear)"]


def test_values_of_the_inner_recipe_come_with_its_name(root: Path) -> None:
    plan = outer_plan(root, inner=SLERP, outer=MEAN)
    assert {(row.model, row.parameter, row.of, row.value) for row in parameter_table(plan)} == {
        ("inner", "weight", "all", "1"),
        ("inner", "t", "all", "0.25"),
        ("c", "weight", "all", "1"),
    }


def test_the_json_shows_expressions_where_they_are_and_nothing_where_they_are_not(root: Path) -> None:
    content = json.loads(outer_plan(root, inner=SLERP, outer=MEAN).to_json())
    first, second = content["tensors"][0]["inputs"]
    assert first["nested"]["method"] == "slerp"
    assert "nested" not in second
    assert [model["reference"] for model in content["models"] if "folded" in model] == ["inner"]


def test_mergekit_gets_one_document_per_recipe(root: Path) -> None:
    assert outer_plan(root, inner=SLERP, outer=MEAN).mergekit_config.split("\n---\n") == [
        "name: inner\nmodels:\n- model: a\n- model: b\nmerge_method: slerp\nbase_model: a\nparameters:\n  t: 0.25",
        "# For mergekit-multi, which stores the stages above, each rounded to its dtype. Here they were never stored, and\n"
        "# nothing was rounded before the end.\n"
        "name: outer\nmodels:\n- model: inner\n- model: c\nmerge_method: linear\nparameters:\n  weight: 1\n",
    ]


def test_the_commands_say_what_is_not_stored(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from merge_assets.cli.show import show_plan, show_recipes

    workspace(root, inner=SLERP, outer=MEAN)
    monkeypatch.chdir(root)
    assert show_recipes(as_json=True) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert (rows["inner"]["built"], rows["inner"]["automated"], rows["inner"]["suites"]) == ("not stored", "no", "")
    assert rows["outer"]["built"] == ""
    show_plan("inner", as_json=False, shard_size=None)
    assert "not stored  folded into outer" in capsys.readouterr().out
    show_plan("outer", as_json=False, shard_size=None)
    shown = capsys.readouterr().out
    assert "inner(a 0–3 + b 0–3) + c 0–3" in shown
    assert "folds in  inner (slerp)" in shown


# -- surroundings -------------------------------------------------------------------------------------------------------


def test_a_union_of_tokenizers_looks_through_to_the_files(root: Path) -> None:
    plan = outer_plan(root, inner=SLERP, outer=f"{MEAN}tokenizer_source: union\n")
    assert [(plan.models[c.model].reference, c.file, c.size) for c in plan.carried] == [
        ("a", "tokenizer.json", (root / "a" / "tokenizer.json").stat().st_size)
    ]
    (root / "c" / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(PlanError, match=r"tokenizer_source: recipe:inner/tokenizer\.json: model\.vocab is missing"):
        outer_plan(root, inner=SLERP, outer=f"{MEAN}tokenizer_source: union\n")


def test_a_tied_head_of_the_inner_recipe_is_its_embedding(root: Path) -> None:
    write_llama(root / "tied", tied=True)
    inner = "merge_method: passthrough\nmodels: [{model: tied, parameters: {scale: 2}}]\n"
    plan = outer_plan(root, inner=inner, outer=MEAN)
    head = tensor(plan, "lm_head.weight").inputs[0]
    assert list(leaves(plan, head)) == [("tied", "model.embed_tokens.weight")]
    assert plan.config["tie_word_embeddings"] is False


def test_shapes_are_checked_through_the_inner_recipe(root: Path) -> None:
    write_llama(root / "wordy", vocabulary=40)
    with pytest.raises(
        PlanError, match=r"shapes differ for tensor model\.embed_tokens\.weight: inner \[32, 16\]; wordy"
    ):
        outer_plan(root, inner=SLERP, outer=MEAN.replace("model: c", "model: wordy"))


@pytest.mark.parametrize("by", ["snr, tensor: v_proj", "margin, tensor: v_proj"])
def test_layers_of_what_is_not_stored_cannot_be_chosen_by_an_analysis(by: str, root: Path) -> None:
    prune = f"merge_method: passthrough\nprune_layers: {{model: inner, by: {by}, remove: 1}}\n"
    with pytest.raises(PlanError, match=r"prune_layers\.model: inner is not stored .* by: list"):
        outer_plan(root, inner=SLERP, outer=prune)


def test_layers_of_what_is_not_stored_can_be_removed_by_number(root: Path) -> None:
    prune = "merge_method: passthrough\nprune_layers: {model: inner, by: list, remove: [1]}\n"
    assert [row.sources for row in layer_map(outer_plan(root, inner=UPPER, outer=prune))] == [
        "a",
        "inner(a 1)",
        "inner(a 3)",
        "a",
        "a",
    ]


def test_a_model_reference_to_it_cannot_be_read_as_files(root: Path) -> None:
    space = workspace(root, inner=SLERP)
    with pytest.raises(CheckpointError, match=r"inner: this recipe is not stored .*merge-assets merge inner OUT"):
        Models(space).fetch(ModelReference("inner"))


def test_a_variant_in_the_store_from_before_is_not_taken(root: Path) -> None:
    """The recipe was stored once; what counts is what it says now."""
    space = workspace(root, outer=SLERP)
    api.build(space, space.recipe("outer"))
    (root / "recipes" / "outer.yaml").write_text(f"materialize: false\n{SLERP}")
    mean = MEAN.replace("inner", "outer")
    (root / "recipes" / "final.yaml").write_text(mean)
    again = api.Workspace.open(Settings(root=root))
    plan = api.plan(again, again.recipe("final"))
    assert tensor(plan, MLP.format(0)).inputs[0].nested is not None


def test_the_seed_is_shown_unless_it_is_0(root: Path) -> None:
    """All digits of it, as a person wrote them."""
    dare = "merge_method: dare_ties\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: 1, density: 0.5}\n"
    plan = outer_plan(root, outer=f"{dare}seed: 1234567890123\n")
    assert ParameterRow("dare_ties", "seed", "all", "1234567890123") in parameter_table(plan)
    assert not any(row.parameter == "seed" for row in parameter_table(outer_plan(root, outer=dare)))


def test_a_word_is_shown_as_it_is(root: Path) -> None:
    dare = "merge_method: dare_ties\nbase_model: a\nmodels: [{model: b}]\nparameters:\n  weight: 1\n  density: 0.5\n"
    text = f"{dare}  rescale: [{{filter: mlp, value: paper}}, {{value: false}}]\n"
    plan = outer_plan(root, outer=text)
    assert tensor(plan, MLP.format(0)).parameters["rescale"] == "paper"
    rows = [(row.of, row.value) for row in parameter_table(plan) if row.parameter == "rescale"]
    assert rows == [("mlp", "paper"), ("all else", "0")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rescale: papr", r"parameters\.rescale: 'papr' is not true or false or 'paper'"),
        ("density: paper", r"parameters\.density: 'paper' is not a number"),
        ("normalize: paper", r"parameters\.normalize: 'paper' is not true or false"),
    ],
)
def test_a_word_that_the_parameter_does_not_know_is_a_plan_error(setting: str, message: str, root: Path) -> None:
    ties = "merge_method: dare_ties\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: 1, "
    with pytest.raises(PlanError, match=message):
        outer_plan(root, outer=f"{ties}{setting}}}\n")


def test_a_folded_plan_is_the_same_every_time_and_whatever_the_shards(root: Path) -> None:
    space = workspace(root, inner=SLERP, outer=MEAN)
    one, again = (api.plan(space, space.recipe("outer")) for _ in range(2))
    small = api.plan(space, space.recipe("outer"), shard_size=3000)
    assert one == again
    assert len(small.shards) > 1
    assert {t.key for t in small.tensors} == {t.key for t in one.tensors}
