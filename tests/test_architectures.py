"""Every family that people merge: copied bit for bit, averaged by the formula, stacked and pruned, and loaded as it is.

The oracles are numpy in float64 for the numbers, and transformers for names, shapes, roles and logits. What the tests find is
the table of ``docs/architectures.md``; with ``UPDATE_ARCHITECTURES=1`` they write it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge_assets.checkpoint import Checkpoint, open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.errors import PlanError
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import Recipe, load_recipe
from merge_assets.variant.agreement import check_agreement
from merge_assets.variant.surroundings import write_surroundings
from tests import peer
from tests.architectures import FAMILIES, Family, Zoo
from tests.synthetic import read_tensors

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
VARIABLE = "UPDATE_ARCHITECTURES"

STACK = ((0, 3), (1, 4))
PRUNE = ((0, 1), (2, 4))
ROTATE = ((1, 4), (0, 1))
KEPT_OF_OTHER_PART = (0, 2)
OPERATIONS = ("identity", "linear", "stack", "prune", "rotate", "other part")
REFUSED = {
    ("DeepSeek-V2", "rotate"): "first_k_dense_replace",
    ("DeepSeek-V3", "rotate"): "first_k_dense_replace",
    ("T5", "rotate"): "relative_attention_bias",
    ("GLM-4.5", "rotate"): "first_k_dense_replace",
    ("Jamba", "prune"): "attn_layer_period",
    ("Kimi-Linear", "rotate"): "first_k_dense_replace",
    ("GLM-4.7-Flash", "rotate"): "first_k_dense_replace",
    ("DeepSeek-V3.2", "rotate"): "first_k_dense_replace",
    ("DeepSeek-V4", "rotate"): "first_k_dense_replace",
    ("dots.llm1", "rotate"): "first_k_dense_replace",
    ("LFM2-MoE", "rotate"): "num_dense_layers",
    ("Gemma4 (text)", "rotate"): "layer_types",
    ("ModernBERT", "rotate"): "attn_norm",
}
"""What a family's config cannot say, and the key or the tensor that the error names."""

FOUND: dict[tuple[str, str], str] = {}
"""Cells of the table, as the tests find them."""

family_names = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def planned(text: str, folder: Path) -> tuple[Recipe, Plan]:
    """A plan as the verbs make it: from headers, then asked of transformers."""
    file = folder / "recipe.yaml"
    file.write_text(text)
    recipe = load_recipe(file)
    inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
    plan = build_plan(recipe, inputs)
    check_agreement(plan, inputs, str(file))
    return recipe, plan


def merged(text: str, folder: Path) -> Path:
    recipe, plan = planned(text, folder)
    out = folder / "out"
    out.mkdir()
    execute(plan, out, device="cpu")
    write_surroundings(plan, recipe, out)
    return out


def passthrough(model: Path, ranges: Sequence[tuple[int, int]]) -> str:
    slices = "\n".join(f"  - sources: [{{model: {model}, layer_range: [{a}, {b}]}}]" for a, b in ranges)
    return f"merge_method: passthrough\nslices:\n{slices}\n"


def loaded(family: Family, folder: Path) -> Any:
    """The model, with every tensor of the files in its place and none missing."""
    model, report = family.load(folder)
    assert {kind: sorted(map(str, names)) for kind, names in report.items() if names} == {}
    return model


def roles(model: Any) -> dict[str, list[Any]]:
    config = model.config.get_text_config(decoder=True)
    found = {name: getattr(config, name, None) for name in ("layer_types", "no_rope_layers", "mlp_layer_types")}
    return {name: list(value) for name, value in found.items() if value}


@family_names
def test_a_copy_has_the_same_bytes_and_the_same_logits(name: str, zoo: Zoo, tmp_path: Path) -> None:
    family, source = FAMILIES[name], zoo.siblings(name)[0]
    out = merged(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\n", tmp_path)
    before, after = read_tensors(source), read_tensors(out)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype, key
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), after[key].reshape(-1).view(torch.uint8)), key
    original, copy = loaded(family, source), loaded(family, out)
    assert torch.equal(family.run(original), family.run(copy))
    FOUND[name, "identity"] = f"✓ {len(before)} tensors"


