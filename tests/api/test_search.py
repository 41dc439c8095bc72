"""A search: candidates are tried until the budget is spent; what was begun is finished by whoever comes next, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_assets import api
from merge_assets.api.candidates import Candidates
from merge_assets.api.confirm import confirm
from merge_assets.api.promote import promote
from merge_assets.api.trying import Trying
from merge_assets.errors import RecipeError, SearchError, Stopped
from merge_assets.evaluation import runner
from merge_assets.plan import PlanInput, build
from merge_assets.plan.sharing import Keys
from merge_assets.recipe import Recipe
from merge_assets.reference import ModelReference
from merge_assets.search.trials import Trial
from merge_assets.settings import Settings
from merge_assets.work import Work
from tests.commands import command_environment, run_command
from tests.evaluation_support import HereWorker, write_checkpoint, write_suite
from tests.search_project import PLACE, RECIPE, write_search
from tests.synthetic import read_tensors

SUITE = """\
headline: average
include_path: tasks
confirm: 8
tasks:
  - {task: tiny_choice, metric: acc, shots: 0}
  - {task: tiny_perplexity, metric: word_perplexity, shots: 0, headline: false}
"""


def write_project(root: Path) -> Path:
    write_search(root)
    (root / "suites").mkdir()
    write_suite(root / "suites", documents=24).unlink()
    (root / "suites/tiny.yaml").write_text(SUITE)
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("models"))


@pytest.fixture
def project(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own; models are evaluated in this process."""
    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    root = tmp_path / "project"
    for folder in ("recipes", "suites"):
        (root / folder).mkdir(parents=True)
    (root / "merge-assets.toml").write_text("default_suites = []\ndevice = 'cpu'\n")
    for name in ("a", "b", "suites/tasks"):
        (root / name).symlink_to(models / name)
    for name in ("recipes/best.yaml", "suites/tiny.yaml"):
        (root / name).write_text((models / name).read_text())
    return root


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, device="cpu", default_suites=[]))


def shown(trials: list[Trial]) -> list[object]:
    return [(one.number, one.state, dict(one.values), one.objectives, one.told.get("fingerprint")) for one in trials]


@pytest.mark.slow
def test_every_trial_is_the_candidate_that_it_says_and_none_is_left_in_the_store(project: Path, tmp_path: Path) -> None:
    space = opened(project)
    found = api.search(space, "best")
    trials = found.trials.all()

    assert [trial.state for trial in trials] == ["done"] * 4
    for trial in trials:
        recipe = found.candidate(trial)
        alone = tmp_path / f"{trial.number}.yaml"
        alone.write_text(recipe.source.text)
        api.merge(space, api.load_recipe(alone), tmp_path / str(trial.number))
        scores = api.evaluate(space, tmp_path / str(trial.number), "tiny", documents="search").scores
        assert (scores.headline,) == trial.objectives
    assert found.trials.best() == [max(trials, key=lambda one: (one.objectives, -one.number))]
    assert space.store.lines("variants") == [] and Candidates(space).store.lines("searches") == []


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on_and_comes_to_the_same(project: Path, models: Path, tmp_path: Path) -> None:
    whole = shown(api.search(opened(project), "best").trials.all())
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a", "b", "suites", "recipes"):
        (other / name).symlink_to(project / name)
    seen: list[str] = []

    def second() -> bool:
        return any(label.startswith("trial 1") for label in seen)

    with pytest.raises(Stopped):
        api.search(opened(other), "best", work=Work(lambda done, total, label: seen.append(label), second))
    left = api.open_search(opened(other), "best").trials.all()
    assert [trial.state for trial in left] == ["done", "running"]
    assert shown(api.search(opened(other), "best").trials.all()) == whole
    assert shown(api.search(opened(other), "best").trials.all()) == whole  # nothing is left to do


