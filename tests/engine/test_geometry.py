"""Norms and cosines that a method sweeps anyway are told, against numpy in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge_assets import api
from merge_assets.plan.describe import geometry_summary
from merge_assets.records import Geometry
from merge_assets.settings import Settings
from tests.execution_support import mean, run, slerp, write_model, write_models
from tests.merging import plan_text
from tests.synthetic import write_llama

SIZES = {"a": 300, "b": 70_000, "one": 1}


def vectors(folders: Sequence[Path], name: str) -> list[np.ndarray]:
    return [load_file(folder / "model.safetensors")[name].double().numpy() for folder in folders]


def cosines(found: Sequence[np.ndarray]) -> list[float]:
    return [float(v @ w / math.sqrt(v @ v) / math.sqrt(w @ w)) for v, w in combinations(found, 2)]


@pytest.mark.parametrize("threads", [1, 2])
def test_inputs_of_slerp(tmp_path: Path, threads: int) -> None:
    base, other = folders = write_models(tmp_path, "xy", SIZES)

    report = run(plan_text(slerp(base, other), tmp_path), tmp_path, threads=threads)

    assert list(report.geometry) == sorted(SIZES)
    order = [other, base] if plan_text(slerp(base, other), tmp_path).models[0].reference == str(other) else folders
    for name, found in report.geometry.items():
        expected = vectors(order, name)
        assert found.of == "inputs"
        assert found.norms == pytest.approx([math.sqrt(v @ v) for v in expected], rel=1e-12)
        assert found.cosines == pytest.approx(cosines(expected), rel=1e-9, abs=1e-15)


def test_task_vectors_of_model_stock(tmp_path: Path) -> None:
    base, *others = write_models(tmp_path, "bxyz", SIZES)
    models = ", ".join(f"{{model: {folder}}}" for folder in others)

    report = run(plan_text(f"merge_method: model_stock\nbase_model: {base}\nmodels: [{models}]\n", tmp_path), tmp_path)

    for name, found in report.geometry.items():
        (b,) = vectors([base], name)
        expected = [v - b for v in vectors(others, name)]
        assert found.of == "task vectors" and len(found.norms) == 3 and len(found.cosines) == 3
        assert found.norms == pytest.approx([math.sqrt(v @ v) for v in expected], rel=1e-6)
        assert found.cosines == pytest.approx(cosines(expected), rel=1e-6, abs=1e-9)


def test_nothing_is_swept_for_it(tmp_path: Path) -> None:
    report = run(plan_text(mean(write_models(tmp_path, "xy", SIZES)), tmp_path), tmp_path)
    assert report.geometry == {} and geometry_summary(report.geometry) == ""


def test_where_an_input_is_not_finite_nothing_is_said(tmp_path: Path) -> None:
    base = write_model(tmp_path / "x", {"a": torch.tensor([1.0, math.nan]), "b": torch.ones(2)})
    other = write_model(tmp_path / "y", {"a": torch.ones(2), "b": torch.zeros(2)})

    report = run(plan_text(slerp(base, other), tmp_path), tmp_path, allow_nonfinite=True)

    assert set(report.geometry) == {"b"}
    assert report.geometry["b"].cosines == (0.0,) and sorted(report.geometry["b"].norms) == [0.0, math.sqrt(2)]


def test_it_is_in_the_record_and_goes_with_tensors_that_are_reused(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_llama(tmp_path / name, layers=2, seed=seed)
    (tmp_path / "recipes").mkdir()
    text = "merge_method: slerp\nbase_model: ./a\nmodels: [{model: ./a}, {model: ./b}]\nparameters:\n  t:\n"
    for t in ("0.5", "0.75"):
        (tmp_path / "recipes/mix.yaml").write_text(
            f"{text}    - {{filter: self_attn, value: {t}}}\n    - value: 0.25\n"
        )
        space = api.Workspace.open(Settings(root=tmp_path))
        built = api.build(space, space.recipe("mix"))

    assert built.report.tensors_reused > 0 and built.report.tensors_computed > 0
    found = built.artifact.manifest.common.geometry
    assert set(found) == {tensor.name for tensor in built.plan.tensors if not tensor.is_copy}
    assert all(one.of == "inputs" and len(one.norms) == 2 for one in found.values())


def test_the_summary_is_over_all_pairs_of_all_tensors() -> None:
    two = Geometry(of="inputs", norms=(1.0, 2.0), cosines=(0.5,))
    three = Geometry(of="inputs", norms=(1.0, 1.0, 1.0), cosines=(0.25, 1.0, 0.25))
    alone = Geometry(of="task vectors", norms=(1.0,), cosines=())

    assert (
        geometry_summary({"a": two, "b": three, "c": alone})
        == "cosine of the inputs 0.2500 to 1.0000, 0.5000 at the mean, in 2 tensors"
    )
