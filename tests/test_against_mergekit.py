"""The same recipes through mergekit 0.1.5 and through this engine give the same tensors.

Where they do not, ``docs/mergekit.md`` says why; those cases are at the end of this file.
"""

from __future__ import annotations

import math
from pathlib import Path
from string import Template

import pytest
import torch

from merge_assets.errors import MergeAssetsError
from tests import peer
from tests.merging import merged_tensors
from tests.peer_recipes import DENSITY, DIFFERENT, EPSILON, EQUAL, RANDOM, REFUSED
from tests.synthetic import read_tensors, write_llama

pytestmark = pytest.mark.peer

Tensors = dict[str, torch.Tensor]

LAYERS = 6
BIAS = "model.layers.0.self_attn.q_proj.bias"
TOLERANCE = 1e-5
MOVES = {"one": 0.3, "two": 0.3, "three": 0.3, "near": 0.01}
"""Checkpoints by the standard deviation of their differences to the base, whose values have one of 1."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    found = {"base": str(write_llama(folder / "base", LAYERS, dtype=torch.float32))}
    for seed, (name, move) in enumerate(MOVES.items(), 1):
        generator = torch.Generator().manual_seed(seed)
        moved = {
            key: value + move * torch.randn(value.shape, generator=generator)
            for key, value in read_tensors(folder / "base").items()
        }
        found[name] = str(write_llama(folder / name, LAYERS, dtype=torch.float32, edit=moved))
    one = read_tensors(folder / "one")
    edits = {
        "zero": {key: torch.zeros_like(value) for key, value in one.items()},
        "nan": one | {"lm_head.weight": one["lm_head.weight"].clone()},
        "bias": one | {BIAS: torch.ones(16)},
    }
    edits["nan"]["lm_head.weight"][0, 0] = float("nan")
    for name, edit in edits.items():
        found[name] = str(write_llama(folder / name, LAYERS, dtype=torch.float32, edit=edit))
    return found


@pytest.fixture(scope="module")
def mergekit(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | peer.PeerError]:
    """What mergekit makes of every recipe."""
    asked = EQUAL | RANDOM | DIFFERENT | {name: recipe for name, (recipe, _) in REFUSED.items()}
    recipes = {name: text(recipe, models) for name, recipe in asked.items()}
    return peer.answers(recipes, tmp_path_factory.mktemp("mergekit"))


def text(recipe: str, models: dict[str, str]) -> str:
    return Template(recipe).substitute(models) + "dtype: float32\n"


def theirs(mergekit: dict[str, Path | peer.PeerError], name: str) -> Tensors:
    found = mergekit[name]
    if isinstance(found, peer.PeerError):
        raise found
    return read_tensors(found)


def difference(ours: torch.Tensor, other: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((ours.double() - other.double()).norm() / other.double().norm().clamp(min=1e-30))


@pytest.mark.parametrize("name", EQUAL)
def test_every_tensor_is_what_mergekit_makes(name, models, mergekit, tmp_path):
    expected = theirs(mergekit, name)
    merged = merged_tensors(text(EQUAL[name], models), tmp_path)
    assert {key: (value.shape, value.dtype) for key, value in merged.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }
    far = {key: difference(merged[key], value) for key, value in expected.items()}
    assert {key: error for key, error in far.items() if error > TOLERANCE} == {}


def thinned(tensors: Tensors, models: dict[str, str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The dense and the thinned task vector of each tensor, as rows."""
    base, one = read_tensors(Path(models["base"])), read_tensors(Path(models["one"]))
    return [
        ((one[key] - base[key]).reshape(-1, base[key].shape[-1]), (value - base[key]).reshape(-1, base[key].shape[-1]))
        for key, value in sorted(tensors.items())
    ]


