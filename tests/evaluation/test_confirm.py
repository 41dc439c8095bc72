"""Documents that a search never sees: which they are follows from a document and the seed, and from nothing else."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.errors import SuiteError
from merge_assets.evaluation import runner
from merge_assets.evaluation.parts import chosen
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import Evaluation, evaluate_suite
from merge_assets.evaluation.suite import load_suite
from tests.evaluation_support import ONE_TASK, HereWorker, write_checkpoint, write_suite

numbers = st.lists(st.integers(0, 60), min_size=2, max_size=60).filter(lambda found: len(set(found)) > 1)
parts = st.one_of(st.integers(1, 5), st.floats(0.01, 0.9))


def taken(found: list[int], part: Any, confirm: float, seed: int = 1, limit: float | None = None) -> list[int]:
    documents = [{"question": number} for number in found]
    return [found[index] for index in chosen(documents, part, confirm, seed, limit)]


@given(numbers, parts, st.integers(0, 5), st.randoms())
def test_both_parts_are_all_and_have_no_document_in_common_in_any_order(
    found: list[int], confirm: float, seed: int, random: Any
) -> None:
    try:
        search, kept = taken(found, "search", confirm, seed), taken(found, "confirm", confirm, seed)
    except ValueError as error:
        assert "leaves none for a search" in str(error)
        return
    assert sorted(search + kept) == sorted(found)
    assert search and kept and not set(search) & set(kept)
    assert len(kept) >= (confirm if confirm >= 1 else confirm * len(found))
    shuffled = random.sample(found, len(found))
    assert sorted(taken(shuffled, "confirm", confirm, seed)) == sorted(kept)


def test_how_many_are_kept_is_as_said_and_which_is_the_seeds() -> None:
    found = list(range(1000))
    assert len(taken(found, "confirm", 100)) == 100
    assert len(taken(found, "confirm", 0.25)) == 250
    assert taken(found, "confirm", 100, seed=1) != taken(found, "confirm", 100, seed=2)


@given(numbers, st.integers(0, 5), st.one_of(st.none(), st.integers(2, 50)), st.randoms())
def test_a_smaller_fraction_of_a_search_is_part_of_a_larger_one_and_of_any_place(
    found: list[int], seed: int, limit: int | None, random: Any
) -> None:
    documents = [{"question": number} for number in found]
    try:
        nested = [chosen(documents, part, 0.3, seed, limit) for part in ("search", "search/2", "search/4", "search/64")]
    except ValueError:
        return
    for larger, smaller, part in zip(nested, nested[1:], (2, 4, 64), strict=False):
        assert set(smaller) <= set(larger) and smaller == sorted(smaller)
        assert len(smaller) >= len(nested[0]) / part
        assert len({found[one] for one in smaller}) <= -(-len(nested[0]) // part)  # equal ones stay together
    if limit is None:
        shuffled = random.sample(found, len(found))
        again = taken(shuffled, "search/4", 0.3, seed)
        assert sorted(again) == sorted(found[one] for one in nested[2])


def test_a_limit_takes_the_first_of_a_part() -> None:
    found = list(range(100))
    whole = taken(found, "search", 0.5)
    assert taken(found, "search", 0.5, limit=7) == whole[:7]
    assert taken(found, "search", 0.5, limit=0.1) == whole[:5]


@pytest.mark.slow
def test_an_evaluation_is_of_the_part_that_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    model = write_checkpoint(tmp_path / "model")
    write_suite(tmp_path, documents=9).unlink()
    (tmp_path / "tiny.yaml").write_text(f"confirm: 3\n{ONE_TASK}")
    suite = load_suite(tmp_path / "tiny.yaml")

    def evaluated(documents: Any) -> Evaluation:
        return evaluate_suite(
            model,
            suite,
            results=TaskResults(tmp_path / "results"),
            fingerprint="0" * 64,
            device="cpu",
            documents=documents,
        )

    whole, search, kept = (evaluated(one) for one in ("all", "search", "confirm"))
    told = {
        name: {
            row["doc_hash"]: row["acc"]
            for row in map(json.loads, done.results[0].sample_files()["tiny_choice"].read_text().splitlines())
        }
        for name, done in (("all", whole), ("search", search), ("confirm", kept))
    }
    assert [len(one) for one in told.values()] == [9, 6, 3]
    assert told["search"] | told["confirm"] == told["all"]
    for done, name in ((search, "search"), (kept, "confirm")):
        row = done.scores.tasks[0]
        assert (row.n, row.value) == (len(told[name]), pytest.approx(sum(told[name].values()) / len(told[name])))
        assert done.evaluated == ("tiny_choice",)
    command = shlex.join(kept.results[0].result.command)
    assert "--samples" in command and "--limit" not in command


def test_without_confirm_there_are_no_parts(tmp_path: Path) -> None:
    write_suite(tmp_path).unlink()
    (tmp_path / "tiny.yaml").write_text(ONE_TASK)
    with pytest.raises(SuiteError, match="confirm: is not set"):
        evaluate_suite(
            tmp_path,
            load_suite(tmp_path / "tiny.yaml"),
            results=TaskResults(tmp_path / "results"),
            fingerprint="0" * 64,
            documents="search",
        )
