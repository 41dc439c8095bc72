"""Contract: a task that draws when it loads gives the numbers of its lm-eval command, whatever was evaluated before and
whatever lies in a cache; the command is run here, beside the same cache and with an empty one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_assets.evaluation.data import DataHub
from merge_assets.evaluation.results import StoredResult, TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.model_worker import nursery
from tests.evaluation.standins import GPQA_TOKEN, TASKS, gpqa, publish, write_reader
from tests.hub_server import HubServer

pytestmark = pytest.mark.slow

GROUP, SUBTASK = "leaderboard_gpqa", "leaderboard_gpqa_main"

DRAWING = '''
import random

import datasets
import numpy
import torch


def load(**_):
    """Rows drawn by everything that is seeded."""
    draws = [random.random() * 9, numpy.random.rand() * 9, float(torch.rand(1)) * 9]
    return {"test": datasets.Dataset.from_list([{"text": f"{int(one)} {i}"} for i, one in enumerate(draws * 4)])}


def ask(doc):
    """A question that is drawn when it is asked."""
    return f"{doc['text']} {random.randrange(9)} {numpy.random.randint(9)} {int(torch.randint(9, (1,)))}"
'''
DRAWN_TASK = """
task: drawn
custom_dataset: !function drawing.load
test_split: test
output_type: multiple_choice
doc_to_text: !function drawing.ask
doc_to_choice: ["A", "B", "C"]
doc_to_target: 1
metric_list: [{metric: acc}]
metadata: {version: 1.0}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reader(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with GPQA, and processes that have never seen another."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(nursery, "_nurseries", {})
    with HubServer() as started:
        publish(started, *gpqa(12))
        yield started


def evaluated(folder: Path, model: Path, server: HubServer, results: str, *tasks: str) -> dict[str, StoredResult]:
    """What tasks give, by their names: lm-eval's GPQA, whose files are taken over so that the others are not indexed, and one
    that draws all the time."""
    if not (folder / "tasks").exists():
        shutil.copytree(TASKS / "leaderboard" / "gpqa", folder / "tasks")
        (folder / "tasks" / "drawing.py").write_text(DRAWING)
        (folder / "tasks" / "drawn.yaml").write_text(DRAWN_TASK)
    listed = "".join(
        f"  - {{task: {task}, metric: {'acc' if task == 'drawn' else 'acc_norm'}, shots: 0}}\n" for task in tasks
    )
    (folder / "suite.yaml").write_text(f"include_path: tasks\nbatch_size: 4\ntasks:\n{listed}")
    done = evaluate_suite(
        model,
        load_suite(folder / "suite.yaml"),
        results=TaskResults(folder / results),
        device="cpu",
        hub=DataHub(server.url, GPQA_TOKEN),
    )
    assert set(done.evaluated) == set(tasks)
    return {stored.result.key.task: stored for stored in done.results}


def seen(files: Iterator[Path] | list[Path]) -> set[tuple[str, ...]]:
    """What was asked and how it was judged, of every document."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {(row["prompt_hash"], row["target_hash"], str(row.get("acc_norm", row.get("acc")))) for row in rows}


def of(stored: StoredResult, task: str | None = None) -> tuple[Any, set[tuple[str, ...]]]:
    """Numbers and documents of a result, or of one task of its group."""
    files = [file for name, file in stored.sample_files().items() if task in (None, name)]
    numbers = {name: values for name, values in stored.result.metrics.items() if task in (None, name)}
    return numbers, seen(files)


def by_hand(stored: StoredResult, server: HubServer, home: Path, out: Path) -> tuple[Any, set[tuple[str, ...]]]:
    """The same of the recorded command."""
    command = [str(Path(sys.executable).with_name("lm_eval")), *stored.result.command[1:]]
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": server.url, "HF_TOKEN": GPQA_TOKEN}
    told = [*command, "--output_path", str(out), "--log_samples"]
    subprocess.run(told, check=True, capture_output=True, cwd=out.parent, env=os.environ | environment)
    (file,) = out.rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    numbers = {
        task: {name: None if value == "N/A" else value for name, value in values.items() if "," in name}
        for task, values in results.items()
    }
    return numbers, seen(list(out.rglob("samples_*.jsonl")))


@pytest.mark.thorough
def test_gpqa_gives_the_numbers_of_its_command_whatever_is_in_the_cache_and_was_evaluated_before(
    model: Path, server: HubServer, tmp_path: Path
) -> None:
    cold = evaluated(tmp_path, model, server, "cold", GROUP)[GROUP]
    questions = of(cold)[1]
    assert len(questions) == 36, "each task asks its own documents in an order of its own"
    warm = evaluated(tmp_path, model, server, "warm", GROUP)[GROUP]
    assert of(warm) == of(cold)
    others = evaluated(tmp_path, model, server, "others", "drawn", SUBTASK, GROUP)
    assert of(others[GROUP]) == of(cold)
    alone = evaluated(tmp_path, model, server, "alone", SUBTASK)[SUBTASK]
    assert of(alone) == of(others[SUBTASK])
    drawn = evaluated(tmp_path, model, server, "drawn", "drawn")["drawn"]
    assert of(drawn) == of(others["drawn"])

    assert by_hand(cold, server, tmp_path / "home", tmp_path / "beside") == of(cold), "nothing was left for the command"
    assert by_hand(alone, server, tmp_path / "empty", tmp_path / "apart") == of(alone)
    assert by_hand(drawn, server, tmp_path / "empty", tmp_path / "drew") == of(drawn)
    assert set(cold.result.revisions) == {f"{GROUP}_{name}" for name in ("diamond", "extended", "main")}
