"""What the methods make of the cases that their formulas leave open or that are easily got wrong: always a number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_assets.errors import EngineError, PlanError
from merge_assets.methods import methods
from tests.method_support import Array, Case, as_doubles, merge_arrays, relative_error
from tests.methods.built_in import gathered

WEIGHTS = {"weight": [0.4, 0.6]}
ROWS = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
COLUMNS = {"nuslerp_flatten": False}

CASES: dict[str, Case] = gathered("TYPICAL")
MEANS: dict[str, Case] = {
    "linear": Case("linear", per_model=WEIGHTS),
    "slerp": Case("slerp", base="a", whole={"t": 0.4}),
    "nuslerp": Case("nuslerp", per_model=WEIGHTS),
    "nuslerp by rows": Case("nuslerp", per_model=WEIGHTS, whole=ROWS),
    "nuslerp by columns": Case("nuslerp", per_model=WEIGHTS, whole=COLUMNS),
    "nuslerp with a base": Case("nuslerp", base="base", per_model=WEIGHTS),
    "multislerp": Case("multislerp", per_model=WEIGHTS),
    "multislerp with a base": Case("multislerp", base="base", per_model=WEIGHTS),
    "karcher": Case("karcher"),
    "model_stock": Case("model_stock", base="base"),
    "model_stock by rows": Case("model_stock", base="base", whole={"filter_wise": True}),
}
SHAPES = {"matrix": (6, 7), "vector": (9,), "row": (1, 5), "column": (8, 1), "cube": (3, 4, 5), "scalar": ()}


def family(seed: int = 0, distance: float = 0.1) -> dict[str, dict[str, Array]]:
    """A base and three siblings with a tensor of every shape."""
    random = np.random.default_rng(seed)
    base = as_doubles({name: random.normal(size=shape) for name, shape in SHAPES.items()})
    siblings = {
        model: as_doubles({name: value + distance * random.normal(size=value.shape) for name, value in base.items()})
        for model in "abc"
    }
    return {"base": base, **siblings}


def expected(case: Case, models: dict[str, dict[str, Array]], name: str) -> Array:
    return case.expected(name, {model: values[name] for model, values in models.items()})


def test_every_method_is_looked_at() -> None:
    assert {case.method for case in CASES.values()} == set(methods())


@pytest.mark.parametrize("case", CASES)
def test_every_shape_follows_the_formula(case: str, tmp_path: Path) -> None:
    """A row is the last dimension; a vector is one row, a scalar a row of one; a column takes one element of each row."""
    models = family()
    result = merge_arrays(CASES[case], models, tmp_path)
    for name in SHAPES:
        assert result[name].shape == SHAPES[name]
        assert relative_error(result[name], expected(CASES[case], models, name)) <= 1e-6, name


@pytest.mark.parametrize("case", MEANS)
def test_a_mean_of_identical_models_is_that_model(case: str, tmp_path: Path) -> None:
    models = family()
    models["b"] = models["a"]
    result = merge_arrays(MEANS[case], models, tmp_path)
    for name, value in models["a"].items():
        assert relative_error(result[name], value) <= 1e-7, name


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.base == "base"])
def test_models_identical_to_the_base_give_the_base(case: str, tmp_path: Path) -> None:
    models = family()
    models["a"] = models["b"] = models["c"] = models["base"]
    result = merge_arrays(CASES[case], models, tmp_path)
    for name, value in models["base"].items():
        assert (result[name] == value).all(), name


@pytest.mark.parametrize(
    "case",
    [
        Case("linear", "a", per_model={"weight": [0.3]}),
        Case("multislerp", "a", per_model={"weight": [0.3]}),
        Case("multislerp", "a", base="base", per_model={"weight": [0.3]}),
        Case("karcher", "a"),
        Case("task_arithmetic", "a", base="base", per_model={"weight": [1]}),
        Case("ties", "a", base="base", per_model={"weight": [0.3]}),
        Case("della", "a", base="base", per_model={"weight": [0.3]}),
        Case("sce", "a", base="base"),
        Case("ram", "a", base="base", whole={"epsilon": 0}),
        Case("ramplus_tl", "a", base="base", whole={"epsilon": 0}),
    ],
    ids=lambda case: case.method + (" with a base" if case.base else ""),
)
def test_one_model_alone_stays_what_it_is(case: Case, tmp_path: Path) -> None:
    models = family()
    result = merge_arrays(case, models, tmp_path)
    for name, value in models["a"].items():
        assert relative_error(result[name], value) <= 1e-7, name


@pytest.mark.parametrize(
    ("case", "share"),
    [
        (Case("slerp", base="a", whole={"t": 0.4}), 0.4),  # the straight line
        (Case("nuslerp", per_model=WEIGHTS), np.sin(0.6 * np.pi / 2)),  # a right angle
        (Case("nuslerp", per_model=WEIGHTS, whole=ROWS), np.sin(0.6 * np.pi / 2)),
        (Case("nuslerp", per_model=WEIGHTS, whole=COLUMNS), np.sin(0.6 * np.pi / 2)),
        (Case("multislerp", per_model=WEIGHTS), 0.6),  # the weighted norm in the only direction
        (Case("karcher"), 0.5),
        (Case("model_stock", base="a", models="abc"), 0.0),  # in its base's place: see below
    ],
    ids=lambda value: value.method if isinstance(value, Case) else "",
)
def test_a_zero_tensor_has_no_direction(case: Case, share: float, tmp_path: Path) -> None:
    models = family()
    models["a"] = {name: np.zeros_like(value) for name, value in models["a"].items()}
    if case.method == "model_stock":
        models["c"] = {name: -value for name, value in models["b"].items()}  # opposite task vectors: no ratio either
    result = merge_arrays(case, models, tmp_path)
    for name, value in models["b"].items():
        assert np.abs(result[name] - share * value).max() <= 1e-6, name


@pytest.mark.parametrize("case", [name for name, case in MEANS.items() if case.base in (None, "a")])
def test_opposite_tensors_give_numbers(case: str, tmp_path: Path) -> None:
    """Between opposite directions no way is the shortest: slerp and nuslerp take the straight line, karcher stays at the
    first direction, multislerp follows the heavier one."""
    models = family()
    models["b"] = {name: -value for name, value in models["a"].items()}
    result = merge_arrays(MEANS[case], models, tmp_path)
    for name, value in models["a"].items():
        share = {"slerp": 0.2, "karcher": 1.0, "multislerp": -1.0}.get(MEANS[case].method, -0.2)
        assert relative_error(result[name], share * value) <= 1e-6, name


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("case", MEANS)
def test_models_close_to_each_other_lose_no_digits(case: str, distance: float, tmp_path: Path) -> None:
    """Angles from inner products lose digits where vectors are nearly parallel; the result must not."""
    models = family(distance=distance)
    result = merge_arrays(MEANS[case], models, tmp_path)
    for name in ("matrix", "cube"):
        assert relative_error(result[name], expected(MEANS[case], models, name)) <= 1e-7, name


@pytest.mark.parametrize("case", ["ties", "breadcrumbs", "breadcrumbs_ties", "sce", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", [True, "paper"])
def test_nothing_kept_gives_the_base(case: str, rescale: bool | str, tmp_path: Path) -> None:
    whole = {"select_topk": 0.01} if case == "sce" else {"density": 0.0, "rescale": rescale}
    models = family()
    result = merge_arrays(
        Case(case, base="base", per_model={} if case == "sce" else WEIGHTS, whole=whole), models, tmp_path
    )
    for name, value in models["base"].items():
        assert (result[name] == value).all(), name


@pytest.mark.parametrize("density", [0.1, 0.34, 0.5])
@pytest.mark.parametrize("method", ["ties", "breadcrumbs_ties"])
def test_equal_magnitudes_are_kept_by_position(method: str, density: float, tmp_path: Path) -> None:
    base = np.zeros((5, 6))
    change = np.where(np.arange(30).reshape(5, 6) % 2, 1.0, -1.0)
    case = Case(method, "a", base="base", per_model={"weight": [1]}, whole={"density": density, "gamma": 0.1})
    if method == "ties":
        case = Case(method, "a", base="base", per_model={"weight": [1]}, whole={"density": density})
    result = merge_arrays(case, {"base": {"x": base}, "a": {"x": change}}, tmp_path)["x"].ravel()
    first = 3 if method == "breadcrumbs_ties" else 0
    assert result.nonzero()[0].tolist() == list(range(first, first + int(density * 30)))


@pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-25])
@pytest.mark.parametrize("topk", [1.0, 0.5])
def test_sce_weighs_tiny_task_vectors_like_large_ones(size: float, topk: float, tmp_path: Path) -> None:
    """Squares of such differences vanish in float32."""
    random = np.random.default_rng(4)
    changes = {model: random.normal(size=(6, 7)) * scale for model, scale in {"a": 1, "b": 2, "c": 0.5}.items()}
    models = {model: as_doubles({"x": size * change}) for model, change in changes.items()}
    models["base"] = {"x": np.zeros((6, 7))}
    case = Case("sce", "abc", base="base", whole={"select_topk": topk})
    assert relative_error(merge_arrays(case, models, tmp_path)["x"], expected(case, models, "x")) <= 1e-6


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize("rescale", [False, True, "paper"])
def test_della_ranks_within_rows_of_any_width(method: str, rescale: bool | str, tmp_path: Path) -> None:
    """A row of one element has no ranks; its probability is the density. Magnitudes repeat, and ties go by position."""
    random = np.random.default_rng(5)
    shapes = {"single": (40, 1), "pair": (30, 2), "wide": (3, 97), "flat": (101,), "scalar": ()}
    models = {
        model: as_doubles({name: random.integers(-3, 4, size=shape) / 8 for name, shape in shapes.items()})
        for model in ("base", "a", "b")
    }
    whole = {"density": 0.5, "epsilon": 0.3, "rescale": rescale}
    case = Case(method, base="base", per_model={"weight": [0.7, 0.45]}, whole=whole, seed=11)
    result = merge_arrays(case, models, tmp_path)
    for name in shapes:
        assert np.abs(result[name] - expected(case, models, name)).max() <= 1e-6, name


def test_arcee_fusion_takes_everything_where_nothing_stands_out(tmp_path: Path) -> None:
    """A change that is the same for a whole row leaves its softmax as it is: no importance, and none above it."""
    base = np.arange(12.0).reshape(3, 4)
    result = merge_arrays(
        Case("arcee_fusion", "a", base="base"), {"base": {"x": base}, "a": {"x": base + 0.5}}, tmp_path
    )
    assert (result["x"] == base + 0.5).all()


def test_arcee_fusion_of_extreme_weights_gives_numbers(tmp_path: Path) -> None:
    """Softmax of these is 0 or 1 to the last bit."""
    base = np.array([[-3e4, 0, 5e4], [1e-30, 2e-30, 0]])
    other = np.array([[4e4, -1e4, 0], [0, 1e-30, 3e-30]])
    result = merge_arrays(
        Case("arcee_fusion", "a", base="base"), {"base": {"x": base}, "a": {"x": other}}, tmp_path
    )["x"]  # fmt: skip
    base, other = as_doubles({"x": base})["x"], as_doubles({"x": other})["x"]
    assert ((result == base) | (result == other)).all()
    assert (result[0] == other[0]).any()


@pytest.mark.parametrize(
    ("case", "key"),
    [
        (Case("linear", per_model={"weight": [0.5, -0.5]}), "normalize: false"),
        (Case("multislerp", per_model={"weight": [0.5, -0.5]}), "normalize_weights: false"),
    ],
    ids=["linear", "multislerp"],
)
def test_weights_that_sum_to_zero_are_an_error_that_says_what_to_do(case: Case, key: str, tmp_path: Path) -> None:
    models = {model: {"x": np.ones(3)} for model in "ab"}
    with pytest.raises(PlanError, match=rf"tensor x: the weights \[0\.5, -0\.5\] sum to 0.*{key}"):
        merge_arrays(case, models, tmp_path)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", CASES)
def test_nan_and_infinity_of_an_input_are_reported(case: str, poison: float, tmp_path: Path) -> None:
    """At full density: an element that is left out does no harm."""
    models = family()
    models["a"]["matrix"] = models["a"]["matrix"].copy()
    models["a"]["matrix"][2, 3] = poison
    chosen = CASES[case]
    if "density" in chosen.whole:
        chosen = replace(chosen, whole={"density": 1.0})
    with pytest.raises(EngineError, match="NaN or infinite elements: matrix"):
        merge_arrays(chosen, models, tmp_path)
