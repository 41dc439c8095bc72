"""Contract of a search in Dagster: one asset that is stopped, resumed and made again as every other, and what it found is a
variant of which the lineage leads to it.

Timelines are of fake work (see pipeline_support). Where trials count, candidates are real ones of tiny checkpoints, judged by
their size alone, so that nothing is evaluated.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from merge_assets import api
from merge_assets.api.candidates import Candidates
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reloading import Changes
from merge_assets.pipeline.selection import searches_of, select
from merge_assets.recipe import RecipeBook
from merge_assets.records import SearchDetails
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from merge_assets.workspace.snapshot import Snapshot
from tests.commands import run_command
from tests.evaluation_support import write_checkpoint
from tests.pipeline_support import MEAN, SEARCH, Daemon, FakeApi, Project, fake, project
from tests.synthetic import read_tensors

__all__ = ["fake", "project"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore")

SIZED = """\
merge_method: slerp
models: [{model: a}, {model: b}]
base_model: a
parameters: {t: 0.5}
dtype: float32
search:
  space: {parameters.t: {low: 0, high: 1}, "models[1].model": [b, c]}
  objective: {size: parameters}
  trials: 5
  sampler: random
"""
STOPPED = """
import sys, time
from pathlib import Path
import dagster as dg
from merge_assets.api import Workspace, search as _
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.settings import Settings
import importlib

worker = importlib.import_module("merge_assets.api.search")._Worker
tried = worker._tried

def slow(self, trial, work):
    if trial.number == 2:
        Path("began").touch()
        while True:
            work.check()
            time.sleep(0.01)
    return tried(self, trial, work)