@family_names
def test_every_tensor_of_an_average_is_the_formula_rounded_once(name: str, zoo: Zoo, tmp_path: Path) -> None:
    family, (one, other) = FAMILIES[name], zoo.siblings(name)
    models = f"[{{model: {one}, parameters: {{weight: 0.25}}}}, {{model: {other}, parameters: {{weight: 0.5}}}}]"
    out = merged(f"merge_method: linear\nmodels: {models}\n", tmp_path)
    a, b, found = read_tensors(one), read_tensors(other), read_tensors(out)
    assert found.keys() == a.keys()
    for key, tensor in found.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, a[key]), key
            continue
        exact = (0.25 * a[key].double().numpy() + 0.5 * b[key].double().numpy()) / 0.75
        assert tensor.dtype == family.dtype, key
        # Half a unit in the last place of the result, and what float32 arithmetic may add to it.
        unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
        allowed = unit * (0.501 * 2**16 + 2 if family.dtype is torch.bfloat16 else 2)
        assert (np.abs(tensor.double().numpy() - exact) <= allowed).all(), key
    family.run(loaded(family, out))
    FOUND[name, "linear"] = f"✓ {len(found)} tensors"


@family_names
@pytest.mark.parametrize(("operation", "ranges"), [("stack", STACK), ("prune", PRUNE), ("rotate", ROTATE)])
def test_other_layers_load_keep_their_roles_and_generate(
    operation: str, ranges: Sequence[tuple[int, int]], name: str, zoo: Zoo, tmp_path: Path
) -> None:
    family, source = FAMILIES[name], zoo.siblings(name)[0]
    text = passthrough(source, ranges)
    if (name, operation) in REFUSED:
        key = REFUSED[name, operation]
        with pytest.raises(PlanError, match=rf"(config\.json|of the variant).*{key}"):
            planned(text, tmp_path)
        FOUND[name, operation] = f"refused: `{key}`"
        return
    origins = [layer for start, end in ranges for layer in range(start, end)]
    out = merged(text, tmp_path)
    model = loaded(family, out)
    checkpoint, before = open_checkpoint(out), open_checkpoint(source)
    assert checkpoint.layer_count == len(origins)
    _same_layers(before, checkpoint, read_tensors(source), read_tensors(out), origins)
    for key, list_of_source in roles(loaded(family, source)).items():
        assert roles(model)[key] == [list_of_source[layer] for layer in origins]
    assert torch.isfinite(family.run(model).float()).all()
    if family.generates:
        assert family.generate(model).shape[0] == 1
    FOUND[name, operation] = f"✓ 4 → {len(origins)} layers"


BLOCKS = {"embed_tokens_per_layer.weight": 1, "per_layer_model_projection.weight": 0}
"""Tensors outside the layers with a block for each of them, and along which axis."""


def _same_layers(
    before: Checkpoint,
    after: Checkpoint,
    stored: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
    origins: Sequence[int],
) -> None:
    """Every tensor of the output is that of its layer in the source, and nothing outside is missing."""
    one, other = before.parts[0].stacks[0], after.parts[0].stacks[0]
    for key, tensor in found.items():
        place = other.split(key)
        name = key if place is None else one.join(origins[place[0]], place[1])
        wanted = stored[name]
        if (axis := BLOCKS.get(key.rpartition("model.")[2])) is not None:
            wanted = torch.cat([wanted.chunk(one.count, axis)[layer] for layer in origins], axis)
        assert torch.equal(tensor, wanted), key
    for key in stored:
        assert one.split(key) is not None or key in found, key


