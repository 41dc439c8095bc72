"""Contract: `plan` and `recipes` say what evaluations would fail of, to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.commands import run_command
from tests.evaluation_support import write_suite
from tests.synthetic import write_checkpoint

CONFIG = {"architectures": ["X"], "model_type": "unheard-of", "num_hidden_layers": 1, "vocab_size": 8}
MEAN = "merge_method: linear\nmodels: [{model: ./a}]\nparameters: {weight: 1}\nevaluate: [SUITE]\n"
BAD = "include_path: tasks\ntasks: [{task: tiny_choice, metric: accc}]\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "merge-assets.toml").write_text("default_suites = []\n")
    write_checkpoint(tmp_path / "a", {"model.layers.0.up_proj.weight": torch.ones(4, 4)}, CONFIG)
    write_suite(tmp_path / "suites", name="good")
    (tmp_path / "suites" / "bad.yaml").write_text(BAD)
    for name in ("good", "bad"):
        (tmp_path / "recipes" / f"{name}.yaml").write_text(MEAN.replace("SUITE", name))
    return tmp_path


def test_a_plan_tells_what_its_evaluations_would_fail_of(root: Path) -> None:
    says = (
        f"{root}/suites/bad.yaml: tasks[0].metric: tiny_choice has no single metric 'accc' (it has: acc, acc_norm), "
        "did you mean 'acc'?"
    )
    shown = run_command("plan", "bad", root=root)
    assert shown.code == 0 and f"scores on bad: would fail: {says}" in shown.stdout
    (found,) = json.loads(run_command("plan", "bad", "--json", root=root).stdout)["evaluations"]["bad"]
    assert (found["kind"], found["fails"]) == ("metric", True) and found["text"].startswith(says)
    good = run_command("plan", "good", root=root)
    assert "scores on good  nothing seen that would fail" in good.stdout


def test_the_list_of_recipes_tells_it_once_for_all(root: Path) -> None:
    listed = run_command("recipes", "--json", root=root)
    told = json.loads(listed.stdout)["evaluations"]
    assert listed.code == 1 and told["good"] == [] and [one["kind"] for one in told["bad"]] == ["metric"]
    (root / "recipes" / "bad.yaml").unlink()  # a suite that nothing is evaluated on is nobody's
    assert run_command("recipes", root=root).code == 0
