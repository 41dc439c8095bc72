"""Contract: a suite of which evaluations would fail stops these and what would be made for them alone, and nothing else."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.errors import SuiteError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.outcome import FAILED, SKIPPED
from merge_assets.pipeline.preflight import stopped
from merge_assets.pipeline.versions import topological
from tests.evaluation_support import write_suite
from tests.pipeline_support import MEAN, SECOND, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """``alone`` and what ``child`` is made of have a bad suite alone; ``both`` also has a good one."""
    made = Project(tmp_path)
    write_suite(tmp_path / "suites", name="good")
    bad = "include_path: tasks\ntasks: [{task: tiny_choice, metric: accuracy}]\n"
    (tmp_path / "suites" / "bad.yaml").write_text(bad)
    made.recipe("alone", MEAN + "evaluate: [bad]\n")
    made.recipe("mean", MEAN + "evaluate: [bad]\n")
    made.recipe("child", SECOND + "evaluate: [good]\n")
    made.recipe("both", MEAN + "evaluate: [good, bad]\n")
    return made


def wanted(project: Project) -> list[dg.AssetSpec]:
    specs = project.definitions().resolve_all_asset_specs()
    return topological(spec for spec in specs if spec.key.path[0] in ("variants", "scores", "leaderboard"))


def test_what_is_made_for_bad_evaluations_alone_is_not_made(project: Project) -> None:
    workspace = project.workspace()
    found = stopped(workspace, build_graph(workspace), wanted(project))
    told = {outcome.key: outcome.state for outcome in found.values()}
    bases = {f"scores/bad/checkpoints/{name}": FAILED for name in ("one", "two")}
    scores = {f"scores/bad/{name}": FAILED for name in ("alone", "mean", "both")}
    assert told == bases | scores | {"variants/alone": SKIPPED}
    messages = {outcome.key: outcome.message for outcome in found.values()}
    assert f"{project.root}/suites/bad.yaml: tasks[0].metric: tiny_choice" in messages["scores/bad/alone"]
    assert "--only-variants" in messages["variants/alone"]


def test_without_evaluations_nothing_is_looked_at(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "refused", None)
    workspace = project.workspace()
    variants = [spec for spec in wanted(project) if spec.key.path[0] == "variants"]
    assert stopped(workspace, build_graph(workspace), variants) == {}


def test_a_suite_that_is_wrong_is_told_before_the_model_is_opened(project: Project) -> None:
    from merge_assets.reference import ModelReference

    with pytest.raises(SuiteError, match=r"bad\.yaml: tasks\[0\]\.metric: tiny_choice has no single metric 'accuracy'"):
        api.score(project.workspace(), ModelReference("checkpoints/no-such-model"), "bad")
