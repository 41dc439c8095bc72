"""Contract: a committed task result is complete or absent, found by what determines it and by nothing else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.evaluation.model_settings import ModelSettings
from merge_assets.evaluation.results import ResultKey, SampleCount, TaskResult, TaskResults, plain

KEY = ResultKey(
    evaluation="1",
    model="f",
    task="demo/cloze",
    task_digest="t",
    shots=0,
    limit=None,
    seed=1,
    dtype="auto",
    batch_size=8,
    lm_eval="0.4",
    revision=None,
    trust_remote_code=False,
)


def result(key: ResultKey = KEY, seconds: float = 1.0) -> TaskResult:
    return TaskResult(
        key=key,
        metrics={"demo/cloze": {"acc,none": 0.1 + 0.2, "acc_stderr,none": None}},
        higher_is_better={"demo/cloze": {"acc": True}},
        shots={"demo/cloze": 0},
        samples={"demo/cloze": SampleCount(original=3, effective=2)},
        task_versions={"demo/cloze": "1.0"},
        seeds={"python": 0, "numpy": 1, "torch": 1, "fewshot": 1},
        versions={"lm_eval": "0.4"},
        device="cpu",
        model_dtype="float32",
        command=["lm_eval"],
        seconds=seconds,
        created="2026-01-01T00:00:00+00:00",
    )


def test_a_committed_result_is_found_with_its_samples(tmp_path: Path) -> None:
    results = TaskResults(tmp_path / "new")
    assert results.find(KEY) is None
    results.commit(result(), {"demo/cloze": [{"doc_id": 0, "resps": [(-math.inf, np.bool_(True))]}]})
    found = TaskResults(tmp_path / "new").find(KEY)
    assert found is not None
    assert found.result == result()
    (file,) = found.sample_files().values()
    assert file.parent == found.directory
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {"doc_id": 0, "resps": [["-inf", True]]}


CHANGES: list[dict[str, object]] = [
    {"evaluation": "2"},
    {"model": "g"},
    {"task": "other"},
    {"task_digest": "u"},
    {"shots": None},
    {"shots": 1},
    {"limit": 5},
    {"limit": 0.5},
    {"seed": 2},
    {"dtype": "float32"},
    {"batch_size": 1},
    {"batch_size": "auto"},
    {"lm_eval": "0.5"},
    {"revision": "a" * 40},
    {"trust_remote_code": True},
    {"documents": "search"},
    {"confirm": 0.5},
    {"to": "f" * 64},
    {"settings": ModelSettings(system_prompt="Be brief.")},
]


def test_every_field_of_the_key_has_a_change_here() -> None:
    assert {field for change in CHANGES for field in change} == set(ResultKey.model_fields)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_part_of_the_key_counts(tmp_path: Path, change: dict[str, object]) -> None:
    results = TaskResults(tmp_path)
    results.commit(result(), {})
    assert results.find(KEY.model_copy(update=change)) is None


def test_a_result_that_was_measured_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    results = TaskResults(tmp_path)
    results.commit(result(seconds=1.0), {"demo/cloze": [{"doc_id": 0}]})
    assert results.commit(result(seconds=2.0), {}, replace=True).result.seconds == 2.0
    (kept,) = results
    assert kept.sample_files() == {}


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    results = TaskResults(tmp_path)
    results.commit(result(seconds=1.0), {})
    assert results.commit(result(seconds=2.0), {}).result.seconds == 1.0
    assert len(list(results)) == 1


@pytest.mark.parametrize("damage", ["", "{", '{"key": {}}'])
def test_a_damaged_result_counts_as_absent_and_is_replaced(tmp_path: Path, damage: str) -> None:
    results = TaskResults(tmp_path)
    stored = results.commit(result(), {})
    (stored.directory / "result.json").write_text(damage)
    assert results.find(KEY) is None
    assert list(results) == []
    results.commit(result(), {})
    assert results.find(KEY) is not None


def test_samples_that_cannot_be_written_commit_nothing(tmp_path: Path) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    results = TaskResults(tmp_path)
    with pytest.raises(RuntimeError, match="no text"):
        results.commit(result(), {"demo/cloze": [{"x": Unprintable()}]})
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_dead_processes_are_removed_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from merge_assets.evaluation import results
from tests.evaluation.test_results import result
def die(path, text):
    os._exit(9)
results._write = die
results.TaskResults(Path({str(tmp_path)!r})).commit(result(), {{}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    name = left.name.split("-")
    live = tmp_path / "-".join([*name[:-2], str(os.getppid()), "0000"])
    live.mkdir()
    assert list(TaskResults(tmp_path)) == []
    TaskResults(tmp_path).commit(result(), {})
    assert not left.exists()
    assert live.exists()


def test_a_task_name_cannot_leave_the_directory(tmp_path: Path) -> None:
    stored = TaskResults(tmp_path / "r").commit(result(), {"../../x": [{}], "a/b": [{}], "a_b": [{}]})
    files = stored.sample_files()
    assert len(set(files.values())) == 3
    assert all(file.is_file() and file.parent == stored.directory for file in files.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(JSON)
def test_plain_gives_strict_json(value: object) -> None:
    text = json.dumps(plain(value), allow_nan=False)
    assert plain(json.loads(text)) == json.loads(text)
