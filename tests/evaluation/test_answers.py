"""Contract: what a model has answered is never asked of it again, batch by batch, and batches are those of lm-eval.

So a killed evaluation loses the batch at work, and its numbers are those of an undisturbed one, to the last digit.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.evaluation.answers import Answers, AnswersFolder, digest_of_batch
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.sealed import unseal
from tests.evaluation_support import write_checkpoint, write_suite

# -- the file ----------------------------------------------------------------------------------------------------------

BATCHES: dict[str, list[tuple[Any, ...]]] = {
    "a": [(-1.25, True), (-math.inf, False)],
    "b": [("nan\n{}", False, True)],
    "ä": [(0.1 + 0.2, False)],
}


def written(path: Path) -> list[bytes]:
    answers = Answers(path)
    for batch, said in BATCHES.items():
        answers.add(batch, said)
    return path.read_bytes().splitlines(keepends=True)


def test_answers_come_back_as_they_were_given(tmp_path: Path) -> None:
    assert Answers(tmp_path / "a.jsonl").read() == {}
    written(tmp_path / "a.jsonl")
    assert Answers(tmp_path / "a.jsonl").read() == BATCHES
    Answers(tmp_path / "a.jsonl").add("n", [(math.nan, False)])
    ((number, same),) = Answers(tmp_path / "a.jsonl").read()["n"]
    assert math.isnan(number)
    assert same is False


@given(cut=st.integers(0, 2000))
def test_a_file_cut_at_any_byte_has_the_batches_before_and_grows_on(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    lines = written(path)
    raw = path.read_bytes()[:cut]
    path.write_bytes(raw)
    whole = sum(len(b"".join(lines[: number + 1]).rstrip(b"\n")) <= len(raw) for number in range(len(lines)))
    assert list(Answers(path).read()) == list(BATCHES)[:whole]
    Answers(path).add("next", [(1.0, True)])
    assert list(Answers(path).read()) == [*list(BATCHES)[:whole], "next"]


@given(place=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_changed_byte_costs_its_batch_and_changes_none(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("changed") / "a.jsonl"
    written(path)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = value
    path.write_bytes(raw)
    found = Answers(path).read()
    assert found.items() <= BATCHES.items()
    assert len(found) >= len(BATCHES) - 2  # a changed end of line spoils two


def test_each_model_and_each_circumstance_has_a_file_and_a_model_can_be_forgotten(tmp_path: Path) -> None:
    folder = AnswersFolder(tmp_path)
    files = [folder.of(model, {"dtype": dtype}) for model in ("f", "../g") for dtype in ("auto", "float32")]
    assert len(set(files)) == 4
    for file in files:
        assert tmp_path in file.resolve().parents
        Answers(file).add("a", [(1.0, True)])
    folder.forget(["f"])
    assert [file.exists() for file in files] == [False, False, True, True]


def test_a_batch_is_known_by_all_that_is_asked() -> None:
    asked: list[tuple[str, Any]] = [
        ("likelihood", [[[1, 2], [3]]]),
        ("likelihood", [[[1], [2, 3]]]),
        ("likelihood", [[[1, 2], [3]], [[1, 2], [4]]]),
        ("generation", [["a"], {"until": ["."]}]),
        ("generation", [["a"], {"until": ["!"]}]),
    ]
    assert len({digest_of_batch(*each) for each in asked}) == len(asked)


# -- lm-eval -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


def lines(results: Path) -> list[str]:
    """The batches that were kept, in order."""
    found = [line for file in results.glob("answers/*/*.jsonl") for line in file.read_bytes().splitlines()]
    return [fields["batch"] for line in found if (fields := unseal(line)) is not None]


def requests_of(task: Any, lm: Any) -> Iterator[Any]:
    task.build_all_requests(limit=None, rank=0, world_size=1)
    yield from task.instances


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch_size", [pytest.param(1, marks=pytest.mark.thorough), 3, pytest.param(4, marks=pytest.mark.thorough)]
)
def test_the_batches_are_those_of_lm_eval(model: Path, tmp_path: Path, batch_size: int) -> None:
    """The tensors that the model gets, in their order, and what comes of them."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from merge_assets.evaluation.watched import WatchedLM

    write_suite(tmp_path, documents=13)
    tasks = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    seen: dict[type, list[list[Any]]] = {HFLM: [], WatchedLM: []}
    said: dict[type, list[Any]] = {}
    for kind in (HFLM, WatchedLM):

        class Recorded(kind):  # type: ignore[misc, valid-type]
            def _model_call(self, inps: Any, **options: Any) -> Any:
                seen[self.watches].append(inps.tolist())
                return super()._model_call(inps, **options)

            def _model_generate(self, context: Any, *arguments: Any, **options: Any) -> Any:
                seen[self.watches].append(context.tolist())
                return super()._model_generate(context, *arguments, **options)

        Recorded.watches = kind
        torch.manual_seed(0)
        lm = Recorded(pretrained=str(model), device="cpu", batch_size=batch_size)
        if kind is WatchedLM:
            lm.begin({}, lambda batch, answers: None)
        said[kind] = []
        for name in ("tiny_perplexity", "tiny_choice", "tiny_generate"):
            task = tasks.load([name])["tasks"][name]
            task.set_config("num_fewshot", 0)
            task.set_fewshot_seed(1234)
            requests = list(requests_of(task, lm))
            said[kind].append(getattr(lm, requests[0].request_type)(requests))
    assert len(seen[HFLM]) > 13
    assert seen[WatchedLM] == seen[HFLM]
    assert said[WatchedLM] == said[HFLM]


