"""Contract of what happens to a variant over time: every change is answered once, and no failure is for ever.

Timelines of single changes are in ``test_automation``; these go on to what follows: repairs, removals, runs started by hand,
cancelled and killed ones. Sensors, steps and event log are the real ones; only the work inside the steps is fake (see
pipeline_support), and pauses pass at once (``Daemon.wait``).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import dagster as dg
import pytest

from merge_assets.pipeline.process import PROCESS_TAG, this_process
from merge_assets.pipeline.versions import report_observation
from tests.pipeline_support import MEAN, PRUNED, SECOND, Daemon, FakeApi, Project, fake, project, sha

__all__ = ["fake", "project"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EDITED = MEAN + "parameters: {normalize: false}\n"
EVERYTHING = ["leaderboard", "scores/quick/mean", "scores/quick/second", "variants/mean", "variants/second"]


def key(text: str) -> dg.AssetKey:
    return dg.AssetKey(text.split("/"))


@pytest.fixture
def chain(project: Project, fake: FakeApi) -> Daemon:
    """``second`` is made of ``mean``; all is built and scored."""
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    daemon = Daemon.settled(project, fake)
    fake.calls.clear()
    return daemon


def queued_change(chain: Daemon, project: Project, tags: Mapping[str, str] | None = None) -> dg.DagsterRun:
    """A base changes, and the run that automation asks for waits in the queue."""
    project.checkpoint("one", "other weights")
    chain.observe()
    (request,) = chain.request()
    return chain.queue(request, tags)


# -- failures and repairs


def test_a_failed_merge_is_repaired_with_all_that_waits_for_it(chain: Daemon, project: Project, fake: FakeApi) -> None:
    """Nothing changed but the world, a full disk say."""
    fake.crashing.add("mean")
    project.checkpoint("one", "other weights")
    chain.observe()
    chain.settle()
    fake.crashing.clear()
    fake.calls.clear()
    assert chain.settle() == []
    assert "variants/mean failed: OSError: mean crashes as asked; tried once" in chain.said
    chain.wait(60)
    assert sorted(chain.settle()) == EVERYTHING
    assert sorted(fake.calls) == ["mean", "quick mean", "quick second", "rank", "second"]
    chain.wait(24 * 3600)
    assert chain.settle() == []


def test_a_failed_first_build_is_repaired(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.crashing.add("mean")
    daemon = Daemon.begun(project)
    fake.crashing.clear()
    fake.calls.clear()
    daemon.wait(60)
    assert set(daemon.settle()) == set(EVERYTHING)
    assert fake.calls.count("mean") == fake.calls.count("quick second") == 1


def test_a_merge_that_fails_for_what_is_wrong_with_it_is_tried_after_an_hour_then_after_six(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    fake.failing.add("mean")
    project.checkpoint("one", "other weights")
    chain.observe()
    chain.settle()
    for hours in (1, 6, 24, 24):
        fake.calls.clear()
        chain.later = hours * 3600 - 600
        chain.settle()
        assert "mean" not in fake.calls
        chain.later = hours * 3600
        chain.tick()
        chain.later = 0.0
        assert fake.calls.count("mean") == 1
        assert "second" not in fake.calls


def test_what_was_cancelled_is_not_started_again_until_a_person_asks(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    run = queued_change(chain, project)
    chain.instance.report_run_canceled(run)
    chain.wait(24 * 3600)
    assert chain.settle() == []
    assert "variants/mean was cancelled: a person cancelled it" in chain.said
    assert chain.run([key("variants/mean")])
    assert {"scores/quick/mean", "variants/second"} <= set(chain.settle())


def test_what_is_queued_is_not_asked_for_again(chain: Daemon, project: Project, fake: FakeApi) -> None:
    queued_change(chain, project)
    assert chain.tick() == []
    assert "variants/mean is queued: in a run that automation asked for" in chain.said


def test_what_a_killed_run_had_not_begun_is_asked_for_at_once_after_what_it_had(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    run = queued_change(chain, project)
    chain.instance.report_run_failed(run, "the machine is gone")
    assert chain.tick() == []
    assert "its run ended: the machine is gone" in chain.said
    chain.wait(60)
    assert sorted(set(chain.settle())) == ["leaderboard", "scores/quick/checkpoints/one", *EVERYTHING[1:]]


def test_a_build_whose_process_was_killed_holds_up_nothing(chain: Daemon, project: Project, fake: FakeApi) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    name = this_process().split()[0]
    gone.wait()
    run = queued_change(chain, project, {PROCESS_TAG: f"{name} {gone.pid} 1", "trigger": "merge-assets build"})
    chain.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", run.job_name, message="x"), run.run_id)
    assert chain.tick() == []
    chain.wait(60)
    assert "variants/mean" in chain.settle()
    assert chain.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_run_that_dagster_starts_again_is_not_doubled(chain: Daemon, project: Project, fake: FakeApi) -> None:
    run = queued_change(chain, project, {"dagster/will_retry": "true"})
    chain.instance.report_run_failed(run, "a worker was killed")
    assert chain.tick() == []
    chain.wait(300)
    assert chain.tick() == [], "Dagster said that it would"
    chain.wait(400)
    assert "variants/mean" in chain.tick()


def test_a_failed_merge_whose_recipe_is_edited_is_repaired_at_once(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing.add("mean")
    daemon = Daemon.begun(project)
    fake.failing.clear()
    project.recipe("mean", EDITED)
    daemon.reload()
    assert sorted(daemon.settle()) == EVERYTHING


def test_what_depends_on_a_failed_check_waits_for_the_repair_and_then_runs(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing_checks.add("mean")
    daemon = Daemon.begun(project)
    daemon.wait(24 * 3600)
    assert daemon.settle() == []
    assert "variants/mean is refused: its check" in daemon.said
    assert not {"quick mean", "second"} & set(fake.calls)
    fake.failing_checks.clear()
    project.recipe("mean", EDITED)
    daemon.reload()
    assert sorted(daemon.settle()) == EVERYTHING


def test_a_check_that_fails_after_a_change_leaves_what_depends_on_it_as_it_was(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    fake.failing_checks.add("mean")
    project.checkpoint("one", "other weights")
    chain.observe()
    chain.settle()
    chain.wait(24 * 3600)
    chain.settle()
    assert not {"quick mean", "second"} & set(fake.calls)
    fake.failing_checks.clear()
    project.checkpoint("one", "better weights")
    chain.observe()
    chain.settle()
    assert {"mean", "quick mean", "second", "quick second"} <= set(fake.calls)


# -- observations


def test_an_observation_of_the_same_bytes_rebuilds_nothing(chain: Daemon) -> None:
    report_observation(chain.instance, key("base/checkpoints/one"), sha("weights of one"), {"revision": "newer"})
    assert chain.settle() == []


def test_nothing_is_built_from_a_checkpoint_that_nobody_has_observed(project: Project, fake: FakeApi) -> None:
    """A build would record that it used unknown bytes, and the first observation would make it a second time."""
    project.recipe("mean", MEAN)
    daemon = Daemon(project)
    assert daemon.tick() == []
    daemon.observe()
    daemon.settle()
    assert daemon.settle() == []
    assert fake.calls.count("mean") == 1


def test_a_build_by_hand_beside_the_daemon_is_not_repeated_by_it(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    project.recipe("mean", EDITED)
    chain.reload()
    assert chain.run([key(name) for name in EVERYTHING])
    assert chain.settle() == []


def test_two_revisions_before_a_tick_are_one_build_of_the_last(chain: Daemon, project: Project, fake: FakeApi) -> None:
    for text in ("second weights", "third weights"):
        project.checkpoint("one", text)
        chain.observe()
    chain.settle()
    assert fake.calls.count("mean") == 1
    assert fake.results["mean"] == fake.build(project.workspace(), project.workspace().recipe("mean")).artifact.version


def test_a_revision_that_is_taken_back_ends_where_it_began(chain: Daemon, project: Project, fake: FakeApi) -> None:
    before = fake.results["second"]
    project.checkpoint("one", "bad weights")
    chain.observe()
    chain.settle()
    project.checkpoint("one", "weights of one")
    chain.observe()
    chain.settle()
    assert fake.results["second"] == before
    assert chain.settle() == []


def test_a_recipe_that_is_added_while_its_input_is_rebuilt_to_the_same_bytes_is_built(
    project: Project, fake: FakeApi
) -> None:
    """Only that it is new asks for it: its input ends as it began."""
    project.recipe("mean", MEAN)
    project.recipe("pruned", PRUNED)  # the third checkpoint is observed, too
    daemon = Daemon.settled(project, fake)

    def add_once(name: str) -> None:
        if name == "mean":
            fake.during = lambda name: None
            project.recipe("second", SECOND)
            daemon.reload()
            assert daemon.tick() == daemon.tick() == []

    project.checkpoint("one", "weights of one# a comment")
    daemon.observe()
    fake.during = add_once
    daemon.settle()
    assert "second" in fake.calls


# -- runs of others


def test_what_a_run_is_working_on_is_left_alone(chain: Daemon, project: Project, fake: FakeApi) -> None:
    project.checkpoint("one", "other weights")
    chain.observe()
    seen: list[list[str]] = []
    fake.during = lambda name: seen.append(chain.tick()) if name == "mean" and not seen else None
    assert chain.run([key("variants/mean")])
    assert seen == [["scores/quick/checkpoints/one"]], "neither the merge nor what waits for it"


def test_the_leaderboard_collects_what_there_is(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("pruned", PRUNED)
    daemon = Daemon(project)
    for name in ("one", "two"):  # the third cannot be read
        report_observation(daemon.instance, key(f"base/checkpoints/{name}"), sha(f"weights of {name}"), {})
    assert daemon.tick() == [
        "scores/quick/checkpoints/one",
        "scores/quick/checkpoints/two",
        "variants/mean",
        "scores/quick/mean",
        "leaderboard",
    ]


# -- recipes come and go


def test_a_removed_recipe_takes_its_assets_along_and_nothing_fails(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("pruned", PRUNED)
    daemon = Daemon.settled(project, fake)
    fake.calls.clear()
    (project.root / "recipes" / "pruned.yaml").unlink()
    daemon.reload()
    left = {spec.key.to_user_string() for spec in daemon.definitions.resolve_all_asset_specs()}
    assert not {name for name in left if "pruned" in name or "three" in name}
    daemon.settle()
    assert set(fake.calls) == {"rank"}, "the leaderboard is made without it"
    assert daemon.settle() == []
    project.checkpoint("one", "other weights")
    daemon.observe()
    assert "variants/mean" in daemon.settle()


def test_a_recipe_whose_parent_is_removed_is_shown_broken_and_its_results_stay(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    before = chain.instance.get_latest_materialization_event(key("variants/second"))
    (project.root / "recipes" / "mean.yaml").unlink()
    chain.reload()
    left = {spec.key.to_user_string(): spec for spec in chain.definitions.resolve_all_asset_specs()}
    assert "broken/second" in left and "variants/second" not in left
    assert "mean" in (left["broken/second"].description or "")
    chain.settle()
    assert set(fake.calls) <= {"rank"}
    assert chain.instance.get_latest_materialization_event(key("variants/second")) == before
    project.recipe("mean", MEAN)
    chain.reload()
    chain.settle()
    assert chain.settle() == []


def test_a_recipe_that_comes_back_unchanged_is_not_built_again(chain: Daemon, project: Project, fake: FakeApi) -> None:
    (project.root / "recipes" / "second.yaml").unlink()
    chain.reload()
    chain.settle()
    project.recipe("second", SECOND)
    chain.reload()
    chain.settle()
    assert "second" not in fake.calls
