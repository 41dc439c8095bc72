"""Contract: what a model lacks on a suite, because tasks failed, is seen with its reason, and never ranked as whole."""

from __future__ import annotations

from dataclasses import replace

from merge_assets.evaluation.failures import TaskFailure
from merge_assets.evaluation.headline import Headline
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry, Parent
from merge_assets.evaluation.leaderboard_files import leaderboard_markdown
from merge_assets.evaluation.leaderboard_tables import models_table
from merge_assets.evaluation.leaderboard_texts import value_text
from merge_assets.evaluation.page import leaderboard_page
from merge_assets.evaluation.scores import Scores, TaskScore
from tests.leaderboard_support import part_of, row, scores


def base(model: str, *found: Scores) -> LeaderboardEntry:
    return LeaderboardEntry(model=model, kind="base", scores=list(found))


def lacking(model: str, *rows: TaskScore, reason: str = "ValueError: too | long") -> Scores:
    """Scores whose task ``word`` failed."""
    failure = TaskFailure(task="word", metric="acc", headline=True, reason=reason)
    found = scores(model, *rows)
    formula = Headline(parts=(*found.formula.parts, part_of("word", "acc")))
    return found.model_copy(update={"failures": (failure,), "formula": formula})


WHOLE = base("whole", scores("whole", row("cloze", "acc", 0.25), row("word", "acc", 0.25)))
PART = base("part", lacking("part", row("cloze", "acc", 0.75)))
NONE = base("none", lacking("none"))


def test_a_headline_of_a_part_comes_after_those_of_all_tasks_and_what_has_none_is_there_with_its_reason() -> None:
    board = Leaderboard([NONE, PART, WHOLE])
    assert [(one.rank, one.entry.model) for one in board.rows] == [(1, "whole"), (2, "part"), (None, "none")]
    headline, cloze, word = board.columns
    whole, part, none = board.rows
    assert (whole.cells[headline].part, part.cells[headline].part) == ("", "1 of 2")
    assert [part.failed(column) for column in board.columns] == ["", "", "ValueError: too | long"]
    assert none.failed(headline) == "1 of 1 task failed: word: ValueError: too | long"
    assert value_text(part, headline) == "75.0 (1 of 2)"
    assert [value_text(one, word) for one in board.rows] == ["25.0", "failed", "failed"]
    assert none.failed(cloze) == ""


def test_headlines_of_other_tasks_are_not_compared() -> None:
    child = replace(
        PART, model="child", parents=[Parent("whole", scores=WHOLE.scores), Parent("part", scores=PART.scores)]
    )
    found = {one.entry.model: one for one in Leaderboard([WHOLE, PART, child]).rows}["child"]
    headline, cloze, _ = Leaderboard([child, WHOLE]).columns
    assert [delta.parent for delta in found.cells[headline].deltas] == ["part"]
    assert [delta.parent for delta in found.cells[cloze].deltas] == ["whole", "part"]


def test_reasons_are_in_every_form_of_the_leaderboard() -> None:
    board = Leaderboard([WHOLE, PART, NONE])
    assert models_table(board)["failed"].fillna("").tolist() == [
        "",
        "1 of 2 tasks failed: word: ValueError: too | long",
        "1 of 1 task failed: word: ValueError: too | long",
    ]
    text = leaderboard_markdown(board)
    assert "75.0 (1 of 2)" in text
    assert "failed: ValueError: too \\| long" in text
    assert "- **none**: demo: word failed: ValueError: too" in text
    page = leaderboard_page(board)
    assert page.count('data-tip="ValueError: too | long"') == 2
    assert '<span class="part">1 of 2</span>' in page
    assert "1 of 1 task failed" in page


def test_a_task_that_failed_for_all_models_has_its_column() -> None:
    board = Leaderboard([PART])
    assert [column.task for column in board.columns] == [None, "cloze", "word"]