@pytest.mark.slow
def test_another_suite_with_the_same_requests_asks_nothing(model: Path, tmp_path: Path) -> None:
    results = TaskResults(tmp_path / "results")
    first = evaluate_suite(model, load_suite(write_suite(tmp_path / "one")), results=results, batch_size=1)
    asked = lines(results.directory)
    path = write_suite(tmp_path / "other")
    path.write_text(path.read_text().replace("batch_size: 4", "batch_size: 1\nseed: 7"))
    # Two shots are drawn by the seed; the rest is the same.
    path.write_text(path.read_text().replace("shots: 2", "shots: 0"))
    second = evaluate_suite(model, load_suite(path), results=results)
    assert len(second.evaluated) == 4  # the seed is another
    now = lines(results.directory)
    assert now[: len(asked)] == asked
    assert Counter(now).most_common(1)[0][1] == 1  # no batch twice
    rows = {row.task: row.value for row in first.scores.tasks}
    assert [row.value for row in second.scores.tasks if row.task != "tiny_choice"] == [
        value for task, value in rows.items() if task != "tiny_choice"
    ]
    # The group asks what the task without shots did.
    assert len(now) == len(asked)


KILLED = """
import contextlib, os, re, signal, sys
from pathlib import Path
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.work import Work

def workers():
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass
    def below(pid, depth=1):
        for child, parent in parents.items():
            if parent == pid:
                yield depth, child
                yield from below(child, depth + 1)
    return list(below(os.getpid()))

def report(done, total, label):
    found = re.search(r"(likelihoods|generations|windows) (\\d+)/(\\d+)", label)
    if found and int(found[3]) and int(found[2]) >= 0.9 * int(found[3]):
        who = os.getpid() if sys.argv[4] == "command" else max(workers())[1]  # numbers begin anew after the last, depths do not
        with contextlib.suppress(ProcessLookupError):  # it tells no more, but what it has told is still read
            os.kill(who, signal.SIGKILL)

evaluate_suite(Path(sys.argv[1]), load_suite(Path(sys.argv[2])), results=TaskResults(Path(sys.argv[3])), work=Work(report))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "task"),
    [
        ("command", "tiny_perplexity"),
        ("worker", "tiny_choice"),
        ("worker", "tiny_generate"),
        *(
            pytest.param(who, task, marks=pytest.mark.thorough)
            for who, task in (("command", "tiny_choice"), ("command", "tiny_generate"), ("worker", "tiny_perplexity"))
        ),
    ],
)
def test_killed_at_nine_tenths_of_a_task_it_asks_the_last_tenth(
    model: Path, tmp_path: Path, task: str, who: str
) -> None:
    path = write_suite(tmp_path, documents=120)
    path.write_text(
        "\n".join(
            line.replace(", limit: 3", "")
            for line in path.read_text().splitlines()
            if "task:" not in line or task in line
        )
    )
    whole = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "whole"))
    batches = len(lines(tmp_path / "whole"))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(model), str(path), str(tmp_path / "cut"), who]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if who == "command" else 1), done.stderr
    if who == "worker":
        assert "was ended by SIGKILL" in done.stderr
    kept = lines(tmp_path / "cut")
    assert not list(TaskResults(tmp_path / "cut"))
    continued = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "cut"))
    now = lines(tmp_path / "cut")
    assert now[: len(kept)] == kept
    assert sorted(now) == sorted(lines(tmp_path / "whole"))  # each batch once
    assert batches - len(kept) <= 0.11 * batches + 1
    assert continued.results[0].result.metrics == whole.results[0].result.metrics
    assert [file.read_text() for file in continued.results[0].sample_files().values()] == [
        file.read_text() for file in whole.results[0].sample_files().values()
    ]


@pytest.mark.slow
def test_refresh_asks_all_again(model: Path, tmp_path: Path) -> None:
    results = TaskResults(tmp_path / "results")
    suite = load_suite(write_suite(tmp_path))
    evaluate_suite(model, suite, results=results)
    asked = lines(results.directory)
    evaluate_suite(model, suite, results=results, refresh=True)
    assert Counter(lines(results.directory)) == Counter({batch: 2 * n for batch, n in Counter(asked).items()})


@pytest.mark.slow
def test_what_is_drawn_is_not_kept(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    path.write_text("\n".join(x for x in path.read_text().splitlines() if "task:" not in x or "generate" in x))
    task = tmp_path / "tasks" / "generate.yaml"
    task.write_text(task.read_text().replace("max_gen_toks: 12", "max_gen_toks: 12, do_sample: true, temperature: 1.0"))
    evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    assert lines(tmp_path / "results") == []
