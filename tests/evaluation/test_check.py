"""Contract: what takes a look at data, tokenizer and machine to know is told before a model is made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_assets.errors import ModelWorkerError
from merge_assets.evaluation import check
from merge_assets.evaluation.data import DataHub
from merge_assets.evaluation.suite import Suite, load_suite
from merge_assets.model_worker import Limits, nursery
from tests.evaluation_support import HereWorker, write_checkpoint, write_suite
from tests.hub_server import HubServer

LIMITS = Limits()


def suite_of(folder: Path, *lines: str) -> Suite:
    path = write_suite(folder)
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    return load_suite(path)


@pytest.mark.parametrize(("free", "fails"), [(None, False), (4_000_000_000, False), (3_999_999_999, True)])
def test_weights_that_do_not_fit_are_told_with_both_sizes(tmp_path: Path, free: int | None, fails: bool) -> None:
    suite = suite_of(tmp_path, "dtype: float32")
    found = check.memory(suite, 4_000_000_000, free, "cpu")
    assert [one.fails for one in found] == ([True] if fails else [])
    if found:
        assert found[0].text.startswith(f"{suite.file}: dtype: the weights take 4 GB in float32, and 4 GB may be taken")
        assert "model_memory" in found[0].text and "set a smaller dtype" in found[0].text


def test_time_says_what_it_rests_on() -> None:
    cores = len(os.sched_getaffinity(0))
    said = check.time_stated(cores * 10e9 / 2 / 1000 * 40, 1000)
    assert said.startswith("about 40 s ") and "1,000 parameters" in said and "stated 10 GFLOP/s a core" in said
    assert [check.duration(seconds) for seconds in (0.1, 89, 90, 3600, 12600)] == [
        "1 s",
        "89 s",
        "2 min",
        "60 min",
        "3.5 h",
    ]


def test_data_sets_of_the_hub_are_told_from_local_ones(tmp_path: Path) -> None:
    suite = suite_of(tmp_path)
    assert check.hub_data(suite, suite.declared()) == {}
    (tmp_path / "tasks" / "choice.yaml").write_text("task: tiny_choice\ndataset_path: acme/words\n")
    suite = load_suite(suite.file)
    assert check.hub_data(suite, suite.declared()) == {"acme/words": f"{suite.file}: tasks[1].task: tiny_choice"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with an open and a gated data set, and a cache that has nothing."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(nursery, "_nurseries", {})
    monkeypatch.setattr(check, "ModelWorker", HereWorker)
    with HubServer() as started:
        started.commit("datasets/acme/open", {"test.jsonl": b"{}"})
        started.commit("datasets/acme/gated", {"test.jsonl": b"{}"})
        started.gate("datasets/acme/gated", "secret")
        yield started


def reached(server: HubServer, *names: str, token: str | None = None) -> list[tuple[bool, str]]:
    found = check.reach({name: f"s.yaml: tasks[0].task: {name}" for name in names}, DataHub(server.url, token), LIMITS)
    return [(one.fails, one.text) for one in found]


def test_gated_and_missing_data_are_told_and_a_token_opens(server: HubServer) -> None:
    assert reached(server, "acme/open") == []
    ((fails, text),) = reached(server, "acme/open", "acme/gated")
    assert fails and text.startswith(
        "s.yaml: tasks[0].task: acme/gated: the data set acme/gated is gated: ask for access"
    )
    assert "hub_token" in text
    assert reached(server, "acme/gated", token="secret") == []
    ((fails, text),) = reached(server, "acme/none")
    assert fails and "there is no data set acme/none on the Hub" in text


def test_a_hub_that_cannot_be_asked_stops_nothing(server: HubServer, tmp_path: Path) -> None:
    server.down = True
    told = reached(server, "acme/open", "acme/gated")
    assert [fails for fails, _ in told] == [False, False] and "not in the cache" in told[0][1]
    (tmp_path / "home" / "datasets" / "acme___open").mkdir(parents=True)
    assert "what lies in the cache is taken" in reached(server, "acme/open")[0][1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model")  # a context of 64


def prompted(suite: Suite, model: Path | None) -> check.Prompted:
    return check.prompts(suite, suite.declared(), model, hub=DataHub(), limits=LIMITS, index=None)


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_told_and_tokens_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ModelWorker", HereWorker)
    path = suite_of(tmp_path).file
    path.write_text(path.read_text().replace("shots: 2", "shots: 0"))
    suite = load_suite(path)
    good = prompted(suite, model)
    assert good.findings == []
    rows = [json.loads(line) for line in (tmp_path / "tasks" / "data.jsonl").read_text().splitlines()]

    def words(text: str) -> int:  # as many as tokens
        return len(text.split())

    rolling = sum(words(row["text"]) for row in rows)
    choices = sum(words(f"{row['question']} {choice}") for row in rows for choice in row["choices"])
    generated = 3 * (
        sum(words(row["question"]) for row in rows) / len(rows) + 12
    )  # of three documents, 12 tokens at most
    assert good.tokens == pytest.approx(rolling + 2 * choices + generated)  # choices as a task and as a group
    (long,) = prompted(suite_of(tmp_path, "max_length: 20"), model).findings
    assert not long.fails
    assert "tasks[1].task: tiny_choice: " in long.text and "longer than the context of 20 tokens" in long.text
    (none,) = [one for one in prompted(suite_of(tmp_path, "max_length: 12"), model).findings if one.fails]
    assert "tasks[2].task: tiny_generate: an answer may have 12 tokens, and the context 12" in none.text
    chat = prompted(suite_of(tmp_path, "chat_template: on"), model).findings
    assert any(one.fails and "chat_template: the tokenizer has no chat template" in one.text for one in chat)
    unmeasured = prompted(suite, None)
    assert unmeasured.tokens == 0 and "no prompt was measured" in unmeasured.findings[0].text


@pytest.mark.slow
def test_a_task_that_cannot_be_loaded_is_told_and_the_others_looked_at(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ModelWorker", HereWorker)
    suite = suite_of(tmp_path)
    (tmp_path / "tasks" / "choice.yaml").write_text(
        "include: _common.yaml\ntask: tiny_choice\noutput_type: none_such\n"
    )
    found = prompted(load_suite(suite.file), model)
    assert found.tokens > 0
    assert any(
        one.fails and "tasks[1].task: tiny_choice: tiny_choice cannot be loaded: " in one.text for one in found.findings
    )


def test_a_worker_that_cannot_ask_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise ModelWorkerError("ended without an answer")

    monkeypatch.setattr(check, "ModelWorker", HereWorker)
    monkeypatch.setattr(HereWorker, "ask", ask)
    (one,) = check.reach({"acme/words": "s.yaml"}, DataHub(), LIMITS)
    assert not one.fails and "is not known: ended without an answer" in one.text
