"""Laws that hold for whole families of methods, whatever the weights are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets.engine import execute as executor
from merge_assets.methods import methods
from tests.merging import merge_text
from tests.method_support import Array, Case, as_doubles, merge_arrays, relative_error
from tests.methods.built_in import gathered
from tests.synthetic import llama_config, read_tensors, write_checkpoint

few = settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])

Models = dict[str, dict[str, Array]]

CASES: dict[str, Case] = gathered("TYPICAL")
SPARSE = [name for name, case in CASES.items() if "density" in case.whole]
RESCALED = [name for name in SPARSE if methods()[name].parameter("rescale")]


@st.composite
def families(draw: st.DrawFn) -> Models:
    """A base and three siblings of any size and closeness, with tensors of one, two and no dimensions."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    size, distance = draw(st.sampled_from([1e-3, 1.0, 50.0])), draw(st.sampled_from([1e-3, 0.1, 1.0]))
    shapes = {"vector": (rows * width,), "matrix": (rows, width), "scalar": ()}
    base = {name: size * random.normal(size=shape) for name, shape in shapes.items()}
    moved = {
        model: {name: value + size * distance * random.normal(size=value.shape) for name, value in base.items()}
        for model in "abc"
    }
    return {model: as_doubles(tensors) for model, tensors in {"base": base, **moved}.items()}


def merged(case: Case, models: Models, **options: Any) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as folder:
        return merge_arrays(case, models, Path(folder), **options)


def assert_close(result: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 1e-6) -> None:
    for name, value in expected.items():
        assert relative_error(result[name], value) <= tolerance, name


def assert_equal(result: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, value in expected.items():
        assert (result[name] == value).all(), name


# -- the ends ----------------------------------------------------------------------------------------------------------


@few
@given(families())
def test_slerp_and_nearswap_at_the_ends_are_the_inputs(models: Models) -> None:
    assert_equal(merged(Case("slerp", "a", base="base", whole={"t": 0}), models), models["base"])
    assert_equal(merged(Case("slerp", "a", base="base", whole={"t": 1}), models), models["a"])
    assert_equal(merged(Case("nearswap", "a", base="base", whole={"t": 0}), models), models["base"])
    assert_equal(merged(Case("nearswap", "a", base="base", whole={"t": 1e9}), models), models["a"])


@few
@given(families(), st.sampled_from([None, "base"]), st.sampled_from([{}, {"nuslerp_row_wise": True}, {"flat": True}]))
def test_nuslerp_with_one_weight_is_that_input(models: Models, base: str | None, way: dict[str, bool]) -> None:
    whole = {} if "flat" in way else {"nuslerp_flatten": False, **way}
    for weight, model in ([1, 0], "a"), ([0, 1], "b"):
        result = merged(Case("nuslerp", base=base, per_model={"weight": weight}, whole=whole), models)
        assert_close(result, models[model], 1e-7)


# -- order of the models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [name for name, case in CASES.items() if len(case.models) == 3 and not methods()[case.method].random],
)
@few
@given(families(), st.sampled_from(list(permutations(range(3)))[1:]))
def test_the_order_of_the_models_does_not_matter(case: str, models: Models, order: tuple[int, ...]) -> None:
    plain = CASES[case]
    turned = replace(
        plain,
        models=[plain.models[place] for place in order],
        per_model={key: [values[place] for place in order] for key, values in plain.per_model.items()},
    )
    assert_close(merged(turned, models), merged(plain, models), 1e-6)


# -- density and rescaling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPARSE)
@few
@given(models=families())
def test_full_density_keeps_everything(name: str, models: Models) -> None:
    """Without an election that is task arithmetic, with one it is ties of whole task vectors."""
    per_model = CASES[name].per_model
    dense = Case(name, "abc", base="base", per_model=per_model, whole={"density": 1, "normalize": True})
    elects = name == "della" or name.endswith("ties")
    same = replace(dense, method="ties" if elects else "task_arithmetic", whole={"normalize": True})
    assert_equal(merged(dense, models), merged(same, models))


