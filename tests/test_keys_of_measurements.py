"""What a measurement depends on is in its key, and what it does not depend on is not: field by field, for every record that a
key is made of.

Each table says of every field of a record on which side it is, by a change of it that counts or one that does not. A field that
no table knows fails the test: whoever adds one has to say.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from merge_assets.analysis.importance import Figure, ImportanceRecord, MeasuredText
from merge_assets.analysis.importance_run import Importance
from merge_assets.analysis.matrices import Matrix
from merge_assets.analysis.storage import identity
from merge_assets.checkpoint import TensorHeader
from merge_assets.evaluation.disagreement import Disagreement
from merge_assets.evaluation.failures import TaskFailure
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.headline import DeclaredPart, Headline, HeadlinePart
from merge_assets.evaluation.result_keys import result_keys
from merge_assets.evaluation.results import Circumstances, ResultKey, TaskResult
from merge_assets.evaluation.scores import Scores, TaskScore
from merge_assets.evaluation.suite import Suite, load_suite
from merge_assets.evaluation.suite_task import SuiteTask
from merge_assets.recipe import TextSample
from merge_assets.workspace import results as workspace_results
from merge_assets.workspace.results import analysis_key, importance_key, scores_key
from tests.key_support import fields_of, sides
from tests.leaderboard_support import row, scores

HEX = "0" * 64
OTHER = "1" * 64


# -- evaluations -------------------------------------------------------------------------------------------------------

SUITE = """\
name: mine
description: words
headline: average
seed: 1
batch_size: 2
dtype: float32
include_path: tasks
tasks: [{task: own, metric: acc, shots: 0, limit: 5, higher_is_better: true, headline: null}]
"""

SUITE_CHANGES = {
    "seed": ("seed: 1", "seed: 2"),
    "batch_size": ("batch_size: 2", "batch_size: 4"),
    "dtype": ("dtype: float32", "dtype: auto"),
    "tasks": ("tasks: [", "tasks: [{task: other, metric: acc}, "),
    "headline": ("headline: average", "headline: [{task: own, weight: 2}]"),
    **{
        name: ("seed: 1", f"seed: 1\n{name}: {value}")
        for name, value in {
            "chat_template": "auto",
            "fewshot_as_multiturn": "false",
            "system_prompt": "Be brief.",
            "generation": "{max_gen_toks: 5}",
            "max_length": "100",
            "model_args": "{add_bos_token: true}",
            "parallelize": "true",
            "unsafe_code": "true",
            "vllm": "{tensor_parallel_size: 2}\nbackend: vllm",
        }.items()
    },
    "backend": ("dtype: float32", "backend: endpoint"),
}
SUITE_BESIDE = {
    "confirm": ("seed: 1", "seed: 1\nconfirm: 2"),  # of results that are of a part, in whose keys it is
    "file": ("", ""),  # written elsewhere below
    "name": ("name: mine", "name: other"),
    "description": ("description: words", "description: others"),
    "include_path": ("include_path: tasks", "include_path: same"),  # the same files
    "trust_remote_code": (
        "name: mine",
        "name: mine\ntrust_remote_code: [org/model]",
    ),  # of one model, in whose key it is
}
TASK_CHANGES = {
    "task": ("task: own", "task: other"),
    "metric": ("metric: acc", "metric: acc_norm"),
    "shots": ("shots: 0", "shots: 1"),
    "limit": ("limit: 5", "limit: 6"),
    "revision": ("shots: 0", f"shots: 0, revision: {'a' * 40}"),
    "higher_is_better": ("higher_is_better: true", "higher_is_better: null"),
    "headline": ("headline: null", "headline: false"),
}
TEXT_ENTRY = "{text: words.txt, metric: kl, piece: 99, to: m}"
TEXT_CHANGES = {
    "text": ("text: words.txt", "text: others.txt"),
    "piece": ("piece: 99", "piece: 100"),
    "to": ("to: m", "to: n"),
}
DECLARED_CHANGES = {
    "task": ("{task: own}", "{task: other}"),
    "metrics": ("{task: own}", "{task: own, metrics: [acc]}"),
    "subtasks": ("{task: own}", "{task: own, subtasks: true}"),
    "choices": ("{task: own}", "{task: own, choices: 4}"),
    "weight": ("{task: own}", "{task: own, weight: 2}"),
}
CHANGES = {f"suite {key}": pair for key, pair in SUITE_CHANGES.items()} | TASK_CHANGES
OF_SCORES = {"metric", "higher_is_better", "headline", "suite headline"}
"""What is read out of the result of a task, which need not be measured again for it."""


def suite(folder: Path, old: str = "", new: str = "", *, data: str = "1") -> Suite:
    folder.mkdir(exist_ok=True)
    for name in ("tasks", "same"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "own.yaml").write_text(
            "task: own\ndataset_path: json\ndataset_kwargs: {data_files: data.jsonl}\n"
        )
        (folder / name / "data.jsonl").write_text(data)
    for name in ("words.txt", "others.txt"):
        (folder / name).write_text(name)
    (folder / "mine.yaml").write_text(SUITE.replace(old, new) if old else SUITE)
    made = load_suite(folder / "mine.yaml")
    assert made.digest  # is of the files as they are now
    return made


def test_the_sides_of_a_suite() -> None:
    sides(Suite, SUITE_CHANGES, SUITE_BESIDE)
    sides(SuiteTask, {*TASK_CHANGES, *TEXT_CHANGES}, ())
    sides(DeclaredPart, DECLARED_CHANGES, ())


@pytest.mark.parametrize("field", CHANGES)
def test_what_scores_depend_on_changes_the_suites_digest_and_their_key(field: str, tmp_path: Path) -> None:
    before, after = suite(tmp_path), suite(tmp_path, *CHANGES[field])
    assert after.digest != before.digest
    assert scores_key(after, HEX) != scores_key(before, HEX)
    if field not in OF_SCORES:
        assert result_keys(after, HEX) != result_keys(before, HEX)


@pytest.mark.parametrize("field", DECLARED_CHANGES)
def test_scores_depend_on_the_headlines_formula_and_what_was_measured_does_not(field: str, tmp_path: Path) -> None:
    text = SUITE.replace("average", "[{task: own}]").replace("tasks: [", "tasks: [{task: other, metric: acc}, ")
    before, after = (suite(tmp_path, SUITE, each) for each in (text, text.replace(*DECLARED_CHANGES[field])))
    assert after.digest != before.digest
    assert scores_key(after, HEX) != scores_key(before, HEX)
    assert result_keys(after, HEX) == result_keys(before, HEX)


@pytest.mark.parametrize("field", TEXT_CHANGES)
def test_scores_depend_on_a_text_how_it_is_cut_and_what_is_compared_with(field: str, tmp_path: Path) -> None:
    with_text = SUITE.replace("tasks: [", f"tasks: [{TEXT_ENTRY}, ")
    before, after = (suite(tmp_path, SUITE, each) for each in (with_text, with_text.replace(*TEXT_CHANGES[field])))
    assert after.digest != before.digest
    assert scores_key(after, HEX) != scores_key(before, HEX)
    assert result_keys(after, HEX) != result_keys(before, HEX)


def test_scores_depend_on_the_words_of_a_text_and_the_bytes_of_the_other_model(tmp_path: Path) -> None:
    mine = suite(tmp_path, "tasks: [", f"tasks: [{TEXT_ENTRY}, ")
    keys = {scores_key(mine, HEX), scores_key(mine, HEX, others={"m": HEX}), scores_key(mine, HEX, others={"m": OTHER})}
    (tmp_path / "words.txt").write_text("other words")
    keys.add(scores_key(load_suite(mine.file), HEX))
    assert len(keys) == 4


def test_results_depend_on_which_documents_were_asked(tmp_path: Path) -> None:
    one, other = (suite(tmp_path, "seed: 1", f"seed: 1\nconfirm: {number}") for number in (2, 3))
    found = {result_keys(each, HEX, documents=part) for each in (one, other) for part in ("search", "confirm")}
    assert len(found) == 4
    assert result_keys(one, HEX) == result_keys(other, HEX)


def test_data_beside_a_task_are_part_of_it(tmp_path: Path) -> None:
    before, after = suite(tmp_path), suite(tmp_path, data="2")
    assert after.digest != before.digest
    assert result_keys(after, HEX) != result_keys(before, HEX)


@pytest.mark.parametrize("field", SUITE_BESIDE)
def test_names_words_and_places_leave_a_suites_digest(field: str, tmp_path: Path) -> None:
    before, after = suite(tmp_path / "one"), suite(tmp_path / "other", *SUITE_BESIDE[field])
    assert after.digest == before.digest
    assert scores_key(after, HEX) == scores_key(before, HEX)


def test_scores_have_the_key_of_the_model_lm_eval_and_our_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = suite(tmp_path)
    keys = {scores_key(mine, HEX), scores_key(mine, OTHER), scores_key(mine, HEX, lm_eval="0.0.1")}
    keys.add(scores_key(mine, HEX, trust_remote_code=True))
    assert len(keys) == 4
    monkeypatch.setattr("merge_assets.evaluation.result_keys.EVALUATION_VERSION", "another")
    assert scores_key(mine, HEX) not in keys


def test_circumstances_are_recorded_with_every_value_and_not_keyed() -> None:
    """Every field of the key is in `tests/evaluation/test_results.py`."""
    recorded = {"versions", "device", "dtype", "data", "revisions", "batch_size", "chat"}
    sides(Circumstances, (), recorded)
    asked = {"dtype", "batch_size"}
    assert not (recorded - asked) & fields_of(ResultKey)  # the key has what was asked for
    assert recorded - {"dtype"} | {"model_dtype"} <= fields_of(TaskResult)


SCORES: Mapping[str, object] = {
    "fingerprint": "g",
    "suite": "other",
    "suite_digest": "d",
    "tasks": (row("cloze", "acc", 0.25),),
    "failures": (TaskFailure(task="word", metric="acc", headline=True, reason="it failed"),),
    "headline": 0.25,
    "headline_stderr": 0.5,
    "formula": Headline(parts=(HeadlinePart(task="cloze", terms=()),)),
    "seed": 1,
    "versions": {"lm_eval": "0.5"},
    "trust_remote_code": True,
    "otherwise": {"dtype": "float32"},
    "format": 3,
}
ROW: Mapping[str, object] = {
    "task": "other",
    "metric": "acc_norm",
    "value": 0.25,
    "stderr": 0.5,
    "shots": 1,
    "limit": 5,
    "n": 7,
    "higher_is_better": False,
    "headline": False,
    "task_version": "2",
    "task_digest": "d",
    "result": "s",
    "made": Circumstances(device="cuda"),
    "flaws": Flaws(truncated=1),
    "disagreements": (Disagreement(piece=0, position=0, kl=1, before="", token="a", ours="b", theirs="c"),),
}


def test_the_version_of_scores_is_all_that_was_found_but_for_the_models_name_and_the_time() -> None:
    sides(Scores, SCORES, {"model"})
    sides(TaskScore, ROW, {"seconds"})
    found = scores("a", row("cloze", "acc", 0.5))
    for field, value in SCORES.items():
        assert found.model_copy(update={field: value}).digest != found.digest, field
    for field, value in ROW.items():
        changed = found.tasks[0].model_copy(update={field: value})
        assert found.model_copy(update={"tasks": (changed,)}).digest != found.digest, field
    slower = found.tasks[0].model_copy(update={"seconds": 9.0})
    assert found.model_copy(update={"model": "b", "tasks": (slower,)}).digest == found.digest


# -- analyses ----------------------------------------------------------------------------------------------------------


def test_an_analysis_has_the_key_of_the_bytes_the_modules_and_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(inspect.signature(analysis_key).parameters) == {"fingerprint", "modules"}
    keys = {analysis_key(HEX, None), analysis_key(OTHER, None), analysis_key(HEX, ["v_proj"])}
    assert len(keys) == 3
    monkeypatch.setattr(workspace_results, "ANALYSIS_VERSION", "another")
    assert analysis_key(HEX, None) not in keys


SAMPLE = TextSample(file="words.txt")
SAMPLE_CHANGES: Mapping[str, object] = {"tokens": 100, "length": 64, "dtype": "float64"}


def test_importance_has_the_key_of_the_bytes_the_text_its_settings_and_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(inspect.signature(importance_key).parameters) == {"fingerprint", "kind", "sample", "text"}
    sides(TextSample, SAMPLE_CHANGES, {"file"})
    before = importance_key(HEX, "activations", SAMPLE, HEX)
    others = [
        importance_key(OTHER, "activations", SAMPLE, HEX),
        importance_key(HEX, "perplexity", SAMPLE, HEX),
        importance_key(HEX, "activations", SAMPLE, OTHER),
    ]
    others += [
        importance_key(HEX, "activations", SAMPLE.model_copy(update={field: value}), HEX)
        for field, value in SAMPLE_CHANGES.items()
    ]
    assert len({before, *others}) == 1 + len(others)
    assert importance_key(HEX, "activations", SAMPLE.model_copy(update={"file": "elsewhere.txt"}), HEX) == before
    labels = {SAMPLE.label} | {
        SAMPLE.model_copy(update={field: value}).label
        for field, value in {**SAMPLE_CHANGES, "file": "b/words.txt"}.items()
    }
    assert len(labels) == 5
    monkeypatch.setattr(workspace_results, "IMPORTANCE_VERSION", "another")
    assert importance_key(HEX, "activations", SAMPLE, HEX) not in {before, *others}


FIGURE: Mapping[str, object] = {"metric": "angular_distance", "layer": 1, "count": 2, "value": 0.25}
TEXT: Mapping[str, object] = {"digest": "d", "tokens": 5, "pieces": 2, "length": 3, "dtype": "float64"}


def test_the_version_of_importance_is_all_that_was_found_but_for_titles() -> None:
    sides(Figure, FIGURE, ())
    sides(MeasuredText, TEXT, {"file"})
    sides(ImportanceRecord, {"kind", "layers", "text", "figures", "format"}, {"model"})
    sides(Importance, {"record"}, {"most_loaded", "resumed", "seconds", "device", "versions"})
    text = MeasuredText(file="words.txt", digest="e", tokens=4, pieces=1, length=4, dtype="float32")
    figure = Figure(metric="block_influence", layer=0, count=1, value=0.5)
    record = ImportanceRecord(model="a", kind="activations", layers=2, text=text, figures=[figure])

    def digest(**changes: object) -> str:
        return Importance(record.model_copy(update=changes), 1, 0, 1.0, "cpu").digest

    before = digest()
    assert digest(layers=3) != before and digest(kind="perplexity") != before
    for field, value in FIGURE.items():
        assert digest(figures=[figure.model_copy(update={field: value})]) != before, field
    for field, value in TEXT.items():
        assert digest(text=text.model_copy(update={field: value})) != before, field
    assert digest(model="b", text=text.model_copy(update={"file": "other"})) == before


def header(dtype: str) -> TensorHeader:
    return TensorHeader("x", dtype, (2, 3), file="model.safetensors", begin=0, end=12)


MATRIX = Matrix("x", "v_proj", "model.layers", 0, None, header("BF16"), (2, 3), 0, 0, ((0, 2, 1),))
SPECTRUM = {"source": header("F32"), "block": (3, 2), "offset": 6, "axis": 1, "spans": ((0, 1, 1),)}
SPECTRUM_BESIDE = {"name": "y", "module": "k_proj", "stack": None, "layer": 1, "expert": 2}


def test_a_spectrum_is_that_of_the_bytes_of_the_part_and_of_the_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    sides(Matrix, SPECTRUM, SPECTRUM_BESIDE)
    before = identity(MATRIX, HEX)
    assert identity(MATRIX, OTHER) != before
    for field, value in SPECTRUM.items():
        assert identity(replace(MATRIX, **{field: value}), HEX) != before, field
    for field, value in SPECTRUM_BESIDE.items():
        assert identity(replace(MATRIX, **{field: value}), HEX) == before, field
    monkeypatch.setattr("merge_assets.analysis.storage.ANALYSIS_VERSION", "another")
    assert identity(MATRIX, HEX) != before
