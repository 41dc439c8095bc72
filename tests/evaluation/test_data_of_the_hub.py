"""Data of tasks that lie on the Hub: fetched by a process that has a network, read by one that has none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.data import DataHub, FetchedData
from merge_assets.evaluation.results import TaskResult, TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.model_worker import nursery
from tests.evaluation_support import write_checkpoint
from tests.hub_server import HubServer

pytestmark = pytest.mark.slow

TASK = """
task: NAME
dataset_path: DATA
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
metadata: {version: 1.0}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub, and processes that have never seen another."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(nursery, "_nurseries", {})
    with HubServer() as started:
        yield started


def rows(text: str) -> bytes:
    return "".join(json.dumps({"text": f"{text} {word}"}) + "\n" for word in ("king", "queen")).encode()


def evaluated(
    folder: Path,
    model: Path,
    server: HubServer,
    token: str | None = None,
    fetched: FetchedData | None = None,
    **tasks: str,
) -> dict[str, TaskResult]:
    """The results of tasks, by their names.

    Args:
        folder: for suite, tasks and results.
        model: what is evaluated.
        server: where the data lie.
        token: for the Hub.
        fetched: by evaluations before.
        tasks: of each the data set, with the commit that the suite pins after an ``@``.
    """
    (folder / "tasks").mkdir(exist_ok=True)
    entries = []
    for name, data in tasks.items():
        path, _, revision = data.partition("@")
        (folder / "tasks" / f"{name}.yaml").write_text(TASK.replace("NAME", name).replace("DATA", path))
        pin = f", revision: {revision}" if revision else ""
        entries.append(f"  - {{task: {name}, metric: byte_perplexity, headline: false{pin}}}\n")
    (folder / "suite.yaml").write_text(f"include_path: tasks\ntasks:\n{''.join(entries)}")
    done = evaluate_suite(
        model,
        load_suite(folder / "suite.yaml"),
        results=TaskResults(folder / "results"),
        device="cpu",
        hub=DataHub(server.url, token),
        fetched=fetched,
    )
    return {stored.result.key.task: stored.result for stored in done.results}


def test_each_task_is_measured_with_the_commit_that_it_is_to_have(
    model: Path, server: HubServer, tmp_path: Path
) -> None:
    old = server.commit("datasets/acme/words", {"README.md": b"", "test.jsonl": rows("old small bread")})
    new = server.commit("datasets/acme/words", {"test.jsonl": rows("the great river")})
    # The one that is pinned is fetched last, and is what the library would take for both where it has no network.
    found = evaluated(tmp_path, model, server, newest="acme/words", pinned=f"acme/words@{old}")
    assert {name: result.revisions for name, result in found.items()} == {
        "newest": {"newest": new},
        "pinned": {"pinned": old},
    }
    assert found["newest"].metrics["newest"] != found["pinned"].metrics["pinned"]
    asked = len(server.served)
    server.down = True
    (tmp_path / "results").rename(tmp_path / "before")
    again = evaluated(tmp_path, model, server, pinned=f"acme/words@{old}")  # out of the cache
    assert again["pinned"].metrics == found["pinned"].metrics
    assert len(server.served) > asked, "it was tried"
    with pytest.raises(EvaluationError, match=r"tasks\[0\]: the data of other cannot be fetched: .*commit") as caught:
        evaluated(tmp_path, model, server, other=f"acme/words@{'f' * 40}")
    assert "\n" not in str(caught.value)


def test_models_of_one_project_have_the_same_data_which_are_fetched_once(
    model: Path, server: HubServer, tmp_path: Path
) -> None:
    old = server.commit("datasets/acme/words", {"README.md": b"", "test.jsonl": rows("old small bread")})
    fetched = FetchedData()
    first = evaluated(tmp_path, model, server, fetched=fetched, words="acme/words")
    server.commit("datasets/acme/words", {"test.jsonl": rows("the great river")})
    asked = len(server.served)
    other = write_checkpoint(tmp_path / "other", seed=1)
    second = evaluated(tmp_path, other, server, fetched=fetched, words="acme/words")
    assert len(server.served) == asked
    assert second["words"].revisions == first["words"].revisions == {"words": old}
    (tmp_path / "results").rename(tmp_path / "before")
    fresh = evaluated(tmp_path, other, server, words=f"acme/words@{old}")
    assert len(server.served) > asked
    assert (fresh["words"].metrics, fresh["words"].data) == (second["words"].metrics, second["words"].data)


def test_data_that_cannot_be_had_are_one_clear_line(model: Path, server: HubServer, tmp_path: Path) -> None:
    says = r"suite\.yaml: tasks\[0\]: the data of words cannot be fetched: .*acme/none.* doesn't exist on the Hub"
    with pytest.raises(EvaluationError, match=says) as caught:
        evaluated(tmp_path, model, server, words="acme/none")
    assert "\n" not in str(caught.value)
    commit = server.commit("datasets/acme/gated", {"README.md": b"", "test.jsonl": rows("a dark night")})
    server.gate("datasets/acme/gated", "secret")
    with pytest.raises(EvaluationError, match=r"the data of words cannot be fetched: .*acme/gated.* gated") as caught:
        evaluated(tmp_path, model, server, words="acme/gated")
    assert "\n" not in str(caught.value)
    found = evaluated(tmp_path, model, server, token="secret", words="acme/gated")
    assert found["words"].revisions == {"words": commit}
