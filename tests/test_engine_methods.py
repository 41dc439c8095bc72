"""Every method's output equals its formula, computed in float64 with numpy, whatever the input dtype.

At float32 output the relative Frobenius error is at most 1e-6. At bfloat16 output at least 99.9 % of the elements are
the float64 result rounded to bfloat16, or its neighbour where the float32 result lies at the rounding border.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.merging import merged_tensors
from tests.synthetic import read_tensors, write_llama

Array = npt.NDArray[np.float64]


def linear(x: list[Array], w: list[float], normalize: bool = True) -> Array:
    total = sum(wi * xi for wi, xi in zip(w, x, strict=True))
    return total / sum(w) if normalize else total


def slerp(b: Array, x: Array, t: float) -> Array:
    cosine = float((b * x).sum() / (np.linalg.norm(b) * np.linalg.norm(x)))
    if abs(cosine) > 0.9995:
        return (1 - t) * b + t * x
    theta = np.arccos(cosine)
    return np.sin((1 - t) * theta) / np.sin(theta) * b + np.sin(t * theta) / np.sin(theta) * x


def trimmed(d: Array, density: float) -> Array:
    """The int(density·n) largest magnitudes of a float32 difference; of equal ones, the first."""
    flat = d.ravel()
    keep = np.argsort(-np.abs(flat.astype(np.float32)), kind="stable")[: int(density * flat.size)]
    result = np.zeros_like(flat)
    result[keep] = flat[keep]
    return result.reshape(d.shape)


def ties(
    b: Array,
    x: list[Array],
    w: list[float],
    density: float,
    lam: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
) -> Array:
    dense = [(xi.astype(np.float32) - b.astype(np.float32)).astype(np.float64) for xi in x]
    sparse = [trimmed(d, density) for d in dense]
    if rescale:
        sparse = [s * (np.abs(d).sum() / np.abs(s).sum()) for s, d in zip(sparse, dense, strict=True)]
    weighted = [wi * s for wi, s in zip(w, sparse, strict=True)]
    sign = np.where(sum(weighted) >= 0, 1.0, -1.0)
    agree = [np.sign(s) == sign for s in weighted]
    mix = sum(np.where(a, s, 0) for a, s in zip(agree, weighted, strict=True))
    divisor = sum(wi * a for wi, a in zip(w, agree, strict=True))
    if normalize:
        mix = mix / np.where(divisor == 0, 1, divisor)
    return b + lam * mix


def recipe(method: str, body: str) -> str:
    return f"merge_method: {method}\n{body}"


MODELS = "models:\n  - {{model: {a}, parameters: {{weight: 0.37}}}}\n  - {{model: {b}, parameters: {{weight: 0.9}}}}\n"
WITH_BASE = "base_model: {base}\n"

CASES: dict[str, tuple[str, Callable[[Array, Array, Array], Array]]] = {
    "linear": (recipe("linear", MODELS), lambda base, a, b: linear([a, b], [0.37, 0.9])),
    "linear of one": (
        recipe("linear", "models:\n  - {{model: {a}, parameters: {{weight: 0.5}}}}\nparameters: {{normalize: false}}"),
        lambda base, a, b: 0.5 * a,
    ),
    "linear unnormalised": (
        recipe("linear", MODELS + "parameters: {{normalize: false}}"),
        lambda base, a, b: linear([a, b], [0.37, 0.9], normalize=False),
    ),
    "slerp": (
        recipe("slerp", "models: [{{model: {a}}}, {{model: {b}}}]\nbase_model: {a}\nparameters: {{t: 0.3}}"),
        lambda base, a, b: slerp(a, b, 0.3),
    ),
    "slerp from the second": (
        recipe("slerp", "models: [{{model: {a}}}, {{model: {b}}}]\nbase_model: {b}\nparameters: {{t: 0.3}}"),
        lambda base, a, b: slerp(b, a, 0.3),
    ),
    "slerp with an unlisted base": (
        recipe("slerp", "models: [{{model: {b}}}]\nbase_model: {a}\nparameters: {{t: 0.6}}"),
        lambda base, a, b: slerp(a, b, 0.6),
    ),
    "scaled passthrough": (
        recipe("passthrough", "models: [{{model: {a}, parameters: {{scale: 1.7}}}}]"),
        lambda base, a, b: 1.7 * a,
    ),
    "task_arithmetic": (
        recipe("task_arithmetic", MODELS + WITH_BASE + "parameters: {{lambda: 0.7}}"),
        lambda base, a, b: base + 0.7 * (0.37 * (a - base) + 0.9 * (b - base)),
    ),
    "task_arithmetic normalised": (
        recipe("task_arithmetic", MODELS + WITH_BASE + "parameters: {{normalize: true}}"),
        lambda base, a, b: base + (0.37 * (a - base) + 0.9 * (b - base)) / 1.27,
    ),
    "ties": (
        recipe("ties", MODELS + WITH_BASE + "parameters: {{density: 0.4, lambda: 1.3}}"),
        lambda base, a, b: ties(base, [a, b], [0.37, 0.9], 0.4, lam=1.3),
    ),
    "ties with a negative weight": (
        recipe("ties", MODELS.replace("0.9", "-0.9") + WITH_BASE + "parameters: {{density: 0.5, normalize: false}}"),
        lambda base, a, b: ties(base, [a, b], [0.37, -0.9], 0.5, normalize=False),
    ),
    "ties rescaled": (
        recipe("ties", MODELS + WITH_BASE + "parameters: {{density: 0.25, rescale: true}}"),
        lambda base, a, b: ties(base, [a, b], [0.37, 0.9], 0.25, rescale=True),
    ),
    "ties at full density": (
        recipe("ties", MODELS + WITH_BASE),
        lambda base, a, b: ties(base, [a, b], [0.37, 0.9], 1.0),
    ),
    "ties that keep nothing": (
        recipe("ties", MODELS + WITH_BASE + "parameters: {{density: 0}}"),
        lambda base, a, b: base,
    ),
}


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two siblings close to it, as fine-tunes are; magnitudes of differences repeat often at 16 bits."""
    root = tmp_path_factory.mktemp("family")
    base = write_llama(root / "base", dtype=request.param)
    siblings = {}
    for number, name in enumerate("ab", start=1):
        generator = torch.Generator().manual_seed(number)
        moved = {
            key: (value.float() + 0.05 * torch.randn(value.shape, generator=generator)).to(value.dtype)
            for key, value in read_tensors(base).items()
        }
        siblings[name] = write_llama(root / name, dtype=request.param, edit=moved, shards=2)
    return {"base": base, **siblings}


