"""Contract of assets without a definition: their pages say so once, and again when they come back and go again."""

from __future__ import annotations

import dagster as dg
import pytest

from merge_assets.pipeline.gone_sensor import tell_of_gone
from merge_assets.pipeline.keys import broken_key, variant_key
from tests.pipeline_support import MEAN, SECOND, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore")


def told(result: dg.SensorResult) -> dict[str, str]:
    return {event.asset_key.to_user_string(): event.metadata["why"].value for event in result.asset_events}


def test_a_deleted_recipe_is_told_of_once_and_anew_when_it_goes_again(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    daemon = Daemon.settled(project, fake)
    cursor = None

    def tick() -> dict[str, str]:
        nonlocal cursor
        sensor = daemon.definitions.get_sensor_def("gone_assets")
        result = sensor(dg.build_sensor_context(instance=daemon.instance, cursor=cursor))
        for event in result.asset_events:
            daemon.instance.report_runless_asset_event(event)
        cursor = result.cursor
        return told(result)

    assert tick() == {}
    (project.root / "recipes" / "second.yaml").unlink()
    daemon.reload()
    gone = {
        "base/checkpoints/three": "no recipe uses this checkpoint any more",
        "scores/quick/checkpoints/three": "no recipe asks for these scores any more",
        "scores/quick/second": "no recipe asks for these scores any more",
        "variants/second": "there is no recipe of this name any more",
    }
    assert tick() == gone
    assert tick() == {}
    seen = daemon.instance.fetch_observations(variant_key("second"), limit=1).records[0].asset_observation
    assert seen is not None and seen.description == "This asset is gone: there is no recipe of this name any more."

    project.recipe("second", SECOND)
    daemon.reload()
    assert tick() == {}
    (project.root / "recipes" / "second.yaml").unlink()
    daemon.reload()
    assert tick() == gone


def test_what_is_broken_is_said_to_be_broken() -> None:
    instance = dg.DagsterInstance.ephemeral()
    instance.report_runless_asset_event(dg.AssetMaterialization(variant_key("odd")))
    instance.report_runless_asset_event(dg.AssetMaterialization("of_somebody_else"))
    assert told(tell_of_gone(instance, {broken_key("odd")}, None)) == {
        "variants/odd": "its recipe is broken, see broken/odd"
    }
