"""Contract: tasks are evaluated one by one by the real lm-eval; what is finished is kept, whatever happens next.

The model is a tiny random Llama, the tasks are local: rolling perplexity, few-shot multiple choice, generation
with a limit, and a group.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from merge_assets.errors import EvaluationError, Stopped
from merge_assets.evaluation import indexing, runner
from merge_assets.evaluation.result_keys import pending_tasks, result_keys
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import Evaluation, evaluate_suite
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.suite import load_suite
from merge_assets.work import Work
from tests.evaluation_support import HereWorker, of_lm_eval, write_checkpoint, write_suite

pytestmark = pytest.mark.slow

TASKS = ("tiny_perplexity", "tiny_choice", "tiny_generate", "tiny_group")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suites"))


@pytest.fixture(scope="module")
def undisturbed(model: Path, suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """The whole suite in one go."""
    results = TaskResults(tmp_path_factory.mktemp("undisturbed"))
    return evaluate_suite(model, load_suite(suite_file), results=results, title="tiny")


def test_scores_follow_from_the_logged_samples(undisturbed: Evaluation) -> None:
    rows = {row.task: row for row in undisturbed.scores.tasks}
    assert tuple(rows) == TASKS
    samples = {
        task: [json.loads(line) for line in path.read_text().splitlines()]
        for stored in undisturbed.results
        for task, path in stored.sample_files().items()
        if stored.result.key.task == task
    }
    choice = [sample["acc_norm"] for sample in samples["tiny_choice"]]
    assert rows["tiny_choice"].value == pytest.approx(sum(choice) / len(choice))
    assert (rows["tiny_choice"].shots, rows["tiny_choice"].n) == (2, 6)
    # byte perplexity = exp(-sum of log-likelihoods / sum of bytes)
    pairs = [sample["byte_perplexity"] for sample in samples["tiny_perplexity"]]
    expected = 2.718281828459045 ** (-sum(p[0] for p in pairs) / sum(p[1] for p in pairs))
    assert rows["tiny_perplexity"].value == pytest.approx(expected, rel=1e-12)
    assert not rows["tiny_perplexity"].higher_is_better
    assert len(samples["tiny_generate"]) == rows["tiny_generate"].n == 3
    assert rows["tiny_group"].n == 6


def test_the_headline_is_the_mean_of_the_headline_tasks(undisturbed: Evaluation) -> None:
    rows = {row.task: row for row in undisturbed.scores.tasks}
    two = [rows["tiny_choice"], rows["tiny_generate"]]
    assert undisturbed.scores.headline == pytest.approx((two[0].value + two[1].value) / 2)
    assert two[0].stderr is not None
    assert two[1].stderr is not None
    assert undisturbed.scores.headline_stderr == pytest.approx((two[0].stderr ** 2 + two[1].stderr ** 2) ** 0.5 / 2)


def test_a_result_records_what_it_came_from(undisturbed: Evaluation, model: Path) -> None:
    result = undisturbed.results[1].result
    assert result.key.model == undisturbed.scores.fingerprint
    assert result.seeds == {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
    assert result.versions["lm_eval"] == result.key.lm_eval
    assert result.task_versions == {"tiny_choice": "1.0"}
    assert result.model_dtype == "float32"
    assert f"pretrained={model},dtype=auto" in result.command


def test_the_suite_chooses_the_dtype(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    path.write_text(path.read_text() + "dtype: bfloat16\n")
    done = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"), limit=1)
    assert {stored.result.model_dtype for stored in done.results} == {"bfloat16"}


def test_scores_survive_the_round_trip_through_json(undisturbed: Evaluation, tmp_path: Path) -> None:
    undisturbed.write(tmp_path)
    read = Scores.from_json((tmp_path / "scores.json").read_bytes())
    assert read == undisturbed.scores
    assert read.digest == undisturbed.scores.digest
    assert len(list(tmp_path.glob("tasks/*/result.json"))) == 4
    assert len(list(tmp_path.glob("tasks/*/samples_*.jsonl"))) == 4
    json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)


def test_a_suite_killed_in_its_third_task_continues_there_with_the_same_scores(
    model: Path, suite_file: Path, undisturbed: Evaluation, tmp_path: Path
) -> None:
    code = f"""
    import os, signal
    from pathlib import Path
    from merge_assets.evaluation.results import TaskResults
    from merge_assets.evaluation.runner import evaluate_suite
    from merge_assets.evaluation.suite import load_suite
    from merge_assets.work import Work

    def report(done, total, label):
        if "(3/4)" in label:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluate_suite(Path({str(model)!r}), load_suite(Path({str(suite_file)!r})),
                   results=TaskResults(Path({str(tmp_path)!r})), work=Work(report))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    results = TaskResults(tmp_path)
    suite = load_suite(suite_file)
    keys = result_keys(suite, undisturbed.scores.fingerprint)
    assert pending_tasks(keys, results) == ["tiny_generate", "tiny_group"]
    continued = evaluate_suite(model, suite, results=results, title="tiny")
    assert continued.evaluated == ("tiny_generate", "tiny_group")
    assert continued.scores.digest == undisturbed.scores.digest
    again = evaluate_suite(model, suite, results=results, title="tiny")
    assert again.evaluated == ()
    assert again.scores == continued.scores