def kept(pairs: list[tuple[torch.Tensor, torch.Tensor]], *, larger: bool | None = None) -> tuple[int, int]:
    """Elements kept and elements in all, of the larger or smaller half of every row or of both."""
    count = total = 0
    for dense, sparse in pairs:
        rank = dense.abs().argsort(dim=1).argsort(dim=1)
        half = rank.ge(dense.shape[1] // 2) if larger else rank.lt(dense.shape[1] // 2)
        chosen = torch.ones_like(half) if larger is None else half
        count += int(((sparse != 0) & chosen).sum())
        total += int(chosen.sum())
    return count, total


@pytest.mark.parametrize("name", [name for name in RANDOM if name.endswith("thinned")])
@pytest.mark.parametrize("larger", [None, True, False], ids=["all", "larger half", "smaller half"])
def test_a_random_method_keeps_as_much_as_mergekit(name, larger, models, mergekit, tmp_path):
    """Within five standard deviations of the two counts' difference; della keeps more of the larger elements."""
    mine, total = kept(thinned(merged_tensors(text(RANDOM[name], models), tmp_path), models), larger=larger)
    other, _ = kept(thinned(theirs(mergekit, name), models), larger=larger)
    assert abs(mine - other) < 5 * (2 * total * DENSITY * (1 - DENSITY)) ** 0.5
    shift = 0 if larger is None or name.startswith("dare") else EPSILON / 2 if larger else -EPSILON / 2
    assert mine / total == pytest.approx(DENSITY + shift, abs=0.03)


@pytest.mark.parametrize("name", [name for name in RANDOM if name.endswith("rescaled")])
def test_a_rescaled_random_method_has_the_norm_of_mergekits(name, models, mergekit, tmp_path):
    """Both keep the L1 norm of every dense task vector."""
    mine = thinned(merged_tensors(text(RANDOM[name], models), tmp_path), models)
    other = thinned(theirs(mergekit, name), models)
    for (dense, ours), (_, sparse) in zip(mine, other, strict=True):
        assert float(ours.abs().sum()) == pytest.approx(float(dense.abs().sum()), rel=1e-4)
        assert float(sparse.abs().sum()) == pytest.approx(float(dense.abs().sum()), rel=1e-4)


# -- differences, as docs/mergekit.md lists them -----------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_mergekit_runs_without_a_word_is_an_error_here(name, models, mergekit, tmp_path):
    recipe, message = REFUSED[name]
    assert theirs(mergekit, name)
    with pytest.raises(MergeAssetsError, match=message):
        merged_tensors(text(recipe, models), tmp_path)


@pytest.mark.parametrize(("ours", "other"), [("rows", "columns"), ("columns", "rows")])
def test_rows_of_nuslerp_are_mergekits_columns(ours, other, models, mergekit, tmp_path):
    merged = merged_tensors(text(DIFFERENT[f"nuslerp: {ours}"], models), tmp_path)
    expected = theirs(mergekit, f"nuslerp: {other}")
    assert max(difference(merged[key], value) for key, value in expected.items()) < TOLERANCE
    same = theirs(mergekit, f"nuslerp: {ours}")
    assert difference(merged["lm_head.weight"], same["lm_head.weight"]) > 1e-3


def test_slerp_from_a_zero_vector_is_straight(models, mergekit, tmp_path):
    """mergekit gives the vector no direction but an angle of 90 degrees: sin(t·90°) instead of t."""
    one = read_tensors(Path(models["one"]))
    other = theirs(mergekit, "slerp: zero vector")
    for key, value in merged_tensors(text(DIFFERENT["slerp: zero vector"], models), tmp_path).items():
        assert difference(value, 0.3 * one[key]) < TOLERANCE
        assert difference(other[key], math.sin(0.3 * math.pi / 2) * one[key]) < TOLERANCE


def test_layers_of_one_model_can_be_averaged(models, mergekit, tmp_path):
    assert isinstance(mergekit["two layers of one model"], peer.PeerError)
    one = read_tensors(Path(models["one"]))
    merged = merged_tensors(text(DIFFERENT["two layers of one model"], models), tmp_path)
    key = "model.layers.{}.mlp.up_proj.weight"
    for layer in range(3):
        mean = (one[key.format(layer)] + one[key.format(layer + 3)]) / 2
        assert difference(merged[key.format(layer)], mean) < TOLERANCE


def test_every_model_of_the_last_slice_takes_part_in_the_head(models, mergekit, tmp_path):
    """mergekit takes head and final norm from the models of the first slice."""
    one, two = read_tensors(Path(models["one"])), read_tensors(Path(models["two"]))
    merged = merged_tensors(text(DIFFERENT["more models in the last slice"], models), tmp_path)
    other = theirs(mergekit, "more models in the last slice")
    for key in ("lm_head.weight", "model.norm.weight"):
        assert difference(merged[key], (one[key] + two[key]) / 2) < TOLERANCE
        assert difference(other[key], one[key]) < TOLERANCE


def test_a_tensor_that_mergekit_drops_is_kept(models, mergekit, tmp_path):
    merged = merged_tensors(text(DIFFERENT["tensor of no template"], models), tmp_path)
    assert torch.equal(merged[BIAS], torch.ones(16))
    assert BIAS not in theirs(mergekit, "tensor of no template")


def test_ties_keeps_no_element_where_the_density_gives_less_than_one(models, mergekit, tmp_path):
    """mergekit keeps one."""
    base = read_tensors(Path(models["base"]))
    key = "model.norm.weight"
    merged = merged_tensors(text(DIFFERENT["ties: less than one element"], models), tmp_path)
    assert torch.equal(merged[key], base[key])
    assert int((theirs(mergekit, "ties: less than one element")[key] != base[key]).sum()) == 1


def test_della_cuts_probabilities_off_at_0_and_1(models, mergekit, tmp_path):
    assert "Epsilon must be chosen" in str(mergekit["della: probabilities beyond 0 and 1"])
    assert merged_tensors(text(DIFFERENT["della: probabilities beyond 0 and 1"], models), tmp_path)