worker._tried = slow
definitions = build_definitions(Workspace.open(Settings(root=Path.cwd(), device="cpu", default_suites=[])))
definitions.resolve_job_def("build").execute_in_process(
    instance=dg.DagsterInstance.ephemeral(), asset_selection=[dg.AssetKey(["search", "best"])], raise_on_error=False
)
"""
BEST, FOUND = dg.AssetKey(["search", "best"]), dg.AssetKey(["variants", "best"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        write_checkpoint(tmp_path / name, seed=seed)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "best.yaml").write_text(SIZED)
    return tmp_path


def opened(root: Path) -> Workspace:
    return Workspace.open(Settings(root=root, device="cpu", default_suites=[]))


def run(root: Path, *keys: dg.AssetKey, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    job = build_definitions(opened(root)).resolve_job_def("build")
    return job.execute_in_process(
        instance=dg.DagsterInstance.ephemeral(),
        asset_selection=list(keys),
        run_config={"ops": config} if config else None,
        raise_on_error=False,
    )


def requested(daemon: Daemon) -> set[str]:
    return {key.to_user_string() for one in daemon.request() for key in one.asset_selection or []}


# -- as assets


def test_a_search_depends_on_every_model_that_a_candidate_may_be_made_of(project: Project) -> None:
    project.recipe("best", SEARCH.replace("checkpoints/three]", "checkpoints/three, checkpoints/nowhere/at-all]"))
    (node,) = build_graph(project.workspace()).searches
    assert {model.key.to_user_string() for model in node.models} == {
        f"base/checkpoints/{name}" for name in ("one", "two", "three")
    }
    assert node.automated
    assert not build_graph(project.workspace(automate=["other"])).searches[0].automated


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("suite: quick", "suite: quikc", "there is no suite 'quikc'"),
        ("models[1].parameters.weight", "models[2].parameters.weight", "models[2].parameters.weight is no place"),
        ("checkpoints/two", "checkpoints/nowhere/at-all", "checkpoints/nowhere/at-all"),
    ],
)
def test_a_search_that_cannot_be_is_shown_as_broken(old: str, new: str, said: str, project: Project) -> None:
    project.recipe("best", SEARCH.replace(old, new))
    graph = build_graph(project.workspace())
    assert not graph.searches and said in graph.broken[0].message


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ({"trials": 4}, True),
        ({"start": [{"models[1].parameters.weight": 0.25}]}, True),
        ({"space": {"models[1].parameters.weight": {"low": 0, "high": 2}}}, True),
        ({"objective": {"suite": "quick", "task": "arc_easy"}}, True),
        ({}, False),
    ],
)
def test_what_it_looks_for_is_in_its_code_version(change: dict[str, Any], is_other: bool, project: Project) -> None:
    content = yaml.safe_load(SEARCH)
    content["search"] |= change
    project.recipe("best", SEARCH)
    before = build_graph(project.workspace()).searches[0].code
    project.recipe("best", yaml.safe_dump({**content, "description": "other words"}, sort_keys=False))
    assert (build_graph(project.workspace()).searches[0].code != before) == is_other


def test_a_search_has_the_schedule_of_its_recipe(project: Project) -> None:
    project.recipe("best", f'schedule: "0 3 * * *"\n{SEARCH}')
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    assert "recipes_best" in {schedule.name for schedule in definitions.schedules or ()}


# -- over time


def test_a_search_is_made_by_itself_and_what_it_found_when_that_is_read(project: Project, fake: FakeApi) -> None:
    project.recipe("best", SEARCH)
    daemon = Daemon.begun(project)
    assert fake.calls == ["search best"]

    daemon.reload()
    (node,) = build_graph(project.workspace()).variants
    assert set(node.deps) == {BEST, *(model.key for model in node.parents)}
    assert "weight: 0.5" in node.recipe.source.text
    daemon.settle()
    scored = [f"quick {name}" for name in ("best", "checkpoints/one", "checkpoints/two")]
    assert sorted(fake.calls) == ["best", *scored, "rank", "search best"]


def test_a_parent_that_changes_makes_the_search_again_and_what_it_found_waits_for_it(
    project: Project, fake: FakeApi
) -> None:
    project.recipe("best", SEARCH)
    daemon = Daemon.begun(project)
    daemon.reload()
    daemon.settle()

    project.checkpoint("three", "other weights")  # of which a candidate may be made, and the one that was found is not
    daemon.observe()
    fake.best = 0.75
    assert requested(daemon) == {"search/best"}
    assert daemon.run([BEST])
    assert requested(daemon) == set()
    assert "variants/best waits: search/best says that this is another one" in daemon.said
    assert daemon.run([FOUND])
    assert fake.calls.count("best") == 1, "of the recipe that is not what was found, nothing is built"

    daemon.reload()
    daemon.settle()
    assert fake.calls.count("search best") == fake.calls.count("best") == 2
    assert daemon.settle() == []


def test_another_space_makes_the_search_again(project: Project, fake: FakeApi) -> None:
    project.recipe("best", SEARCH)
    daemon = Daemon.begun(project)
    project.recipe("best", SEARCH.replace("high: 1", "high: 2"))
    daemon.reload()
    assert "search/best" in requested(daemon)


def test_who_reads_the_folders_again_learns_what_was_found(project: Project, fake: FakeApi) -> None:
    project.recipe("best", SEARCH)
    changes = Changes(project.workspace().settings)
    assert changes.changed(changes.look()) == []
    fake.conclude(project.workspace(), "best")
    (changed,) = changes.changed(changes.look())
    assert changed == Path("searches/best") and changes.is_whole(changed)


# -- what was found, as a recipe


def test_what_was_found_stays_when_the_search_is_edited_and_is_called_as_the_file_says(
    project: Project, fake: FakeApi
) -> None:
    project.recipe("best", SEARCH)
    fake.conclude(project.workspace(), "best")
    before = project.workspace().recipe("best")
    project.recipe("best", f"description: Other words.\nevaluate: []\n{SEARCH.replace('linear', 'ties')}")
    after = project.workspace().recipe("best")
    assert after.digest == before.digest and (after.description, after.evaluate) == ("Other words.", ())
    assert before.source.text.startswith("# Trial 2 of 3 of the search best (best-x): quick 0.5.\n")


def test_a_run_keeps_what_was_found_when_it_was_planned(project: Project, fake: FakeApi) -> None:
    project.recipe("best", SEARCH)
    fake.conclude(project.workspace(), "best")
    planned = project.workspace()
    graph, packed = build_graph(planned), planned.snapshot().pack()
    fake.best = 0.75
    fake.conclude(project.workspace(), "best")
    again = Workspace.open(Settings(root=project.root), planned=Snapshot.unpack(packed))
    assert build_graph(again) == graph and again.snapshot().pack() == packed
    assert build_graph(project.workspace()) != graph


def test_what_was_found_has_no_name_of_another_and_nothing_is_made_of_it(project: Project, fake: FakeApi) -> None:
    project.recipe("best", SEARCH)
    project.recipe("mean", MEAN)
    fake.conclude(project.workspace(), "best")
    project.recipe("next", "{merge_method: passthrough, models: [{model: best-2}]}")
    (result,) = project.workspace().book.results
    (found,) = result.details.found
    front = tuple(found.model_copy(update={"name": name}) for name in ("mean", "best-2"))
    several = result.model_copy(update={"details": result.details.model_copy(update={"found": front})})
    book = RecipeBook.load(project.workspace().settings.recipes).with_found([several])
    assert set(book.recipes) == {"mean", "best-2"} and book.recipes["mean"].found is None
    taken, made = sorted((str(one.error) for one in book.broken), key=lambda text: "promote" in text)
    assert "'mean' is what a search found, and also the name of another recipe; rename that one" in taken
    assert "'best-2' is what the search best found; promote what it found, and name that recipe" in made


def test_a_name_means_the_search_and_what_it_found(project: Project, fake: FakeApi) -> None:
    project.recipe("best", SEARCH)
    fake.conclude(project.workspace(), "best")
    graph = build_graph(project.workspace())
    selected = select(graph, ["best"], with_scores=False)
    assert selected.keys == {BEST, FOUND} and selected == select(graph, [], with_scores=False)
    assert searches_of(graph, selected).keys == {BEST} and len(selected.bases) == 3


# -- with trials


def test_a_run_tries_all_and_shows_the_best_and_another_takes_what_is_there(root: Path) -> None:
    result = run(root, BEST, config={"search__best": {"config": {"workers": 2}}})
    assert result.success
    (event,) = result.asset_materializations_for_node("search__best")
    space = opened(root)
    artifact = space.store.current("searches/best")
    assert artifact is not None and event.tags is not None
    assert event.tags["dagster/data_version"] == artifact.version
    assert set(artifact.manifest.fingerprints) == {"a", "b", "c"}
    details = artifact.manifest.described(SearchDetails)
    opened_search = api.open_search(space, "best")
    trials = opened_search.trials.all()
    assert (details.trials, details.failed, details.study) == (5, 0, opened_search.study)
    (found,) = details.found
    assert (found.name, found.number) == ("best", opened_search.trials.best()[0].number)
    assert space.recipe("best").digest == opened_search.candidate(trials[found.number]).digest
    shown = event.metadata["best_trials"]
    assert isinstance(shown, dg.TableMetadataValue) and len(shown.records) == 5
    assert Candidates(space).store.lines("searches") == []

    again = run(root, BEST)
    (event,) = again.asset_materializations_for_node("search__best")
    assert event.metadata["outcome"].value == "reused from the store"
    assert len(api.open_search(space, "best").trials.all()) == 5


@pytest.mark.slow
def test_what_a_search_found_is_built_as_its_trial_was_and_its_card_says_so(root: Path, tmp_path: Path) -> None:
    assert run(root, BEST).success
    assert run(root, FOUND).success
    space = opened(root)
    built = space.store.current("variants/best")
    found = space.recipe("best").found
    assert built is not None and found is not None
    searched, candidates = api.open_search(space, "best"), Candidates(space)
    trial = searched.trials.all()[found.trial.number]
    recipe = searched.candidate(trial)
    tried = candidates.build(recipe, candidates.plan(recipe, searched.together), "searches/x/trial-0")
    ours, theirs = (read_tensors(one.directory(tmp_path / "copies")) for one in (built, tried))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    card, text = (built.read_bytes(name).decode() for name in ("README.md", "recipe.yaml"))
    said = f"Trial {trial.number} of 5 of the search best"
    assert said in card and "## Search" in card and text.startswith(f"# {said}")


@pytest.mark.slow
def test_a_run_that_is_stopped_is_gone_on_with_and_no_trial_is_lost_or_counted_twice(root: Path) -> None:
    (root / "stopped.py").write_text(STOPPED)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGE_ASSETS_", "DAGSTER_"))}
    repository = str(Path(__file__).parents[2])
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "stopped.py"], cwd=root, env=kept | {"PYTHONPATH": repository}, stdout=log, stderr=log
        )
        until = time.monotonic() + 300
        while not (root / "began").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    left = api.open_search(opened(root), "best").trials.all()
    assert [one.state for one in left] == ["done", "done", "running"], (root / "log").read_text()[-3000:]
    assert opened(root).store.current("searches/best") is None

    assert run(root, BEST).success
    trials = api.open_search(opened(root), "best").trials.all()
    assert [(one.number, one.state) for one in trials] == [(number, "done") for number in range(5)]
    assert [one.values for one in trials[:3]] == [one.values for one in left]


@pytest.mark.slow
def test_build_searches_first_and_makes_what_was_found_then(root: Path) -> None:
    (root / "merge-assets.toml").write_text("default_suites = []\ndevice = 'cpu'\n")

    def build() -> dict[str, str]:
        done = run_command("build", "best", "--json", root=root)
        assert done.code == 0, done.stderr
        return {one["key"]: one["state"] for one in json.loads(done.stdout)["outcomes"]}

    keys = {"search/best", "variants/best"}
    assert {key: state for key, state in build().items() if key in keys} == dict.fromkeys(keys, "built")
    assert {key: state for key, state in build().items() if key in keys} == dict.fromkeys(keys, "up to date")
    assert "found best" in run_command("recipes", root=root).stdout
