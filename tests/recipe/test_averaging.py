"""Contract: the weights of averaged checkpoints are those of the decay curve that the recipe names, written out as models."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.recipe import Exponential, checkpoint_weights, to_mergekit, written_out
from merge_assets.recipe.schema_averaging import CheckpointListing
from merge_assets.reference import ModelReference
from tests.recipe_support import read

DECAYS = st.sampled_from(["constant", "linear", "cosine"]) | st.floats(
    0, 1, exclude_min=True, exclude_max=True, allow_subnormal=False
).map(lambda rate: Exponential(exponential=rate))
AVERAGE = "merge_method: linear\naverage_checkpoints: "


def curve(decay: object, j: int, count: int) -> float:
    """w_j of the paper, in float64."""
    if isinstance(decay, Exponential):
        return decay.exponential**j
    return (1 + math.cos(math.pi * j / count)) / 2 if decay == "cosine" else 1 - j / count


@given(DECAYS, st.integers(2, 60))
def test_the_weights_are_those_of_the_paper(decay, count):
    """Oracle: c_0 = 1 - w_1, c_j = w_j - w_(j+1), c_k = w_k (2507.17634), as far as a power in float64 is right."""
    k = count - 1
    w = [curve(decay, j, count) for j in range(count)]
    expected = [1 - w[1], *(w[j] - w[j + 1] for j in range(1, k)), w[k]]
    assert checkpoint_weights(decay, count) == pytest.approx(expected, rel=0, abs=1e-14)


@given(DECAYS, st.integers(2, 256))
def test_they_are_a_mean_whose_curve_never_rises(decay, count):
    weights = checkpoint_weights(decay, count)
    assert len(weights) == count and all(weight >= 0 for weight in weights)
    assert math.fsum(weights) == pytest.approx(1, rel=0, abs=1e-14)
    heights = [math.fsum(weights[j:]) for j in range(count)]
    assert heights == sorted(heights, reverse=True)


@given(st.integers(2, 256))
def test_a_constant_decay_is_the_mean_and_so_is_a_straight_line_to_zero(count):
    assert checkpoint_weights("constant", count) == checkpoint_weights("linear", count) == (1 / count,) * count


@given(st.integers(2, 256))
def test_a_cosine_takes_most_of_the_middle_and_both_sides_alike(count):
    weights = checkpoint_weights("cosine", count)
    assert weights == weights[::-1]
    assert list(weights[: (count + 1) // 2]) == sorted(weights[: (count + 1) // 2])


def test_weights_worked_out_by_hand():
    half = math.sqrt(2) / 2
    assert checkpoint_weights("cosine", 4) == pytest.approx([(1 - half) / 2, half / 2, half / 2, (1 - half) / 2])
    assert checkpoint_weights(Exponential(exponential=0.5), 4) == (0.5, 0.25, 0.125, 0.125)
    assert checkpoint_weights(Exponential(exponential=0.9), 3) == (0.1, 0.09, 0.81), (
        "as one writes them, without rounding errors"
    )


def listed(folder, text, *names, last=None):
    """The recipe of a folder that was found to hold these."""
    recipe = read(folder, text)
    template = recipe.average_checkpoints
    found = CheckpointListing(
        template.folder, last, tuple(ModelReference(f"{template.folder}/{name}") for name in names)
    )
    return recipe.model_copy(update={"average_checkpoints": template.listed(found)})


def test_models_are_written_out_oldest_first_with_their_weights(tmp_path):
    recipe = read(tmp_path, AVERAGE + "{models: [a, b, c, d], last: 3, decay: {exponential: 0.5}}\ndtype: float32\n")
    assert [str(model) for model in recipe.references()] == ["b", "c", "d"]
    expected = """\
models:
- model: b
  parameters:
    weight: 0.5
- model: c
  parameters:
    weight: 0.25
- model: d
  parameters:
    weight: 0.25
merge_method: linear
parameters:
  normalize: false
dtype: float32
"""
    assert to_mergekit(recipe) == expected
    assert [key for key, _ in recipe.mentions()] == [f"average_checkpoints.models[{n}]" for n in (1, 2, 3)]
    assert read(tmp_path, expected).digest == written_out(recipe).digest, "what is written out is that recipe"


def test_the_folder_of_a_run_stands_for_what_it_was_found_to_hold(tmp_path):
    text = AVERAGE + "{folder: runs/a+b, last: 2}\n"
    assert read(tmp_path, text).references() == ()
    recipe = listed(tmp_path, text, "checkpoint-900", "checkpoint-1000", last=2)
    assert [model.path for model in recipe.references()] == ["runs/a+b/checkpoint-900", "runs/a+b/checkpoint-1000"]
    entries = yaml.safe_load(to_mergekit(recipe))["models"]
    assert [entry["parameters"]["weight"] for entry in entries] == [0.5, 0.5]
    assert {key for key, _ in recipe.mentions()} == {"average_checkpoints.folder"}
    more = listed(tmp_path, text, "checkpoint-1000", "checkpoint-1100", last=2)
    assert more.digest != recipe.digest, "other checkpoints make another variant"
