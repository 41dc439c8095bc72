"""The shipped suites of the Open LLM Leaderboards, end to end: lm-eval's own tasks, data sets of the real columns on a Hub of
the tests, a tiny model; the headline is worked out once more from the logged documents alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_assets.evaluation.data import DataHub
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import Evaluation, evaluate_suite
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.suite import load_suites
from merge_assets.model_worker import nursery
from tests import needs
from tests.evaluation.standins import GPQA_TOKEN, of_first, of_second, publish, write_punkt, write_reader
from tests.evaluation.test_headline import CHOICES, SUITES
from tests.hub_server import HubServer

pytestmark = pytest.mark.slow

DOCUMENTS = 6
LIMIT = 3


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    write_punkt(tmp_path / "nltk")
    monkeypatch.setattr(nursery, "_nurseries", {})
    with HubServer() as started:
        yield started


def evaluated(name: str, server: HubServer, folder: Path) -> Evaluation:
    done = evaluate_suite(
        write_reader(folder / "model"),
        load_suites([SUITES])[name],
        results=TaskResults(folder / "results"),
        device="cpu",
        batch_size=8,
        limit=LIMIT,
        hub=DataHub(server.url, GPQA_TOKEN),
    )
    done.write(folder / "scores")
    assert Scores.from_json((folder / "scores" / "scores.json").read_text()) == done.scores
    return done


def logged(done: Evaluation) -> dict[tuple[str, str], list[float]]:
    """Of every task and metric, how each document was judged."""
    judged: dict[tuple[str, str], list[float]] = {}
    for stored in {one.result.key.task: one for one in done.results}.values():
        for task, file in stored.sample_files().items():
            for line in file.read_text().splitlines():
                row = json.loads(line)
                for metric in row["metrics"]:
                    judged.setdefault((task, f"{metric},{row['filter']}"), []).append(row[metric])
    return judged


def normalised(raw: float, choices: int) -> float:
    return max(raw - 1 / choices, 0) / (1 - 1 / choices)


@pytest.mark.thorough
def test_the_first(server: HubServer, tmp_path: Path) -> None:
    commits = {name: publish(server, name, configs) for name, configs in of_first(DOCUMENTS)}
    done = evaluated("open-llm-leaderboard-v1", server, tmp_path)
    judged = logged(done)

    subjects = {task: values for (task, _), values in judged.items() if task.startswith("mmlu_")}
    assert len(subjects) == 57
    assert {len(values) for values in subjects.values()} == {2, 3}
    mean = {
        task: statistics.mean(values)
        for (task, metric), values in judged.items()
        if metric in ("acc_norm,none", "exact_match,strict-match") or task in ("truthfulqa_mc2", "winogrande")
    }
    mmlu = statistics.mean(statistics.mean(values) for values in subjects.values())
    five = [mean[task] for task in ("arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande", "gsm8k")]
    assert done.scores.headline == pytest.approx(statistics.mean([*five, mmlu]))

    row = next(row for row in done.scores.tasks if row.task == "mmlu")
    assert row.value == pytest.approx(statistics.mean([one for values in subjects.values() for one in values]))
    assert row.value != pytest.approx(mmlu), "subjects differ in size, and the raw value stands beside"
    found = {commit for stored in done.results for commit in stored.result.revisions.values()}
    assert found == set(commits.values()), "of every data set, the commit is recorded"


def test_the_second(server: HubServer, tmp_path: Path) -> None:
    for module in ("math_verify", "langdetect", "immutabledict", "pkg_resources"):
        needs.module(module)
    commits = {name: publish(server, name, configs) for name, configs in of_second(DOCUMENTS)}
    done = evaluated("open-llm-leaderboard-v2", server, tmp_path)
    judged = logged(done)

    def raw(task: str, metric: str = "acc_norm") -> float:
        values = [
            one
            for (name, kind), each in judged.items()
            if name.startswith(task) and kind == f"{metric},none"
            for one in each
        ]
        return statistics.mean(values)

    instructions = [one for answer in judged["leaderboard_ifeval", "inst_level_strict_acc,none"] for one in answer]
    musr = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
    parts = {
        "leaderboard_ifeval": (raw("leaderboard_ifeval", "prompt_level_strict_acc") + statistics.mean(instructions))
        / 2,
        "leaderboard_bbh": statistics.mean(
            normalised(raw(f"leaderboard_bbh_{name}"), n) for name, n in CHOICES.items()
        ),
        "leaderboard_math_hard": raw("leaderboard_math", "exact_match"),
        "leaderboard_gpqa": normalised(raw("leaderboard_gpqa"), 4),
        "leaderboard_musr": statistics.mean(normalised(raw(f"leaderboard_musr_{name}"), n) for name, n in musr.items()),
        "leaderboard_mmlu_pro": normalised(raw("leaderboard_mmlu_pro", "acc"), 10),
    }
    assert {part.task: part.value for part in done.scores.formula.parts} == pytest.approx(parts)
    assert done.scores.headline == pytest.approx(statistics.mean(parts.values()))
    assert sum(value > 0 for value in parts.values()) >= 3, "not only of what counts nothing"
    found = {commit for stored in done.results for commit in stored.result.revisions.values()}
    assert found == set(commits.values())