@pytest.mark.parametrize("case", CASES)
def test_float32_output_equals_the_formula(case: str, family: dict[str, Path], tmp_path: Path) -> None:
    text, formula = CASES[case]
    result = merged_tensors(text.format(**family) + "\ndtype: float32\n", tmp_path)
    inputs = {name: read_tensors(path) for name, path in family.items()}
    for name, tensor in result.items():
        assert tensor.dtype == torch.float32
        expected = formula(*(inputs[model][name].double().numpy() for model in ("base", "a", "b")))
        error = np.linalg.norm(tensor.double().numpy() - expected) / np.linalg.norm(expected)
        assert error <= 1e-6, name
    assert set(result) == set(inputs["a"])


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_output_is_the_formula_rounded_once(case: str, family: dict[str, Path], tmp_path: Path) -> None:
    text, formula = CASES[case]
    result = merged_tensors(text.format(**family) + "\ndtype: bfloat16\n", tmp_path)
    inputs = {name: read_tensors(path) for name, path in family.items()}
    off = total = 0
    for name, tensor in result.items():
        assert tensor.dtype == torch.bfloat16
        expected = torch.from_numpy(
            np.asarray(formula(*(inputs[model][name].double().numpy() for model in ("base", "a", "b"))))
        ).to(torch.bfloat16)
        steps = (tensor.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
        assert int(steps.max()) <= 1 or bool((tensor.float() - expected.float()).abs().max() < 1e-6), name
        off += int((steps > 0).sum())
        total += tensor.numel()
    assert off <= total / 1000


def test_slerp_of_parallel_tensors_takes_the_straight_line(tmp_path: Path) -> None:
    first = write_llama(tmp_path / "first", dtype=torch.float32)
    doubled = {name: 2 * tensor for name, tensor in read_tensors(first).items()}
    second = write_llama(tmp_path / "second", dtype=torch.float32, edit=doubled)
    text = f"merge_method: slerp\nmodels: [{{model: {second}}}]\nbase_model: {first}\nparameters: {{t: 0.5}}\n"
    for name, tensor in merged_tensors(text, tmp_path).items():
        torch.testing.assert_close(tensor, 1.5 * read_tensors(first)[name], rtol=1e-6, atol=0)


def test_slerp_with_a_zero_tensor_takes_the_straight_line(tmp_path: Path) -> None:
    first = write_llama(tmp_path / "first", dtype=torch.float32)
    zero = write_llama(tmp_path / "zero", edit={k: torch.zeros_like(v) for k, v in read_tensors(first).items()})
    text = f"merge_method: slerp\nmodels: [{{model: {zero}}}]\nbase_model: {first}\nparameters: {{t: 0.25}}\n"
    for name, tensor in merged_tensors(text, tmp_path).items():
        torch.testing.assert_close(tensor, 0.75 * read_tensors(first)[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("t", "model"), [(0, "a"), (1, "b")])
def test_slerp_at_the_ends_gives_the_inputs(t: int, model: str, family: dict[str, Path], tmp_path: Path) -> None:
    text = "merge_method: slerp\nmodels: [{{model: {a}}}, {{model: {b}}}]\nbase_model: {a}\n".format(**family)
    result = merged_tensors(f"{text}parameters: {{t: {t}}}\n", tmp_path)
    for name, tensor in read_tensors(family[model]).items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-6 if tensor.dtype == torch.float32 else 0, atol=1e-12)
