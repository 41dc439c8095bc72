"""The examples of searches run as they stand: each is planned, and tries candidates on the demo's checkpoints.

Of each task four documents are asked, which is enough to see that everything works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from merge_assets import api
from merge_assets.analysis import importance_run
from merge_assets.api.confirm import confirm
from merge_assets.evaluation import runner
from merge_assets.recipe import Recipe
from merge_assets.recipe.schema_templates import TextSample
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.evaluation_support import HereWorker

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples" / "searches").glob("*.yaml"))
NAMES = [file.stem for file in EXAMPLES]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Workspace]:
    """A project of all examples and the demo's own search, with the analyses that one of them asks for."""
    root = tmp_path_factory.mktemp("project")
    for name in ("examples", "README.md"):
        (root / name).symlink_to(ROOT / name)
    (root / "suites").mkdir()
    (root / "suites/tasks").symlink_to(ROOT / "suites" / "tasks")
    for name in ("demo-quick", "demo-answers"):
        text = (ROOT / "suites" / f"{name}.yaml").read_text()
        (root / "suites" / f"{name}.yaml").write_text(text.replace("shots: 0", "shots: 0, limit: 4"))
    (root / "recipes").mkdir()
    for file in (*EXAMPLES, ROOT / "recipes" / "demo" / "best-mix.yaml"):
        (root / "recipes" / file.name).write_text(file.read_text())
    made = api.Workspace.open(Settings(root=root, device="cpu", default_suites=[]))
    base = ModelReference("examples/checkpoints/base")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small lose much by a second one where another process has the core
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "ModelWorker", HereWorker)
        patch.setattr(importance_run, "ModelWorker", HereWorker)
        patch.chdir(root)
        api.analyse(made, base, modules=["self_attn.v_proj"])
        api.measure_importance(made, base, "activations", TextSample(file="README.md", tokens=2048))
        yield made
    torch.set_num_threads(threads)


def recipe_of(space: api.Workspace, name: str) -> Recipe:
    return space.book.searches[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_called_as_its_file_and_says_what_was_published(name: str, space: api.Workspace) -> None:
    assert recipe_of(space, name).name == name
    text = (ROOT / "examples" / "searches" / f"{name}.yaml").read_text()
    comment = text[: text.index("\nname:")]
    assert re.search(r"arXiv:\d{4}\.\d{5}|SIGGRAPH", comment)
    assert not space.book.broken and not space.suites.broken


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "best-mix"])
def test_an_example_is_planned_and_tries_candidates(name: str, space: api.Workspace) -> None:
    made = api.plan_search(space, name)
    assert made.changed and made.bytes_changed <= made.bytes_to_write
    found = api.search(space, name, trials=2)
    trials = found.trials.all()[:2]

    assert [(trial.state, trial.reason) for trial in trials] == [("done", "")] * 2
    assert all(len(trial.objectives) == len(found.search.objective) for trial in trials)
    assert found.trials.best()


@pytest.mark.slow
def test_fewer_tokens_of_an_answer_are_better_and_both_objectives_are_confirmed(space: api.Workspace) -> None:
    found = api.search(space, "instruct-thinking", trials=3)
    trials, labels = found.trials.all(), found.labels

    assert found.higher == (True, False) and labels[1].endswith("tokens_per_answer")
    assert all(0 < trial.told["objectives"][labels[1]] <= 48 for trial in trials)
    best = {trial.number for trial in found.trials.best()}
    shortest = min(trials, key=lambda one: (one.objectives[1], -one.objectives[0]))
    assert shortest.number in best
    rows = confirm(space, found, found.trials.best()[0])
    assert {(row.model, row.objective) for row in rows} == {
        (f"examples/checkpoints/{model}", label) for model in ("scripture", "manual") for label in labels
    }
    assert all(row.confirmed is not None for row in rows)


@pytest.mark.slow
def test_decays_that_stand_for_the_same_weights_are_tried_once(space: api.Workspace) -> None:
    found = api.search(space, "average-checkpoints", trials=12)
    tried: dict[str, list[object]] = {}
    for trial in found.trials.all():
        (decay,) = trial.values.values()
        tried.setdefault("mean" if isinstance(decay, str) else str(decay), []).append(trial.same_as)

    assert len(tried["mean"]) > 1
    assert all(numbers.count(None) == 1 for numbers in tried.values())