def test_files_of_a_task_that_change_while_it_is_evaluated_are_noticed(model: Path, tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path))
    assert suite.digest
    data = tmp_path / "tasks" / "data.jsonl"
    data.write_text(data.read_text() + data.read_text())
    with pytest.raises(EvaluationError, match=r"tiny\.yaml: the files of tiny_perplexity are not what they were"):
        evaluate_suite(model, suite, results=TaskResults(tmp_path / "results"), fingerprint="f", limit=1)
    assert list(TaskResults(tmp_path / "results")) == []


def test_a_finished_suite_is_answered_without_importing_torch(
    model: Path, suite_file: Path, undisturbed: Evaluation
) -> None:
    code = f"""
    import sys
    from pathlib import Path
    from merge_assets.evaluation.results import TaskResults
    from merge_assets.evaluation.runner import evaluate_suite
    from merge_assets.evaluation.suite import load_suite

    results = TaskResults(Path({str(undisturbed.results[0].directory.parent.parent)!r}))
    print(evaluate_suite(Path({str(model)!r}), load_suite(Path({str(suite_file)!r})), results=results).scores.digest)
    print("torch" in sys.modules or "lm_eval" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [undisturbed.scores.digest, "False"]


def test_another_metric_of_an_evaluated_task_evaluates_nothing(
    model: Path, suite_file: Path, undisturbed: Evaluation, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    path = write_suite(folder)
    path.write_text(path.read_text().replace("metric: acc_norm", "metric: acc"))
    results = TaskResults(undisturbed.results[0].directory.parent.parent)
    other = evaluate_suite(model, load_suite(path), results=results)
    assert other.evaluated == ()
    assert other.scores.tasks[1].metric == "acc"


@pytest.mark.slow
@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.thorough), 1], ids=TASKS[:2])
def test_the_recorded_command_run_by_hand_gives_exactly_the_same_numbers(
    undisturbed: Evaluation, tmp_path: Path, index: int
) -> None:
    result = undisturbed.results[index].result
    command = [str(Path(sys.executable).with_name("lm_eval")), *result.command[1:], "--output_path", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    (file,) = tmp_path.rglob("results_*.json")
    by_hand = json.loads(file.read_text())["results"]
    numbers = {
        task: {name: None if value == "N/A" else value for name, value in values.items() if "," in name}
        for task, values in by_hand.items()
    }
    assert numbers == of_lm_eval(result.metrics)


@pytest.mark.parametrize("kind", ["windows", "likelihoods", "generations"])
def test_stopping_within_a_task_commits_nothing_of_it(model: Path, tmp_path: Path, kind: str) -> None:
    suite = load_suite(write_suite(tmp_path / "suites", documents=12))
    seen: list[tuple[int, int, str]] = []

    def report(done: int, total: int, label: str) -> None:
        seen.append((done, total, label))

    with pytest.raises(Stopped, match=f"stopped while evaluating {TASKS[0][:5]}"):
        evaluate_suite(
            model,
            suite,
            results=TaskResults(tmp_path / "results"),
            work=Work(report, lambda: any(kind in label for _, _, label in seen)),
            batch_size=1,
        )
    task = {"windows": 0, "likelihoods": 1, "generations": 2}[kind]
    committed = [stored.result.key.task for stored in TaskResults(tmp_path / "results")]
    assert sorted(committed) == sorted(TASKS[:task])
    done, total, label = seen[-1]
    assert kind in label
    assert done < 1000 * (task + 1) < total == 4000
    assert not list((tmp_path / "results").glob(".draft-*"))


def test_stopping_within_one_generation_ends_it(model: Path, tmp_path: Path) -> None:
    patient = shutil.copytree(model, tmp_path / "model")
    config = json.loads((patient / "config.json").read_text())
    (patient / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    path = write_suite(tmp_path / "suites", documents=1)
    lines = [line for line in path.read_text().splitlines() if "task:" not in line or "tiny_generate" in line]
    path.write_text("\n".join(lines))
    task = tmp_path / "suites" / "tasks" / "generate.yaml"
    endless = "max_gen_toks: 100000, min_new_tokens: 100000"  # of which it gives a few
    task.write_text(task.read_text().replace("max_gen_toks: 12", endless))
    asked: list[str] = []

    def report(done: int, total: int, label: str) -> None:
        asked.append(label)

    with pytest.raises(Stopped):
        evaluate_suite(
            patient,
            load_suite(path),
            results=TaskResults(tmp_path / "results"),
            fingerprint="f",
            # Signs of life come from the layers: each is a token further.
            work=Work(report, lambda: sum("generations 0/1" in label for label in asked) > 3),
        )
    assert not list(TaskResults(tmp_path / "results"))


def test_progress_grows_and_ends_complete(model: Path, suite_file: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    evaluate_suite(
        model,
        load_suite(suite_file),
        results=TaskResults(tmp_path),
        limit=2,
        work=Work(lambda done, total, label: seen.append(done)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 4000
    assert len(set(seen)) > 4


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("tiny_choice,", "tiny_chioce,", r"tasks\[1\]\.task: no task 'tiny_chioce'"),
        ("metric: acc_norm", "metric: accuracy", r"tasks\[1\]\.metric: .*it has: acc,none, acc_norm,none"),
        ("metric: acc_norm", "metric: 'acc_norm,strict'", r"tasks\[1\]\.metric"),
        (
            "byte_perplexity, shots: 0, higher_is_better: false, headline: false",
            "byte_perplexity",
            r"tasks\[0\]\.headline: .* set headline: false",
        ),
    ],
)
def test_what_only_lm_eval_can_tell_is_an_error_with_file_and_key(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, says: str
) -> None:
    # lm-eval's own tasks are left out of the index: reading their 15,000 files takes half a minute.
    real = indexing.TaskManager
    monkeypatch.setattr(indexing, "TaskManager", lambda **kwargs: real(**{**kwargs, "include_defaults": False}))
    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    path = write_suite(tmp_path)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(EvaluationError, match=says) as caught:
        evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"), limit=1)
    assert str(caught.value).startswith(str(path))


def test_shots_for_a_task_that_fixes_none_are_refused(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    with (tmp_path / "tasks" / "choice.yaml").open("a") as file:
        file.write("num_fewshot: 0\n")
    with pytest.raises(EvaluationError, match=r"tasks\[1\]\.shots: tiny_choice is a 0-shot task"):
        evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))


def test_a_directory_that_is_no_model_is_an_error_without_traceback(suite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="does not load"):
        evaluate_suite(tmp_path / "empty", load_suite(suite_file), results=TaskResults(tmp_path / "r"), fingerprint="f")
