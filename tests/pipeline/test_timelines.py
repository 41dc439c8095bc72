"""Contract of what happens to a variant over time: every change is answered once, and no failure is for ever.

Timelines of single changes are in ``test_pipeline_automation``; these go on to what follows: repairs, the nightly
back-stop, removals, runs started by hand. Conditions, sensors, schedule and event log are the real ones; only the work
inside the steps is fake (see pipeline_support).
"""

from __future__ import annotations

import dagster as dg
import pytest

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


# -- failures and repairs


def test_a_failed_merge_is_repaired_in_one_night_with_all_that_waits_for_it(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    """Nothing changed but the world, a full disk say: no edge that the condition could see."""
    fake.failing.add("mean")
    project.checkpoint("one", "other weights")
    chain.observe()
    chain.settle()
    fake.failing.clear()
    assert chain.settle() == []
    fake.calls.clear()
    assert sorted(chain.night()) == EVERYTHING
    assert sorted(fake.calls) == ["mean", "quick mean", "quick second", "rank", "second"]
    assert chain.settle() == [], "the run of the night has answered what it changed"
    assert chain.night() == []


def test_a_failed_first_build_is_repaired_in_one_night(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing.add("mean")
    daemon = Daemon(project)
    daemon.observe()
    daemon.settle()
    fake.failing.clear()
    fake.calls.clear()
    assert sorted(daemon.night()) == EVERYTHING
    assert daemon.settle() == []
    assert fake.calls.count("mean") == fake.calls.count("quick second") == 1


def test_a_merge_that_still_fails_is_tried_once_a_night(chain: Daemon, project: Project, fake: FakeApi) -> None:
    fake.failing.add("mean")
    project.checkpoint("one", "other weights")
    chain.observe()
    chain.settle()
    for _ in range(3):
        fake.calls.clear()
        chain.night()
        assert chain.settle() == []
        assert fake.calls.count("mean") == 1
        assert "second" not in fake.calls


def test_a_failed_merge_whose_recipe_is_edited_is_repaired_at_once(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing.add("mean")
    daemon = Daemon(project)
    daemon.observe()
    daemon.settle()
    fake.failing.clear()
    project.recipe("mean", EDITED)
    daemon.reload()
    assert sorted(daemon.settle()) == EVERYTHING


def test_what_depends_on_a_failed_check_waits_for_the_repair_and_then_runs(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing_checks.add("mean")
    daemon = Daemon(project)
    daemon.observe()
    daemon.settle()
    assert daemon.night() == []
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
    chain.night()
    assert not {"quick mean", "second"} & set(fake.calls)
    fake.failing_checks.clear()
    project.checkpoint("one", "better weights")
    chain.observe()
    chain.settle()
    assert {"mean", "quick mean", "second", "quick second"} <= set(fake.calls)


def test_what_dagster_remembers_of_a_condition_is_remembered_apart(chain: Daemon) -> None:
    """It stores each ``since`` under a digest of its shape; two of one shape would overwrite each other."""
    result = dg.evaluate_automation_conditions(chain.definitions, instance=chain.instance)
    for each in result.results:
        waiting, seen = [each.serializable_evaluation], []
        while waiting:
            node = waiting.pop()
            waiting += node.child_evaluations
            if node.condition_snapshot.name == "SINCE":
                seen.append(node.condition_snapshot.unique_id)
        assert len(set(seen)) == len(seen) == 3


# -- observations


def test_an_observation_of_the_same_bytes_rebuilds_nothing(chain: Daemon) -> None:
    report_observation(chain.instance, key("base/checkpoints/one"), sha("weights of one"), {"revision": "newer"})
    assert chain.settle() == []
    assert chain.night() == []


def test_nothing_is_built_from_a_checkpoint_that_nobody_has_observed(project: Project, fake: FakeApi) -> None:
    """A build would record that it used unknown bytes, and the first observation would make it a second time."""
    project.recipe("mean", MEAN)
    daemon = Daemon(project)
    assert daemon.night() == []
    daemon.tick()
    daemon.observe()
    daemon.settle()
    assert daemon.night() == []
    assert fake.calls.count("mean") == 1


def test_a_build_by_hand_beside_the_daemon_is_not_repeated_by_it(
    chain: Daemon, project: Project, fake: FakeApi
) -> None:
    project.recipe("mean", EDITED)
    chain.reload()
    assert chain.run([key(name) for name in EVERYTHING])
    before = len(fake.calls)
    chain.settle()
    # The edit itself is an edge that the daemon has not answered; what the run changed is none.
    assert set(fake.calls[before:]) <= {"mean"}


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
    assert chain.night() == []


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
            assert {*daemon.tick(), *daemon.tick()} <= {"leaderboard"}  # which collects other scores from now on

    project.checkpoint("one", "weights of one# a comment")
    daemon.observe()
    fake.during = add_once
    daemon.settle()
    assert "second" in fake.calls


# -- the night


def test_what_a_run_is_working_on_is_left_alone_at_night(chain: Daemon, project: Project, fake: FakeApi) -> None:
    project.checkpoint("one", "other weights")
    chain.observe()
    seen: list[list[str]] = []
    fake.during = lambda name: seen.append(chain.night()) if name == "mean" and not seen else None
    run = chain.definitions.resolve_job_def("build").execute_in_process(
        instance=chain.instance, asset_selection=[key("variants/mean")]
    )
    assert run.success
    assert seen == [["scores/quick/checkpoints/one", "leaderboard"]], "neither the merge nor what waits for it"


def test_the_leaderboard_of_the_night_collects_what_there_is(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("pruned", PRUNED)
    daemon = Daemon(project)
    for name in ("one", "two"):  # the third cannot be read
        report_observation(daemon.instance, key(f"base/checkpoints/{name}"), sha(f"weights of {name}"), {})
    assert daemon.night() == [
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
    assert set(fake.calls) <= {"rank"}
    daemon.night()
    assert set(fake.calls) == {"rank"}, "the leaderboard is made without it"
    assert daemon.night() == []
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
    chain.night()
    assert set(fake.calls) <= {"rank"}
    assert chain.instance.get_latest_materialization_event(key("variants/second")) == before
    project.recipe("mean", MEAN)
    chain.reload()
    chain.settle()
    assert chain.night() == []


def test_a_recipe_that_comes_back_unchanged_is_not_built_again(chain: Daemon, project: Project, fake: FakeApi) -> None:
    (project.root / "recipes" / "second.yaml").unlink()
    chain.reload()
    chain.settle()
    project.recipe("second", SECOND)
    chain.reload()
    chain.settle()
    assert "second" not in fake.calls