@pytest.mark.parametrize("name", RESCALED)
@few
@given(families(), st.floats(0.1, 0.9))
def test_rescaling_keeps_the_l1_norm_of_a_task_vector(name: str, models: Models, density: float) -> None:
    whole = {"density": density, "rescale": True, "normalize": False}
    alone = Case(name, "a", base="base", per_model={"weight": [1]}, whole=whole)
    models = {"base": {key: np.zeros_like(value) for key, value in models["base"].items()}, "a": models["a"]}
    for key, result in merged(alone, models).items():
        if result.any():  # else nothing was kept that could be made larger
            assert np.abs(result).sum() == pytest.approx(np.abs(models["a"][key]).sum(), rel=1e-6)


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della_linear", "della"])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.83])
def test_masks_keep_what_they_should_on_average(name: str, density: float, tmp_path: Path) -> None:
    """Within five standard deviations, for two models and tensors whose masks have nothing to do with each other."""
    shape, count = (100, 1000), 100_000
    models = {"base": {"x": np.zeros(shape), "y": np.zeros(shape)}}
    models |= {model: {"x": np.ones(shape), "y": np.ones(shape)} for model in "ab"}
    whole = {"density": density, "rescale": False, "normalize": False}
    if name.startswith("della"):
        whole["epsilon"] = min(density, 1 - density) / 2
    case = Case(name, "ab", base="base", per_model={"weight": [1, 3]}, whole=whole)
    result = merge_arrays(case, models, tmp_path)
    # With weights 1 and 3 an element is 1 where the first model's was kept, plus 3 where the second's was.
    masks = [mask.ravel() for value in result.values() for mask in (value % 3, value // 3)]
    spread = 5 * np.sqrt(count * density * (1 - density))
    for mask in masks:
        assert abs(mask.sum() - count * density) <= spread
    for first in range(len(masks)):
        for second in range(first):
            both = density**2 if name.startswith("dare") else density**2 + (whole["epsilon"] ** 2) / 3
            assert abs((masks[first] * masks[second]).sum() - count * both) <= 5 * np.sqrt(count * both * (1 - both))


# -- how it is computed ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tensors whose sizes no tile divides, one of them longer than the blocks that sums are taken over."""
    import torch

    root, random = tmp_path_factory.mktemp("models"), torch.Generator().manual_seed(1)
    shapes = {"long": (521, 523), "tall": (1503, 3), "wide": (3, 2741), "flat": (4099,), "one": (1,), "scalar": ()}
    base = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    paths = {"base": write_checkpoint(root / "base", base, llama_config(0))}
    for model in "abc":
        moved = {name: value + 0.05 * torch.randn(value.shape, generator=random) for name, value in base.items()}
        paths[model] = write_checkpoint(root / model, moved, llama_config(0))
    return paths


@pytest.mark.parametrize("case", CASES)
def test_tiles_threads_jobs_and_shards_change_no_bit(
    case: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CASES[case].recipe(folders)
    plain = read_tensors(merge_text(text, tmp_path, threads=1))
    for job_bytes, options in [
        (executor._JOB_BYTES, {"threads": 3, "tile": 1024}),
        (executor._JOB_BYTES, {"threads": 2, "tile": 30_011, "shard_size": 20_000}),
        (50_000, {"threads": 2, "tile": 5003}),
    ]:
        monkeypatch.setattr(executor, "_JOB_BYTES", job_bytes)
        other = read_tensors(merge_text(text, tmp_path, **options))
        assert set(other) == set(plain)
        for name, tensor in plain.items():
            assert tensor.numpy().tobytes() == other[name].numpy().tobytes(), (name, options)


def test_every_method_is_looked_at() -> None:
    assert {case.method for case in CASES.values()} == set(methods())
