"""Contract: averaged checkpoints are the weighted mean of their tensors, made again from the last ones when another appears."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from merge_assets import api
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from merge_assets.workspace.snapshot import Snapshot
from merge_assets.workspace.staleness import Staleness
from tests.synthetic import read_tensors, write_llama

RUN = "runs/mine"
STEPS = (100, 900, 1000, 1100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    for step in STEPS:
        save(tmp_path, step)
    return tmp_path


def save(root: Path, step: int) -> None:
    write_llama(root / RUN / f"checkpoint-{step}", 2, seed=step, shards=2)


def opened(root: Path, more: str = "", dtype: str = "float32") -> Workspace:
    text = f"merge_method: linear\naverage_checkpoints: {{folder: {RUN}{more}}}\ndtype: {dtype}\n"
    (root / "recipes" / "average.yaml").write_text(text)
    return Workspace.open(Settings(root=root, default_suites=[], device="cpu", threads=2))


def weighted(root: Path, steps: Sequence[int], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The sum of weights times tensors, in float64."""
    read = [read_tensors(root / RUN / f"checkpoint-{step}") for step in steps]
    return {
        name: sum(weight * tensors[name].double() for weight, tensors in zip(weights, read, strict=True))  # type: ignore[misc]
        for name in read[0]
    }


def of_curve(*w: float) -> list[float]:
    return [1 - w[0], *(high - low for high, low in pairwise(w)), w[-1]]


WEIGHTS = {
    "": [0.25] * 4,
    ", decay: linear": of_curve(3 / 4, 2 / 4, 1 / 4),
    ", decay: cosine": of_curve(*((1 + math.cos(math.pi * j / 4)) / 2 for j in (1, 2, 3))),
    ", decay: {exponential: 0.7}": of_curve(0.7, 0.7**2, 0.7**3),
    ", last: 3, decay: cosine": of_curve(*((1 + math.cos(math.pi * j / 3)) / 2 for j in (1, 2))),
    ", last: 2": [0.5, 0.5],
}


@pytest.mark.parametrize("written", WEIGHTS)
def test_every_tensor_is_the_weighted_sum(root: Path, written: str) -> None:
    workspace = opened(root, written)
    api.merge(workspace, workspace.recipe("average"), root / "out")
    weights = WEIGHTS[written]
    expected = weighted(root, STEPS[-len(weights) :], weights)
    made = read_tensors(root / "out")
    assert made.keys() == expected.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, expected[name].float(), rtol=2e-7, atol=1e-12)


def test_the_sum_is_rounded_once(root: Path) -> None:
    workspace = opened(root, ", decay: cosine", "bfloat16")
    api.merge(workspace, workspace.recipe("average"), root / "out")
    expected = weighted(root, STEPS, WEIGHTS[", decay: cosine"])
    for name, tensor in read_tensors(root / "out").items():
        exact = expected[name]
        below, above = (torch.nextafter(tensor, torch.full_like(tensor, end)).double() for end in (-math.inf, math.inf))
        near = 1e-12 + exact.abs() * 1e-12
        assert torch.all(
            (tensor.double() - exact).abs() <= torch.minimum((below - exact).abs(), (above - exact).abs()) + near
        )


def test_the_config_beside_it_makes_the_same_tensors(root: Path) -> None:
    workspace = opened(root, ", last: 3, decay: {exponential: 0.5}")
    plan = api.plan(workspace, workspace.recipe("average"))
    config = yaml.safe_load(plan.mergekit_config)
    assert config == {
        "models": [
            {"model": f"{RUN}/checkpoint-{step}", "parameters": {"weight": weight}}
            for step, weight in ((900, 0.5), (1000, 0.25), (1100, 0.25))
        ],
        "merge_method": "linear",
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    (root / "recipes" / "plain.yaml").write_text(plan.mergekit_config)
    again = Workspace.open(workspace.settings)
    same = api.plan(again, again.recipe("plain"))
    assert same.tensors == plan.tensors and same.key == plan.key


def test_one_that_is_not_stored_is_averaged_inside_another(root: Path) -> None:
    text = f"materialize: false\nmerge_method: linear\naverage_checkpoints: {{folder: {RUN}, last: 2}}\n"
    (root / "recipes" / "inner.yaml").write_text(text)
    (root / "recipes" / "outer.yaml").write_text(
        "merge_method: passthrough\nmodels: [{model: inner}]\ndtype: float32\n"
    )
    workspace = opened(root)
    api.merge(workspace, workspace.recipe("outer"), root / "out")
    for name, tensor in weighted(root, STEPS[-2:], [0.5, 0.5]).items():
        torch.testing.assert_close(read_tensors(root / "out")[name], tensor.float(), rtol=2e-7, atol=1e-12)


def test_another_checkpoint_makes_another_version_and_the_first_stays(root: Path) -> None:
    workspace = opened(root, ", last: 3")
    packed = workspace.snapshot().pack()
    first = api.build(workspace, workspace.recipe("average"))
    made_of = [item.name for item in first.artifact.manifest.inputs]
    assert made_of == [f"{RUN}/checkpoint-{step}" for step in STEPS[-3:]]
    assert api.build(workspace, workspace.recipe("average")).reused

    save(root, 1200)
    now = opened(root, ", last: 3")
    reason = Staleness(now, thorough=True).reason(now.recipe("average"))
    assert reason is not None and reason.startswith("the recipe changed, or the checkpoints that it averages")
    second = api.build(now, now.recipe("average"))
    assert second.artifact.line == first.artifact.line and second.artifact.version != first.artifact.version
    assert [item.name for item in second.artifact.manifest.inputs] == [
        f"{RUN}/checkpoint-{n}" for n in (1000, 1100, 1200)
    ]
    assert Staleness(now, thorough=True).reason(now.recipe("average")) is None

    planned = Workspace.open(workspace.settings, planned=Snapshot.unpack(packed))
    third = api.build(planned, planned.recipe("average"))
    assert third.reused and third.artifact.version == first.artifact.version, "what a run was planned with is built"