@pytest.mark.slow
def test_points_that_make_the_same_merge_are_built_and_evaluated_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value, a gradient of it, and a longer one; another value is another merge."""
    spelled = [0.5, [0.5], [0.5, 0.5], 0.25]
    text = RECIPE.replace("{low: 0, high: 1}", json.dumps(spelled))
    start = json.dumps([{PLACE: value} for value in spelled])
    (project / "recipes/best.yaml").write_text(text.replace("trials: 4", f"trials: 4\n  start: {start}"))
    built = []
    make = Trying.make
    monkeypatch.setattr(Trying, "make", lambda *given: built.append(given[3]) or make(*given))
    found = api.search(opened(project), "best")

    trials = found.trials.all()
    assert [trial.same_as for trial in trials] == [None, 0, 0, None]
    assert [line.rpartition("-")[2] for line in built] == ["0", "3"]
    assert {trial.objectives for trial in trials[:3]} == {trials[0].objectives}
    assert {trial.told["fingerprint"] for trial in trials[:3]} == {trials[0].told["fingerprint"]}
    assert trials[3].told["fingerprint"] != trials[0].told["fingerprint"]
    shown = run_command("search", "best", "show", root=project).stdout
    assert shown.count("as 0") == 2


@pytest.mark.slow
def test_a_candidate_that_fails_says_why_and_the_search_goes_on(project: Path) -> None:
    text = RECIPE.replace('{"parameters.t[0].value": {low: 0, high: 1}}', '{"models[1].model": [b, nowhere]}')
    start = 'start: [{"models[1].model": nowhere}]\n  objective:'
    (project / "recipes/best.yaml").write_text(text.replace("objective:", start))
    found = api.search(opened(project), "best")
    states = {str(trial.values["models[1].model"]): trial.state for trial in found.trials.all()}

    assert states == {"b": "done", "nowhere": "failed"}
    assert "nowhere" in found.trials.all()[0].reason
    assert found.trials.best()[0].values == {"models[1].model": "b"}


def test_the_plan_says_where_is_looked_and_what_a_candidate_writes(project: Path) -> None:
    made = api.plan_search(opened(project), "best")
    tensors = {tensor.name: tensor for tensor in made.corners[0][1].tensors}
    attention = [tensor for name, tensor in tensors.items() if "self_attn" in name]

    assert [point.swept and point.swept.values for point, _ in made.corners] == [{PLACE: 0}, {PLACE: 1}]
    assert made.changed == len(attention) and made.bytes_changed == sum(tensor.nbytes for tensor in attention)
    shown = run_command("plan", "best", root=project)
    assert shown.code == 0 and f"{len(attention)} of {len(tensors)} are changed by the search" in shown.stdout
    assert "from 0 to 1" in shown.stdout
    told = json.loads(run_command("plan", "best", "--json", root=project).stdout)
    assert told["objectives"] == ["tiny"] and told["changed_tensors"] == len(attention)
    assert "search  best; `merge-assets search best`" in run_command("recipes", root=project).stdout
    wrong = run_command("merge", "best", "out", root=project)
    assert wrong.code == 2 and "'best' is a search; `merge-assets search best`" in wrong.stderr


def test_all_failing_is_an_error(project: Path) -> None:
    (project / "recipes/best.yaml").write_text(RECIPE.replace("{low: 0, high: 1}", "[[0, wrong], [1, wrong]]"))
    with pytest.raises((SearchError, RecipeError), match=r"wrong"):
        api.search(opened(project), "best")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("suite: tiny", "suite: tyni", "search.objective[0].suite: there is no suite 'tyni'"),
        (
            "suite: tiny",
            "suite: tiny, task: tiny_chioce",
            "the suite tiny has no tiny tiny_chioce; it has tiny_choice acc",
        ),
        ("suite: tiny", "suite: tiny, task: tiny_perplexity", "write higher_is_better for tiny_perplexity"),
        ("parameters.t[0].value", "parameters.t[3].value", "parameters.t has 2 entries"),
        ("parameters.t[0].value", "parameters.x", "x"),
        ("model: b", "model: c", "c"),
    ],
)
def test_a_search_that_cannot_be_is_one_error_before_anything_is_tried(
    old: str, new: str, said: str, project: Path
) -> None:
    (project / "recipes/best.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(Exception) as caught:
        api.open_search(opened(project), "best")
    assert said in str(caught.value) and "best.yaml" in str(caught.value)
    assert not (project / "var/searches.db").exists()


def test_other_bytes_of_a_model_another_space_and_another_suite_are_other_searches(project: Path) -> None:
    def study() -> str:
        (project / "var").mkdir(exist_ok=True)
        return api.open_search(opened(project), "best").study

    first = study()
    (project / "recipes/best.yaml").write_text(RECIPE.replace("trials: 4", "trials: 9"))
    assert study() == first
    (project / "recipes/best.yaml").write_text(RECIPE.replace("high: 1", "high: 0.5"))
    assert study() != first
    (project / "recipes/best.yaml").write_text(RECIPE)
    (project / "suites/tiny.yaml").write_text(SUITE.replace("confirm: 8", "confirm: 9"))
    assert study() != first
    (project / "suites/tiny.yaml").write_text(SUITE)
    assert study() == first
    folder = (project / "a").resolve()
    (project / "a").unlink()
    (project / "a").mkdir()
    for file in folder.iterdir():
        (project / "a" / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: torch.flip(one, [0]) for name, one in weights.items()}, project / "a/model.safetensors", {"format": "pt"}
    )
    assert study() != first


def test_a_candidate_has_the_bytes_of_a_clean_build_and_shares_what_it_does_not_change(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = opened(project)
    found = api.open_search(space, "best")
    together, corners = found.together, []
    real = build._keys

    def counted(point: Recipe, inputs: Sequence[PlanInput]) -> Keys | None:
        corners.append(point.name)
        return real(point, inputs)

    monkeypatch.setattr(build, "_keys", counted)

    def built(value: float, number: int) -> tuple[Recipe, Path]:
        candidates = Candidates(space)  # as each worker has its own
        recipe = found.candidate(Trial(number, "running", {PLACE: value}, (), "", {}, None, None))
        made = candidates.build(recipe, candidates.plan(recipe, together), f"searches/x/trial-{number}")
        return recipe, made.directory(tmp_path)

    folders = {}
    for number, value in enumerate((0.25, 0.75)):
        recipe, folders[number] = built(value, number)
        alone = tmp_path / f"{number}.yaml"
        alone.write_text(recipe.source.text)
        api.merge(space, api.load_recipe(alone), tmp_path / str(number))
        one, other = read_tensors(folders[number]), read_tensors(tmp_path / str(number))
        assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    assert corners == ["best-trial-0", "best-trial-1"]  # which tell what the search changes, once for all candidates
    nodes = [{file.stat().st_ino for file in folder.glob("*.safetensors")} for folder in folders.values()]
    assert len(nodes[0] & nodes[1]) == 1 and len(nodes[0]) == 2
    Candidates(space).drop(["searches/x/trial-0"])
    assert not folders[0].exists() and read_tensors(folders[1]).keys() == read_tensors(tmp_path / "1").keys()


@pytest.mark.slow
def test_the_best_is_compared_on_documents_that_the_search_did_not_see_and_promoted(project: Path) -> None:
    space = opened(project)
    found = api.search(space, "best")
    (best,) = found.trials.best()
    rows = confirm(space, found, best)

    assert [row.model for row in rows] == ["a", "b"]
    for row in rows:
        ours, theirs = (
            [api.evaluate(space, folder, "tiny", documents=part).scores for part in ("search", "confirm")]
            for folder in (_candidate(space, found, best), project / row.model)
        )
        gains = [
            one.headline - other.headline for one, other in zip(ours, theirs, strict=True) if one.headline is not None
        ]
        assert [row.searched, row.confirmed] == gains and row.too_good == gains[0] - gains[1]
        assert ours[1].tasks[0].n == 8 and ours[0].tasks[0].n == 16
        assert row.verdict.word in ("better", "worse", "cannot tell")
        assert row.interval is not None and row.interval[0] <= row.confirmed <= row.interval[1]

    other = project / "c"
    api.merge(space, api.load_recipe(_linear(project)), other)
    beside = [ModelReference.parse("./c")]
    (*_, row) = confirm(space, found, best, beside=beside)
    ours = api.evaluate(space, _candidate(space, found, best), "tiny", documents="confirm").scores.headline
    theirs = api.evaluate(space, other, "tiny", documents="confirm").scores.headline
    assert row.model == "./c" and ours is not None and theirs is not None and row.confirmed == ours - theirs

    file = promote(space, found, best)
    assert file == project / "recipes/best-best.yaml"
    with pytest.raises(RecipeError, match="is there already"):
        promote(space, found, best)
    again = opened(project)
    assert again.recipe("best-best").digest == found.candidate(best).digest
    assert file.read_text().startswith(f"# Trial {best.number} of the search best (best-")


def _linear(project: Path) -> Path:
    file = project / "linear.yaml"
    file.write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n")
    return file


def _candidate(space: api.Workspace, found: api.OpenSearch, trial: Trial) -> Path:
    candidates, recipe = Candidates(space), found.candidate(trial)
    made = candidates.build(recipe, candidates.plan(recipe, found.together), "searches/y/trial-0")
    return made.directory(space.cache)


@pytest.mark.slow
def test_several_workers_try_each_trial_once(models: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    for name in ("a", "b", "suites", "recipes", "merge-assets.toml"):
        (root / name).symlink_to(models / name)
    done = run_command("search", "best", "--trials", "5", "--workers", "2", root=root)
    assert done.code == 0, done.stderr

    told = sorted(line.split()[1] for line in done.stderr.splitlines() if line.startswith("trial "))
    assert told == ["0", "1", "2", "3", "4"]
    listed = json.loads(run_command("search", "best", "show", "--json", root=root).stdout)["trials"]
    assert [one["state"] for one in listed] == ["done"] * 5
    assert len({one["values"][PLACE] for one in listed}) == 5


HALVED = """\
merge_method: linear
models: [{model: good, parameters: {weight: 1.0}}, {model: bad, parameters: {weight: 0.0}}]
evaluate: []
search:
  space: {"models[1].parameters.weight": {low: 0, high: 1}}
  objective: {suite: tiny, task: tiny_perplexity}
  trials: 4
  start: [{WEIGHT: 0.5}, {WEIGHT: 0.0}, {WEIGHT: 0.9}, {WEIGHT: 0.01}]
  halving: {steps: 2}
