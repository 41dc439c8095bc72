"""Contract of versions: what `merge-assets build` finds out of date is what Dagster itself counts as stale or missing.

The oracle is the resolver behind the badge in the UI.
"""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from merge_assets.pipeline.versions import Recorded, out_of_date, recorded, stale_reason, topological
from tests.pipeline_support import MEAN, PRUNED, SECOND, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def daemon(project: Project, fake: FakeApi) -> Daemon:
    """Everything of three recipes is built."""
    for name, text in (("mean", MEAN), ("second", SECOND), ("pruned", PRUNED)):
        project.recipe(name, text)
    return Daemon.begun(project)


def test_built_assets_are_up_to_date(daemon: Daemon) -> None:
    assert ours(daemon) == dagsters(daemon) == set()


def test_a_changed_base(daemon: Daemon, project: Project) -> None:
    project.checkpoint("one", "other weights")
    daemon.observe()
    assert ours(daemon) == dagsters(daemon) == {"variants/mean", "scores/quick/checkpoints/one"}


def test_an_edited_recipe(daemon: Daemon, project: Project) -> None:
    project.recipe("pruned", PRUNED.replace("lowest: 2", "lowest: 3"))
    daemon.reload()
    assert ours(daemon) == dagsters(daemon) == {"variants/pruned"}


def test_a_new_recipe_and_the_leaderboard_that_will_list_it(daemon: Daemon, project: Project) -> None:
    project.recipe("another", MEAN)
    daemon.reload()
    assert ours(daemon) == dagsters(daemon) == {"variants/another", "scores/quick/another", "leaderboard"}


def test_an_input_that_was_removed(daemon: Daemon, project: Project) -> None:
    (project.root / "recipes" / "pruned.yaml").unlink()
    daemon.reload()
    assert ours(daemon) == dagsters(daemon) == {"leaderboard"}


def test_only_a_half_is_built(daemon: Daemon, project: Project, fake: FakeApi) -> None:
    fake.failing.add("mean")
    project.checkpoint("two", "other weights")
    daemon.observe()
    daemon.settle()
    assert ours(daemon) == dagsters(daemon) == {"variants/mean"}


def test_what_is_made_of_something_out_of_date_is_so_too() -> None:
    specs = topological(
        [dg.AssetSpec("c", deps=["b"]), dg.AssetSpec("b", deps=["a"]), dg.AssetSpec("a"), dg.AssetSpec("d")]
    )
    assert [spec.key.to_user_string() for spec in specs] == ["a", "b", "c", "d"]
    known = {
        dg.AssetKey("b"): Recorded("1", None, {"a": "1"}),
        dg.AssetKey("c"): Recorded("1", None, {"b": "1"}),
        dg.AssetKey("d"): Recorded("1", None, {}),
    }
    reasons = {key.to_user_string(): reason for key, reason in out_of_date(specs, known).items()}
    assert reasons == {"a": "never built", "b": "a is rebuilt", "c": "b is rebuilt"}


def ours(daemon: Daemon) -> set[str]:
    specs = buildable(daemon)
    keys = {spec.key for spec in specs} | {dep.asset_key for spec in specs for dep in spec.deps}
    known = {key: recorded(daemon.instance, key) for key in keys}
    return {spec.key.to_user_string() for spec in specs if stale_reason(spec, known)}


def dagsters(daemon: Daemon) -> set[str]:
    graph = daemon.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(daemon.instance, graph, LoadingContextForTest(daemon.instance))
    return {
        spec.key.to_user_string()
        for spec in buildable(daemon)
        if resolver.get_status(spec.key) in (StaleStatus.STALE, StaleStatus.MISSING)
    }


def buildable(daemon: Daemon) -> list[dg.AssetSpec]:
    specs = daemon.definitions.resolve_all_asset_specs()
    return [spec for spec in specs if spec.key.path[0] not in ("base", "broken")]
