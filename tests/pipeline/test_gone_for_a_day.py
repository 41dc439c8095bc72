"""Contract of what went: it is known for a day, can be planned and not built, and costs nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path

import dagster as dg

from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.gone import KEEP_SECONDS, remember
from merge_assets.pipeline.graph import build_graph
from tests.pipeline_support import MEAN, SECOND, Project, project

__all__ = ["project"]  # fixture

ONE, TWO = dg.AssetKey(["variants", "one"]), dg.AssetKey(["scores", "quick", "a", "b"])


def test_what_went_is_remembered_for_a_day_and_forgotten_when_it_comes_back(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert remember(cache, [ONE, TWO]) == []
    assert remember(cache, [ONE]) == [TWO]
    assert remember(cache, []) == [TWO, ONE]
    assert remember(cache, [TWO]) == [ONE]
    noted = json.loads((cache / "assets.json").read_text())
    noted["variants/one"] = time.time() - KEEP_SECONDS - 1
    (cache / "assets.json").write_text(json.dumps(noted))
    assert remember(cache, [TWO]) == []


def test_a_note_that_is_damaged_or_cannot_be_written_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "assets.json").write_text("[1")
    assert remember(tmp_path, [ONE]) == []
    (tmp_path / "file").write_text("")
    assert remember(tmp_path / "file", [ONE]) == []


def test_what_went_can_be_planned_with_what_is_there_and_fails_by_name(project: Project) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    before = build_graph(project.workspace()).built_keys()
    (project.root / "recipes" / "second.yaml").unlink()
    workspace = project.workspace()
    graph = build_graph(workspace)
    gone = sorted({*before} - {*graph.built_keys()})
    assert [key.to_user_string() for key in gone] == [
        "scores/quick/checkpoints/three",
        "scores/quick/second",
        "variants/second",
    ]
    definitions = build_definitions(workspace, graph, gone)
    assert not dg.evaluate_automation_conditions(
        definitions, instance=dg.DagsterInstance.ephemeral()
    ).get_num_requested(gone[-1])
    result = definitions.resolve_job_def("build").execute_in_process(asset_selection=gone, raise_on_error=False)
    said = [event.step_failure_data.user_failure_data.description for event in result.get_step_failure_events()]
    assert sorted(said) == [
        f"{k.to_user_string()}: no recipe makes this any more; there is nothing to build" for k in gone
    ]