""".replace("WEIGHT", '"models[1].parameters.weight"')
HALVED_SUITE = """\
headline: average
include_path: tasks
confirm: 0.2
batch_size: 16
tasks:
  - {task: tiny_choice, metric: acc, shots: 0}
  - {task: tiny_perplexity, metric: word_perplexity, shots: 0, headline: false, higher_is_better: false}
"""


@pytest.fixture
def halved(project: Path) -> Path:
    """One model that guesses and one that is sure of what is wrong: the more of the second, the worse, in every text."""
    for seed, (name, factor) in enumerate((("good", 0.1), ("bad", 4.0))):
        write_checkpoint(project / name, seed=seed)
        weights = load_file(project / name / "model.safetensors")
        scaled = {key: factor * one for key, one in weights.items()}
        save_file(scaled, project / name / "model.safetensors", {"format": "pt"})
    (project / "suites/tasks").unlink()
    write_suite(project / "suites", documents=80).unlink()
    (project / "suites/tiny.yaml").write_text(HALVED_SUITE)
    (project / "recipes/best.yaml").write_text(HALVED)
    return project


@pytest.mark.slow
def test_halving_gives_up_what_is_worse_than_the_best_and_asks_the_rest_of_all(halved: Path) -> None:
    space = opened(halved)
    found = api.search(space, "best")
    trials = found.trials.all()

    assert [trial.state for trial in trials] == ["done", "done", "given up", "done"]
    assert found.trials.best() == [trials[1]]
    assert [trial.told["documents"] for trial in trials] == [128, 128, 32, 128]
    assert trials[2].reason.startswith("worse than trial 1 on 1/4 of the documents (evidence ")
    assert trials[2].objectives == () and trials[1].objectives == (
        trials[1].told["objectives"]["tiny tiny_perplexity"],
    )

    shown = run_command("search", "best", "show", root=halved)
    assert "given up" in shown.stdout and "4 of 4 finished" in shown.stdout
    again = api.search(opened(halved), "best", documents=1000)
    assert len(again.trials.all()) == 4
    more = api.search(opened(halved), "best", trials=9, documents=417)
    assert len(more.trials.all()) == 5  # 416 were asked, so one more is begun


@pytest.mark.slow
def test_halving_comes_to_the_same_where_another_worker_has_made_the_best(halved: Path) -> None:
    whole = shown(api.search(opened(halved), "best").trials.all())
    (halved / "var/searches.db").unlink()
    again = [shown(api.search(opened(halved), "best", trials=number).trials.all()) for number in (1, 2, 3, 4)]
    assert again[-1] == whole


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("confirm: 0.2", "", "search.halving: the suite tiny keeps no documents from a search; write confirm: 0.3"),
        ("{suite: tiny, task: tiny_perplexity}", "{size: parameters}", "a size is of no documents"),
        ("{suite: tiny, task: tiny_perplexity}", "[{suite: tiny}, {size: parameters}]", "one objective, or several"),
        ("steps: 2", "steps: 7", "less than or equal to 6"),
        ("steps: 2", "level: 0.5", "less than 0.5"),
    ],
)
def test_a_halving_that_cannot_be_is_one_error_before_anything_is_tried(
    old: str, new: str, said: str, halved: Path
) -> None:
    for file in (halved / "recipes/best.yaml", halved / "suites/tiny.yaml"):
        file.write_text(file.read_text().replace(old, new))
    with pytest.raises(Exception) as caught:
        api.open_search(opened(halved), "best")
    assert said in str(caught.value) and "best.yaml" in str(caught.value)


def test_no_worker_begins_a_trial_beyond_the_budget(project: Path) -> None:
    (project / "recipes/best.yaml").write_text(RECIPE.replace("{suite: tiny}", "{size: parameters}"))
    for budget in range(1, 12, 2):
        found = api.search(opened(project), "best", trials=budget, workers=4)
        assert [(trial.number, trial.reason) for trial in found.trials.all()] == [(n, "") for n in range(budget)]


@pytest.mark.slow
def test_the_trials_of_a_killed_process_are_finished_by_the_next_and_the_table_is_the_same(models: Path) -> None:
    root = models
    command = [sys.executable, "-m", "merge_assets", "search", "best", "--trials", "3", "--json"]
    environment = command_environment(root)
    killed = 0
    while killed < 2:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 300
        while not _states(root).count("running") and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed += 1
    done = run_command("search", "best", "--trials", "3", "--json", root=root)
    assert done.code == 0, done.stderr
    listed = json.loads(run_command("search", "best", "show", "--json", root=root).stdout)["trials"]
    assert [(one["number"], one["state"]) for one in listed] == [(0, "done"), (1, "done"), (2, "done")]

    assert Candidates(opened(root)).store.lines("searches") == []

    shown = run_command("search", "best", "show", root=root).stdout
    assert "best" in shown and "3 of 4 finished" in shown
    table = run_command("search", "best", "export", "trials.csv", root=root)
    assert table.code == 0 and len((root / "trials.csv").read_text().splitlines()) == 4
    for arguments in (["export", "trials.txt"], ["promote", "9"], ["show", "x"], ["show", "--than", "a"]):
        wrong = run_command("search", "best", *arguments, root=root)
        assert wrong.code == 2 and "Traceback" not in wrong.stderr and wrong.stderr.strip()
    assert run_command("search", "bset", root=root).stderr.strip().endswith("a recipe with the key search is one")


def _states(root: Path) -> list[str]:
    import sqlite3

    file = root / "var/searches.db"
    if not file.exists():
        return []
    try:
        with sqlite3.connect(file) as base:
            return [str(state).lower() for (state,) in base.execute("select state from trials")]
    except sqlite3.Error:
        return []