@family_names
def test_another_part_is_cut_by_its_own_name(name: str, zoo: Zoo, tmp_path: Path) -> None:
    family, source = FAMILIES[name], zoo.siblings(name)[0]
    checkpoint = open_checkpoint(source)
    others = [part for part in checkpoint.parts[1:] if part.stacks]
    if not others:
        FOUND[name, "other part"] = "one part"
        return
    (part,) = others
    start, end = KEPT_OF_OTHER_PART
    slices = f"[{{sources: [{{model: {source}, layer_range: [{start}, {end}]}}]}}]"
    out = merged(f"merge_method: passthrough\nmodules: {{{part.name}: {{slices: {slices}}}}}\n", tmp_path)
    family.run(loaded(family, out))
    after = open_checkpoint(out)
    assert {p.name: p.count for p in after.parts} == {
        p.name: end - start if p is part else p.count for p in checkpoint.parts
    }
    FOUND[name, "other part"] = f"✓ `{part.name}` {part.count} → {end - start}"


@pytest.mark.peer
def test_parts_are_those_of_mergekit(zoo: Zoo, tmp_path: Path) -> None:
    """mergekit is asked for one module at a time: the tensors that it writes are those of our part."""
    asked = [
        ("Whisper", "encoder"),
        *(("Gemma3 (vision)", name) for name in ("text_decoder", "multi_modal_projector")),
        *(("Qwen2.5-VL", name) for name in ("text_decoder", "vision_tower", "multi_modal_projector")),
    ]
    folders = {name: zoo.siblings(name)[0] for name, _ in asked}
    recipes = {
        f"{name}:{part}": f"merge_method: passthrough\nmodules: {{{part}: {{models: [{{model: {folders[name]}}}]}}}}\n"
        for name, part in asked
    }
    answers = peer.answers(recipes, tmp_path)
    for name, part in asked:
        answer, checkpoint = answers[f"{name}:{part}"], open_checkpoint(folders[name])
        found = checkpoint.part(part)
        assert isinstance(answer, Path), answer
        assert found is not None
        in_layers = {key for key in checkpoint.tensors if any(stack.split(key) for stack in found.stacks)}
        assert in_layers | set(found.outside) == set(open_checkpoint(answer).tensors), (name, part)


def test_the_page_shows_what_the_tests_found() -> None:
    if len(FOUND) < len(FAMILIES) * len(OPERATIONS):
        pytest.skip("some operations were not run, or failed")
    text = page()
    if os.environ.get(VARIABLE):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, f"docs/architectures.md is stale; run this file with {VARIABLE}=1"


def page() -> str:
    rows = ["| family | class |" + "|".join(f" {operation} " for operation in OPERATIONS) + "|"]
    rows.append("|---" * (2 + len(OPERATIONS)) + "|")
    for name, family in FAMILIES.items():
        rows.append(f"| {name} | `{family.model}` | " + " | ".join(FOUND[name, o] for o in OPERATIONS) + " |")
    works, refused = (sum(found.startswith(word) for found in FOUND.values()) for word in ("✓", "refused"))
    count = f"{len(FAMILIES)} families: {works} operations work, {refused} are refused.\n\n"
    return INTRODUCTION + count + "\n".join(rows) + "\n"


INTRODUCTION = """# Architectures

There is no list of architectures. Layers are the numbers in tensor names, the layer count is the key of `config.json` that has
it, and everything else in a checkpoint is carried along: see [recipes.md](recipes.md).

This table is written by `tests/test_architectures.py`, from tiny random models of transformers; `UPDATE_ARCHITECTURES=1`
rewrites it.

| operation | what is tested |
|---|---|
| identity | passthrough of one model: every byte equal, equal logits |
| linear | two siblings: every tensor is the float64 formula, rounded once |
| stack | slices `[0, 3] [1, 4]`: loads with no missing, unexpected or mismatched tensors, layers keep their roles, generates |
| prune | slices `[0, 1] [2, 4]`, the same |
| rotate | slices `[1, 4] [0, 1]`, the same: the first layer becomes the last |
| other part | an encoder or vision tower cut by its name under `modules:`, the rest carried |

*refused* means that the plan says so, with the key of the config that cannot describe the layers, or a tensor whose shape
depends on their number.

"""
