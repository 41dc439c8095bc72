"""Every method's output equals its formula, computed in float64 with numpy, whatever the input dtype.

At float32 output the relative Frobenius error is at most 1e-6. At bfloat16 output at least 99.9 % of the elements are
the float64 result rounded to bfloat16, or its neighbour where the float32 result lies at the rounding border.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.methods import methods
from tests.merging import merged_tensors
from tests.method_support import Case, relative_error
from tests.philox import philox
from tests.synthetic import read_tensors, write_llama

PAIR = {"weight": [0.37, 0.9]}
TRIPLE = {"weight": [0.37, 0.9, 0.2]}
MIXED = {"weight": [0.37, -0.9, 0.5], "density": [0.3, 0.55, 0.8]}

CASES: dict[str, Case] = {
    "scaled passthrough": Case("passthrough", "a", per_model={"scale": [1.7]}),
    "linear": Case("linear", "abc", per_model=TRIPLE),
    "linear of one": Case("linear", "a", per_model={"weight": [0.5]}, whole={"normalize": False}),
    "linear unnormalised": Case("linear", per_model=PAIR, whole={"normalize": False}),
    "slerp": Case("slerp", base="a", whole={"t": 0.3}),
    "slerp from the second": Case("slerp", base="b", whole={"t": 0.3}),
    "slerp with an unlisted base": Case("slerp", "b", base="a", whole={"t": 0.6}),
    "slerp beyond the ends": Case("slerp", "b", base="a", whole={"t": 1.4}),
    "nuslerp": Case("nuslerp", per_model=PAIR),
    "nuslerp of task vectors": Case("nuslerp", base="base", per_model=PAIR),
    "nuslerp with a listed base": Case("nuslerp", ["a", "base", "b"], base="base", per_model=PAIR),
    "nuslerp with weights that sum to zero": Case("nuslerp", per_model={"weight": [0.5, -0.5]}),
    "nuslerp by rows": Case("nuslerp", per_model=PAIR, whole={"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    "nuslerp by columns": Case("nuslerp", per_model=PAIR, whole={"nuslerp_flatten": False}),
    "nuslerp of task vectors by rows": Case(
        "nuslerp", base="base", per_model=PAIR, whole={"nuslerp_flatten": False, "nuslerp_row_wise": True}
    ),
    "nuslerp of task vectors by columns": Case(
        "nuslerp", base="base", per_model=PAIR, whole={"nuslerp_flatten": False}
    ),
    "multislerp": Case("multislerp", "abc", per_model=TRIPLE),
    "multislerp of task vectors": Case("multislerp", "abc", base="base", per_model=TRIPLE),
    "multislerp unnormalised": Case("multislerp", per_model=PAIR, whole={"normalize_weights": False}),
    "karcher of two": Case("karcher"),
    "karcher of three": Case("karcher", "abc"),
    "karcher of the base and two far from it": Case("karcher", ["base", "far", "a"]),
    "karcher after one step": Case("karcher", ["base", "far", "a"], whole={"max_iter": 1}),
    "karcher without a step": Case("karcher", ["base", "far", "a"], whole={"max_iter": 0}),
    "model_stock": Case("model_stock", base="base"),
    "model_stock of three": Case("model_stock", "abc", base="base"),
    "model_stock by rows": Case("model_stock", "abc", base="base", whole={"filter_wise": True}),
    "nearswap": Case("nearswap", "a", base="base", whole={"t": 0.02}),
    "arcee_fusion": Case("arcee_fusion", "a", base="base"),
    "task_arithmetic": Case("task_arithmetic", base="base", per_model=PAIR, whole={"lambda": 0.7}),
    "task_arithmetic normalised": Case("task_arithmetic", base="base", per_model=PAIR, whole={"normalize": True}),
    "ties": Case("ties", base="base", per_model=PAIR, whole={"density": 0.4, "lambda": 1.3}),
    "ties, each its own": Case("ties", "abc", base="base", per_model=MIXED),
    "ties with a negative weight": Case(
        "ties", base="base", per_model={"weight": [0.37, -0.9]}, whole={"density": 0.5, "normalize": False}
    ),
    "ties rescaled": Case("ties", base="base", per_model=PAIR, whole={"density": 0.25, "rescale": True}),
    "ties rescaled by the share": Case("ties", "abc", base="base", per_model=MIXED, whole={"rescale": "paper"}),
    "ties at full density": Case("ties", base="base", per_model=PAIR),
    "ties that keep nothing": Case("ties", base="base", per_model=PAIR, whole={"density": 0}),
    "dare_linear": Case("dare_linear", "abc", base="base", per_model=MIXED),
    "dare_linear with a seed": Case("dare_linear", base="base", per_model=PAIR, whole={"density": 0.5}, seed=7),
    "dare_linear rescaled by the probability": Case(
        "dare_linear", "abc", base="base", per_model=MIXED, whole={"rescale": "paper"}
    ),
    "dare_ties": Case("dare_ties", "abc", base="base", per_model=MIXED, whole={"lambda": 0.6}),
    "dare_ties normalised, not rescaled": Case(
        "dare_ties", "abc", base="base", per_model=MIXED, whole={"normalize": True, "rescale": False}
    ),
    "breadcrumbs": Case("breadcrumbs", base="base", per_model=PAIR | {"gamma": [0.1, 0.03]}, whole={"density": 0.6}),
    "breadcrumbs as it comes": Case("breadcrumbs", base="base", per_model=PAIR),
    "breadcrumbs with little to drop": Case(
        "breadcrumbs", base="base", per_model=PAIR, whole={"density": 0.95, "gamma": 0.1}
    ),
    "breadcrumbs_ties": Case("breadcrumbs_ties", "abc", base="base", per_model=MIXED, whole={"gamma": 0.05}),
    "breadcrumbs_ties rescaled": Case(
        "breadcrumbs_ties", "abc", base="base", per_model=MIXED, whole={"gamma": 0.05, "rescale": True}
    ),
    "della_linear": Case("della_linear", "abc", base="base", per_model=MIXED),
    "della_linear rescaled by the probability": Case(
        "della_linear", "abc", base="base", per_model=MIXED, whole={"rescale": "paper", "epsilon": 0.1}
    ),
    "della": Case("della", "abc", base="base", per_model=MIXED, seed=3),
    "della unnormalised, not rescaled": Case(
        "della", "abc", base="base", per_model=MIXED, whole={"normalize": False, "rescale": False, "epsilon": 0.4}
    ),
    "sce": Case("sce", "abc", base="base"),
    "sce of a part": Case("sce", "abc", base="base", whole={"select_topk": 0.35}),
    "ram": Case("ram", "abc", base="base", whole={"epsilon": 0.05}),
    "ramplus_tl": Case("ramplus_tl", "abc", base="base", whole={"epsilon": 0.05}),
    "ramplus_tl with a low bound": Case(
        "ramplus_tl", "abc", base="base", whole={"epsilon": 0.07, "r": 0.5, "alpha": 10}
    ),
}


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, three siblings close to it, as fine-tunes are, and one far; magnitudes of differences repeat at 16 bits."""
    root = tmp_path_factory.mktemp("family")
    base = write_llama(root / "base", layers=1, dtype=request.param)
    siblings = {}
    for number, (name, distance) in enumerate({"a": 0.05, "b": 0.05, "c": 0.08, "far": 1.5}.items(), start=1):
        generator = torch.Generator().manual_seed(number)
        moved = {
            key: (value.float() + distance * torch.randn(value.shape, generator=generator)).to(value.dtype)
            for key, value in read_tensors(base).items()
        }
        siblings[name] = write_llama(root / name, layers=1, dtype=request.param, edit=moved, shards=2)
    return {"base": base, **siblings}


