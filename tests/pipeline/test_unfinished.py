"""Uploads of killed builders: they wait for the next builder of the same, and go when nothing of it is to be built."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest

from merge_assets.errors import Stopped
from merge_assets.pipeline.automation import Reconciler
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reconciler.decide import Decision, State
from merge_assets.pipeline.unfinished import UNFINISHED_SENSOR, build_unfinished, clear_unfinished
from merge_assets.store.inventory import survey
from merge_assets.workspace import Workspace
from tests.s3.builds import workspace
from tests.s3.rgw import Rgw, bucket, rgw
from tests.store.test_housekeeping import NOW, PART, build

__all__ = ["bucket", "rgw"]

pytestmark = pytest.mark.server


def deciding(**states: State) -> Reconciler:
    """A reconciler that says this of variants."""
    decisions = tuple(
        Decision(f"variants/{name}", state, "", stale=state != "current") for name, state in states.items()
    )
    return cast(Reconciler, SimpleNamespace(look=lambda *_: (None, None, decisions)))


def killed(project: Workspace, line: str) -> None:
    def stop() -> None:
        raise Stopped("here")

    with pytest.raises(Stopped):
        build(project.store, line, "1f", {"t": os.urandom(PART)}, taken=stop)


def lines(project: Workspace) -> list[str]:
    return [build.line for build in survey(project.store).unfinished]


def test_uploads_go_when_their_variant_is_up_to_date_and_stay_while_it_is_to_be_made(
    tmp_path: Path, rgw: Rgw, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = workspace(tmp_path, f"s3://{bucket}/store", rgw.options())
    for name in ("made", "open", "gone"):
        killed(project, f"variants/{name}")
    monkeypatch.setattr("merge_assets.store.inventory.DEAD", NOW)
    instance = cast(dg.DagsterInstance, None)
    said = clear_unfinished(project, deciding(made="running", open="failed"), instance)
    assert said.skip_message == "nothing is left of builds that nobody wants"
    said = clear_unfinished(project, deciding(made="current", open="failed"), instance)
    assert str(said.skip_message).startswith("removed unfinished variants/made/")
    assert sorted(lines(project)) == ["variants/gone", "variants/open"]


def test_a_store_that_cannot_be_reached_fails_no_tick(tmp_path: Path, rgw: Rgw) -> None:
    project = workspace(tmp_path, "s3://not-there/store", rgw.options())
    said: Any = clear_unfinished(project, deciding(), cast(dg.DagsterInstance, None))
    assert str(said.skip_message).startswith("uploads cannot be listed or removed: ")


def test_only_stores_to_which_files_are_sent_in_parts_have_the_sensor(tmp_path: Path, rgw: Rgw, bucket: str) -> None:
    away = workspace(tmp_path, f"s3://{bucket}/store", rgw.options())
    here = workspace(tmp_path, str(tmp_path / "store"), {})
    reconciler = Reconciler(away, build_graph(away))
    assert [sensor.name for sensor in build_unfinished(away, reconciler)] == [UNFINISHED_SENSOR]
    assert build_unfinished(here, reconciler) == []
