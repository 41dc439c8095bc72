"""Contract of automation: what is new, edited, or has an input whose bytes changed is rebuilt, and nothing else.

Each test replays a timeline tick by tick against the real sensors, steps and event log. Only the work inside the steps is
fake (see pipeline_support).
"""

from __future__ import annotations

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.errors import CheckpointError
from tests.pipeline_support import HUB, MEAN, PRUNED, SECOND, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCORED_BASES = ["scores/quick/checkpoints/one", "scores/quick/checkpoints/two"]


def test_nothing_is_requested_before_the_first_observation(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon(project)
    assert daemon.tick() == []
    assert daemon.tick() == []
    assert "variants/mean waits: base/checkpoints/one was never observed" in daemon.said


def test_first_observation_builds_everything_once(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon(project)
    daemon.tick()
    assert daemon.observe() == ["base/checkpoints/one", "base/checkpoints/two"]
    assert daemon.tick() == [*SCORED_BASES, "variants/mean", "scores/quick/mean", "leaderboard"]
    assert daemon.tick() == []
    assert daemon.said == "5 assets are up to date"
    assert sorted(fake.calls) == ["mean", "quick checkpoints/one", "quick checkpoints/two", "quick mean", "rank"]


def test_an_unchanged_checkpoint_is_not_recorded_again(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon.settled(project, fake)
    assert daemon.observe() == []
    assert daemon.settle() == []


def test_changed_bytes_rebuild_what_depends_on_them_and_nothing_else(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("pruned", PRUNED)
    daemon = Daemon.settled(project, fake)
    project.checkpoint("one", "other weights")
    assert daemon.observe() == ["base/checkpoints/one"]
    assert daemon.settle() == ["scores/quick/checkpoints/one", "variants/mean", "scores/quick/mean", "leaderboard"]


def test_a_change_that_leaves_the_merged_bytes_alone_stops_there(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    daemon = Daemon.settled(project, fake)
    fake.calls.clear()
    project.checkpoint("one", "weights of one# a comment")
    daemon.observe()
    daemon.settle()
    assert sorted(fake.calls) == ["mean", "quick checkpoints/one"], "what was to follow finds nothing to do"
    assert not _stale(daemon)


def test_a_new_recipe_is_built_after_a_reload_and_others_are_not(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon.settled(project, fake)
    fake.calls.clear()
    project.recipe("second", SECOND)
    daemon.reload()
    daemon.tick()  # third was never observed
    assert daemon.observe() == ["base/checkpoints/three"]
    daemon.settle()
    assert sorted(set(fake.calls)) == ["quick checkpoints/three", "quick second", "rank", "second"]


def test_an_edited_recipe_is_rebuilt_with_what_depends_on_it(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    project.recipe("pruned", PRUNED)
    daemon = Daemon.settled(project, fake)
    fake.calls.clear()
    project.recipe("mean", MEAN + "parameters: {normalize: false}\n")
    daemon.reload()
    daemon.settle()
    assert sorted(set(fake.calls)) == ["mean", "quick mean", "quick second", "rank", "second"]


def test_an_edit_that_changes_no_bytes_of_the_result_rebuilds_nothing(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon.settled(project, fake)
    project.recipe("mean", f"description: words for people\ngroup: elsewhere\n{MEAN}# a comment\n")
    daemon.reload()
    assert daemon.settle() == []


def test_a_revision_that_arrives_during_a_run_is_not_lost(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon.settled(project, fake)

    def change_once(name: str) -> None:
        if name == "mean":
            fake.during = lambda name: None
            project.checkpoint("one", "third weights")
            daemon.observe()
            daemon.tick()  # the sensor goes on while the run does

    project.checkpoint("one", "second weights")
    daemon.observe()
    fake.calls.clear()
    fake.during = change_once
    daemon.settle()
    assert fake.calls.count("mean") == 2
    assert not _stale(daemon)


def test_a_checkpoint_shared_with_a_parent_builds_the_child_once(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND.replace("three", "one"))
    daemon = Daemon.settled(project, fake)
    fake.calls.clear()
    project.checkpoint("one", "other weights")
    daemon.observe()
    daemon.settle()
    assert sorted(fake.calls) == sorted(
        ["mean", "second", "quick checkpoints/one", "quick mean", "quick second", "rank"]
    )


def test_a_failing_merge_is_not_asked_for_again_at_once_and_its_children_never(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing.add("mean")
    Daemon.begun(project)
    assert fake.calls.count("mean") == 1
    assert "quick mean" not in fake.calls
    assert "second" not in fake.calls


def test_a_failed_blocking_check_stops_what_depends_on_the_variant(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    fake.failing_checks.add("mean")
    Daemon.begun(project)
    assert fake.calls.count("mean") == 1
    assert "quick mean" not in fake.calls


def test_hub_recipes_are_shown_but_neither_polled_nor_built(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("far", HUB)
    project.recipe("farther", "merge_method: linear\nmodels: [{model: far, parameters: {weight: 1}}]\n")
    daemon = Daemon.settled(project, fake)
    assert not {"far", "farther"} & set(fake.calls)
    sensors = {sensor.name for sensor in daemon.definitions.sensors or []}
    assert "hub_revisions" not in sensors
    assert daemon.tick() == []
    assert daemon.said.endswith("; 5 more are out of date and built by hand")


def test_enabled_hub_recipes_are_polled(project: Project, fake: FakeApi) -> None:
    project.recipe("far", HUB)
    sensors = {sensor.name for sensor in project.definitions(enabled=["far"]).sensors or []}
    assert {"hub_revisions", "local_checkpoints"} <= sensors


def test_a_checkpoint_that_cannot_be_read_does_not_stop_the_others(
    project: Project, fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.recipe("mean", MEAN)
    monkeypatch.setattr(api, "observe", _raising(fake, "one"))
    assert Daemon(project).observe() == ["base/checkpoints/two"]


def test_a_checkpoint_changed_since_its_observation_makes_the_variant_stale(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon.settled(project, fake)
    project.checkpoint("one", "bytes that nobody observed")
    assert daemon.run([dg.AssetKey(["variants", "mean"])])
    assert _stale(daemon) == {"variants/mean", "scores/quick/mean", "scores/quick/checkpoints/one"}
    daemon.settle()
    assert not _stale(daemon)


def test_one_schedule_per_distinct_cron_on_one_job(project: Project, fake: FakeApi) -> None:
    for name, cron in (("a", "0 3 * * 1"), ("b", "0 3 * * 1"), ("c", "30 4 * * *")):
        project.recipe(name, f'schedule: "{cron}"\n{MEAN}')
    daemon = Daemon(project)
    schedules = list(daemon.definitions.schedules or [])
    assert sorted(schedule.cron_schedule for schedule in schedules) == ["0 3 * * 1", "30 4 * * *"]
    assert {schedule.job_name for schedule in schedules} == {"scheduled_recipes"}
    mondays = ["leaderboard", "scores/quick/a", "scores/quick/b", "variants/a", "variants/b"]
    assert _scheduled(daemon, "0 3 * * 1") == mondays
    daemon.observe()
    daemon.settle()
    assert _scheduled(daemon, "0 3 * * 1") == [], "all of it is up to date"
    project.recipe("a", f'schedule: "0 3 * * 1"\nparameters: {{normalize: false}}\n{MEAN}')
    daemon.reload()
    assert _scheduled(daemon, "0 3 * * 1") == ["leaderboard", "scores/quick/a", "variants/a"]
    seen: list[list[str]] = []
    fake.during = lambda name: seen.append(_scheduled(daemon, "0 3 * * 1")) if name == "a" else None
    daemon.settle()
    assert seen == [[]], "all of it is under way"


def _scheduled(daemon: Daemon, cron: str) -> list[str]:
    """What the schedule of a cron asks for now."""
    (schedule,) = [each for each in daemon.definitions.schedules or [] if each.cron_schedule == cron]
    context = dg.build_schedule_context(repository_def=daemon.definitions.get_repository_def())
    context._instance_ref, context._instance = True, daemon.instance  # one in memory cannot be handed over otherwise
    requests = schedule.evaluate_tick(context).run_requests or []
    return sorted(key.to_user_string() for request in requests for key in request.asset_selection or [])


def _stale(daemon: Daemon) -> set[str]:
    """What Dagster itself counts as stale, by the resolver behind the UI's badge."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    graph = daemon.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(daemon.instance, graph, LoadingContextForTest(daemon.instance))
    keys = graph.materializable_asset_keys
    return {key.to_user_string() for key in keys if resolver.get_status(key) == StaleStatus.STALE}


def _raising(fake: FakeApi, name: str):
    original = fake.observe

    def observe(workspace, reference, **options):
        if reference.path.endswith(name):
            raise CheckpointError(f"{reference}: damaged")
        return original(workspace, reference, **options)

    return observe
