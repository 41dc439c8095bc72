"""Scores and analyses stand until what they depend on changes; what they only note is said when they are measured again."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.analysis import run as analysis_run
from merge_assets.evaluation.circumstances import differences
from merge_assets.records import AnalysisDetails
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace.results import KnownScores, current_analysis
from tests.evaluation_support import HereWorker, write_checkpoint
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

QUIZ = """\
task: quiz
dataset_path: some-org/quiz
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
SUITE = "include_path: tasks\ntasks: [{task: quiz, metric: acc, shots: 0}]\n"
PIN = "0123456789abcdef0123456789abcdef01234567"


class DataHub:
    """What the Hub has under the name of the data set, and what it was asked for."""

    def __init__(self) -> None:
        self.questions = ["the king", "a river"]
        self.asked: list[dict[str, Any]] = []

    def load_dataset(self, **options: Any) -> Any:
        import datasets

        self.asked.append(options)
        rows = [{"question": text, "choices": ["light", "dark"], "answer": 0} for text in self.questions]
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> DataHub:
    import datasets

    from merge_assets.evaluation import indexing, runner

    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    made = DataHub()
    index = indexing.TaskManager
    monkeypatch.setattr(datasets, "load_dataset", made.load_dataset)
    # Without lm-eval's own tasks, whose index takes half a minute.
    monkeypatch.setattr(indexing, "TaskManager", lambda **given: index(**{**given, "include_defaults": False}))
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def root(model: Path, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "suites" / "tasks").mkdir(parents=True)
    (tmp_path / "suites" / "tasks" / "quiz.yaml").write_text(QUIZ)
    (tmp_path / "suites" / "mine.yaml").write_text(SUITE)
    (tmp_path / "m").symlink_to(model)
    yield tmp_path


def score(root: Path, **options: Any) -> api.Scored:
    return api.score(api.Workspace.open(Settings(root=root)), ModelReference("m"), "mine", **options)


def is_current(root: Path, scored: api.Scored) -> bool:
    space = api.Workspace.open(Settings(root=root))
    model, suite = space.names.identify(ModelReference("m")), space.suites["mine"]
    return next((scores for _, scores in KnownScores(space).latest(model, suite)), None) == scored.scores


def test_other_data_on_the_hub_are_observed_when_it_is_measured_again(root: Path, hub: DataHub) -> None:
    first = score(root)
    assert hub.asked == 2 * [{"path": "some-org/quiz", "name": None}], "fetched first, then read where the model is"
    hub.questions[0] = "the queen"
    assert score(root).reused
    again = score(root, refresh=True)
    assert not again.reused and again.evaluated == ("quiz",)
    assert again.changes is not None
    assert any(text.startswith("the data of quiz ") for text in again.changes), again.changes
    assert differences(first.scores, again.scores)
    assert again.artifact.version != first.artifact.version
    assert is_current(root, again)
    assert score(root).artifact.version == again.artifact.version
    same = score(root, refresh=True)
    assert same.changes == () and same.artifact.version == again.artifact.version


def test_data_that_a_suite_pins_are_part_of_the_key(root: Path, hub: DataHub) -> None:
    first = score(root)
    (root / "suites" / "mine.yaml").write_text(SUITE.replace("shots: 0", f"shots: 0, revision: {PIN}"))
    assert not is_current(root, first)
    pinned = score(root)
    assert not pinned.reused
    assert [asked.get("revision") for asked in hub.asked] == [None, None, PIN, PIN]


def test_another_torch_leaves_scores_and_is_said_when_they_are_measured_again(
    root: Path, hub: DataHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(root)
    real = importlib.metadata.version
    torch = real("torch")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == "torch" else real(name))
    assert score(root).reused
    again = score(root, refresh=True)
    assert again.changes == (f"torch {torch} and 99.0",)
    assert [row.value for row in again.scores.tasks] == [row.value for row in first.scores.tasks]
    assert first.scores.tasks[0].made.device == "cpu"


def test_an_analysis_that_is_computed_again_says_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_llama(tmp_path / "m", layers=1)
    space = api.Workspace.open(Settings(root=tmp_path))

    def analyse(**options: Any) -> api.Analysed:
        return api.analyse(space, ModelReference("m"), modules=["v_proj"], **options)

    first = analyse()
    details = first.artifact.manifest.described(AnalysisDetails)
    assert details.versions["numpy"] and details.device == "cpu"
    assert analyse().reused
    same = analyse(refresh=True)
    assert not same.reused and same.changes == ()
    assert same.artifact.version == first.artifact.version

    exact = analysis_run.singular_values
    monkeypatch.setattr(analysis_run, "singular_values", lambda matrix: exact(matrix) * 1.5)
    monkeypatch.setattr(analysis_run, "_versions", lambda: {**details.versions, "numpy": "99.0"})
    assert analyse().reused
    other = analyse(refresh=True)
    assert other.changes == (
        "figures of 1 of 1 weights: model.layers.0.self_attn.v_proj.weight",
        f"numpy {details.versions['numpy']} and 99.0",
    )
    found = current_analysis(space.store, space.names.identify(ModelReference("m")), None)
    assert found is not None and found.version == other.artifact.version != first.artifact.version