@pytest.fixture(scope="module")
def values(family: dict[str, Path]) -> dict[str, dict[str, np.ndarray]]:
    """Float64 inputs by tensor, then by model."""
    tensors = {model: read_tensors(path) for model, path in family.items()}
    return {name: {model: tensors[model][name].double().numpy() for model in tensors} for name in tensors["base"]}


def test_every_method_has_a_case() -> None:
    assert {case.method for case in CASES.values()} == set(methods())


@pytest.mark.parametrize("case", CASES)
def test_float32_output_equals_the_formula(case: str, family, values, tmp_path: Path) -> None:
    result = merged_tensors(CASES[case].recipe(family), tmp_path)
    assert set(result) == set(values)
    for name, tensor in result.items():
        assert tensor.dtype == torch.float32
        error = relative_error(tensor.double().numpy(), CASES[case].expected(name, values[name]))
        assert error <= 1e-6, name


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_output_is_the_formula_rounded_once(case: str, family, values, tmp_path: Path) -> None:
    off = total = 0
    for name, tensor in merged_tensors(CASES[case].recipe(family, "bfloat16"), tmp_path).items():
        assert tensor.dtype == torch.bfloat16
        expected = torch.from_numpy(CASES[case].expected(name, values[name])).to(torch.bfloat16)
        steps = (tensor.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
        farthest, distance = int(steps.max()), float((tensor.float() - expected.float()).abs().max())
        assert farthest <= 1 or distance < 1e-6, name
        off += int((steps > 0).sum())
        total += tensor.numel()
    assert off <= total / 1000


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_oracle_of_random_masks_gives_the_published_words(counter: str, key: str, block: str) -> None:
    """Known answers of Random123 (kat_vectors, philox4x32 10), the reference implementation of the paper."""
    numbers = [[int(word, 16) for word in words.split()] for words in (counter, key, block)]
    assert philox(np.array([numbers[0]], dtype=np.uint32), tuple(numbers[1])).tolist() == [numbers[2]]
