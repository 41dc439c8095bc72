"""Every method's output equals its formula, computed in float64 with numpy, whatever the input dtype.

At float32 output the relative Frobenius error is at most 1e-6. At bfloat16 output at least 99.9 % of the elements are
the float64 result rounded to bfloat16, or its neighbour where the float32 result lies at the rounding border.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.engine.rounding import rounded
from merge_assets.methods import methods
from tests.merging import merged_tensors
from tests.method_support import Case, relative_error
from tests.methods.built_in import gathered
from tests.philox import philox
from tests.synthetic import read_tensors, write_llama

CASES: dict[str, Case] = gathered("CASES")


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
        # Torch's own way from float64 to bfloat16 rounds twice; tests/engine/test_rounding.py has the oracle of this one.
        expected, _ = rounded(torch.from_numpy(CASES[case].expected(name, values[name])), "BF16")
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
