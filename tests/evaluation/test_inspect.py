"""Contract: what a leaderboard lets people look at: members of groups, answers gained and lost, versions, costs, what others
published. Pages load nothing, are bounded, and take no text of a stranger for markup."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.evaluation import comparison
from merge_assets.evaluation.charts import pareto_charts
from merge_assets.evaluation.comparison import PER_TASK, comparisons_of
from merge_assets.evaluation.documents import read_documents, shown
from merge_assets.evaluation.exports import leaderboard_csv, leaderboard_latex
from merge_assets.evaluation.history import versions_of
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry
from merge_assets.evaluation.leaderboard_files import leaderboard_markdown, write_leaderboard
from merge_assets.evaluation.members import groups_of
from merge_assets.evaluation.published import published_table
from merge_assets.recipe import Published
from merge_assets.scales import undominated
from tests.evaluation.test_page import HOSTILE, Page
from tests.inspect_support import SUBJECTS, chosen, school
from tests.leaderboard_support import ENTRIES, row, scores

# -- members of groups -------------------------------------------------------------------------------------------------


def test_members_of_a_group_have_values_and_verdicts_of_their_own() -> None:
    board, _ = school()
    (group,) = groups_of(board)
    assert (group.column.task, [column.task for column in group.columns]) == ("exam", list(SUBJECTS))
    cells = {column.task: cell for column, cell in group.cells["child"].items()}
    assert {task: (cell.value, cell.n) for task, cell in cells.items()} == {
        "exam_anatomy": (5 / 40, 40),
        "exam_law": (38 / 40, 40),
        "exam_physics": (21 / 40, 40),
    }
    words = [cells[task].deltas[0].verdict.word for task in SUBJECTS]
    assert words == ["worse", "better", "cannot tell"]


def test_verdicts_of_members_are_adjusted_for_each_other_and_cost_the_others_nothing() -> None:
    board, _ = school()
    (group,) = groups_of(board)
    found = [cell.deltas[0].verdict for cell in group.cells["child"].values()]
    least = min(found, key=lambda verdict: verdict.found.p if verdict.found else 1)
    assert least.found is not None and least.adjusted == pytest.approx(3 * least.found.p)
    with_members = [cell.deltas for row in board.rows for cell in row.cells.values()]
    assert with_members == [cell.deltas for row in school()[0].rows for cell in row.cells.values()]


# -- answers gained and lost -------------------------------------------------------------------------------------------


def test_documents_gained_and_lost_are_counted_and_the_rest_is_right_or_wrong_in_both() -> None:
    (found,) = comparisons_of(school()[0])
    counts = {one.task: (one.gained, one.lost, one.right, one.n) for _, one in found.tasks}
    assert counts == {
        "exam_anatomy": (0, 15, 5, 40),
        "exam_law": (18, 0, 20, 40),
        "exam_physics": (1, 0, 20, 40),
        "quiz": (19, 0, 20, 40),
    }
    assert all(len(one.shown_gained) <= PER_TASK and len(one.shown_lost) <= PER_TASK for _, one in found.tasks)


def test_a_page_shows_both_answers_and_the_gold_one_of_the_documents_that_changed(tmp_path: Path) -> None:
    board, exam = school()
    write_leaderboard(board, tmp_path, lines=exam.lines)
    (file,) = (tmp_path / "comparisons").iterdir()
    text = file.read_text()
    assert f'href="comparisons/{file.name}"' in (tmp_path / "leaderboard.html").read_text()
    page = Page(text)
    assert page.open == []
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["../leaderboard.html"]
    assert not any(tag in ("script", "img", "link") for tag, _ in page.tags)
    law = text[text.index("<summary>exam_law") : text.index("<summary>exam_physics")]
    numbers = [int(found) for found in re.findall(r"Question (\d+) of exam_law", law)]
    assert len(numbers) == PER_TASK and all(20 <= number < 38 for number in numbers), (
        "those that child alone gets right"
    )
    for number in numbers:
        article = law[law.index(f"Question {number} of") :]
        article = article[: article.index("</article>")]
        answers = re.findall(r"<dd><pre>(.*?)</pre>", article)
        assert answers == [f"right {number}", f"wrong {number}", f"right {number}"], "child's, parent's, gold"
    assert "8 more gained, not shown" in law


@pytest.mark.parametrize(("per_page", "shown_of_each"), [(1, 1), (8, 1), (24, 3), (10_000, PER_TASK)])
def test_a_page_of_many_tasks_shows_fewer_documents_of_each(
    per_page: int, shown_of_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "PER_PAGE", per_page)
    (found,) = comparisons_of(school()[0])
    for _, one in found.tasks:
        assert len(one.shown_gained) == min(one.gained, shown_of_each)
        assert len(one.shown_lost) == min(one.lost, shown_of_each)


def test_pages_take_no_text_of_a_model_or_a_task_for_markup(tmp_path: Path) -> None:
    def tags(words: str) -> list[list[str]]:
        board, exam = school(words)
        folder = tmp_path / ("hostile" if words == HOSTILE else "harmless")
        write_leaderboard(board, folder, lines=exam.lines)
        files = sorted(folder.rglob("*.html"))
        assert len(files) == 2
        return [[tag for tag, _ in Page(file.read_text()).tags if tag != "wbr"] for file in files]

    assert tags(HOSTILE) == tags("h" * (len(HOSTILE) - 2) + "/h")


# lm-eval logs ------------------------------------------------------------------------------------------------------


def test_the_answer_chosen_is_the_likeliest_by_the_metric() -> None:
    document = {
        "target": "1",
        "arguments": {
            "gen_args_0": {"arg_0": "Q", "arg_1": " a"},
            "gen_args_1": {"arg_0": "Q", "arg_1": " a long one"},
        },
        "filtered_resps": [["-2.0", "False"], ["-3.0", "False"]],
    }
    assert shown(document, "acc").answer == " a"
    assert shown(document, "acc_norm").answer == " a long one"
    assert shown(document, "acc").gold == " a long one"


def test_where_contexts_differ_and_not_the_ends_the_contexts_are_what_was_chosen_from() -> None:
    document = {
        "target": 0,
        "arguments": [
            ["The cup fits the box since the cup", " is small."],
            ["The cup fits the box since the box", " is small."],
        ],
        "filtered_resps": [[-1.0, False], [-0.5, False]],
    }
    found = shown(document, "acc")
    assert (found.answer, found.gold, found.prompt) == ("box", "cup", "The cup fits the box since the ")


def test_what_was_generated_stands_beside_what_was_taken_of_it() -> None:
    document = {"target": "42", "arguments": [["Q", {"until": []}]], "resps": [["It is 42."]], "filtered_resps": ["42"]}
    found = shown(document, "exact_match,get-answer")
    assert (found.prompt, found.answer, found.raw, found.gold) == ("Q", "42", "It is 42.", "42")


def test_documents_are_found_by_their_place_among_those_of_their_filter() -> None:
    rows = [chosen("t", number, 1.0) | {"filter": kind} for number in range(4) for kind in ("strict", "loose")]
    found = read_documents([json.dumps(one).encode() for one in rows], "loose", "acc", {0, 3})
    assert {place: document.prompt for place, document in found.items()} == {
        0: "Question 0 of t:",
        3: "Question 3 of t:",
    }


# -- versions ----------------------------------------------------------------------------------------------------------


def test_versions_of_a_model_are_beside_the_ones_before() -> None:
    board, exam = school()
    parent, child = board.entries
    assert versions_of(parent, exam.samples_of) == []
    old, new = versions_of(child, exam.samples_of)
    assert (old.fingerprint, old.cell.deltas) == ("0ld", ())
    assert new.fingerprint == "new"
    (delta,) = new.cell.deltas
    assert delta.verdict.word == "better"
    assert delta.difference == pytest.approx(new.cell.value - old.cell.value)


# -- score against cost ------------------------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=12)


@given(POINTS)
def test_of_the_front_none_is_beaten_and_every_other_is(points: list[tuple[float, float]]) -> None:
    is_front = undominated([(price, -worth) for price, worth in points])
    best = [point for point, is_best in zip(points, is_front, strict=True) if is_best]
    for price, worth in best:
        assert not any((p < price and w >= worth) or (p <= price and w > worth) for p, w in points)
    for (price, worth), is_best in zip(points, is_front, strict=True):
        assert is_best or any(p <= price and w >= worth and (p, w) != (price, worth) for p, w in best)


def test_charts_are_images_of_their_own_with_all_models() -> None:
    charts = {chart.name: chart for chart in pareto_charts(school()[0])}
    assert charts.keys() == {"parameters", "seconds"}
    root = ET.fromstring(charts["parameters"].svg)
    texts = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert texts == ["child: 75.4, 2M; on the front", "parent: 50.0, 1M; on the front"]
    assert pareto_charts(Leaderboard([])) == []


def test_there_is_no_chart_of_a_cost_that_all_models_share() -> None:
    made = [scores(name, row("t", "acc", value)) for name, value in (("a", 0.1), ("b", 0.2))]
    entries = [LeaderboardEntry(model=one.model, kind="base", parameters=10, scores=[one]) for one in made]
    assert pareto_charts(Leaderboard(entries)) == []


# -- published by others -----------------------------------------------------------------------------------------------


def test_published_values_stand_beside_what_was_measured_of_the_same_task() -> None:
    board, _ = school()
    found = {(value.model, value.benchmark): value for value in board.published}
    assert found["child", "quiz"].texts == ("97", "97.5", "+0.5")
    assert found["child", "average"].measured == pytest.approx(100 * (0.975 + 64 / 120) / 2)
    assert found["elsewhere", "ARC"].measured is None
    assert found["elsewhere", "ARC"].note == "published by others, not measured here"
    table = published_table(board.published)
    assert table[table.benchmark == "quiz"][["published", "measured", "difference"]].values.tolist() == [
        [97.0, 97.5, 0.5]
    ]
    text = leaderboard_markdown(board)
    assert "| child | school | quiz | 97 | 97.5 | +0.5 | https://example.org/ |" in text
    assert "| elsewhere |  | ARC | 12.5 | not measured here |  | a table |" in text


def test_values_of_another_suite_or_of_part_of_the_documents_are_not_taken_for_the_same() -> None:
    part = row("quiz", "acc", 0.5).model_copy(update={"limit": 20})
    entry = LeaderboardEntry(
        model="m", kind="base", scores=[scores("m", part, row("two", "a", 0.1), row("two", "b", 0.2))]
    )
    values = {"quiz": 50.0, "two": 10.0, "two:b": 20.0}
    tables = [Published(source="s", suite=suite, values=values) for suite in ("demo", "other")]
    found = Leaderboard([entry], published={"m": tables}).published
    assert [(value.measured, value.note) for value in found[:3]] == [
        (50.0, "measured with 50 documents, not all"),
        (None, "published by others, not measured here"),
        (20.0, ""),
    ]
    assert [value.measured for value in found[3:]] == [None, None, None]


# -- for other programs ------------------------------------------------------------------------------------------------


def test_the_csv_is_the_table_and_no_text_in_it_is_a_formula() -> None:
    evil = "=cmd|' /C calc'!A0"
    board = Leaderboard([LeaderboardEntry(model=evil, kind="base", scores=[scores(evil, row("t", "acc", 0.25))])])
    (found,) = csv.DictReader(io.StringIO(leaderboard_csv(board)))
    assert found["model"] == f"'{evil}"
    assert math.isclose(float(found["demo/t:acc"]), 0.25)


def test_the_latex_has_a_cell_for_every_column_and_escapes_names() -> None:
    entries = [LeaderboardEntry(model="50%_of\\a & b", kind="base", scores=[scores("m", row("t_1", "acc", 0.25))])]
    text = leaderboard_latex(Leaderboard([*ENTRIES, *entries]))
    assert r"50\%\_of\textbackslash{}a \& b" in text
    for table in text.split(r"\begin{tabular}")[1:]:
        layout, body = table.split("\n", 1)
        lines = [line for line in body.split("\n") if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(layout.strip("{}"))}


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_browser_columns_are_chosen_members_fold_out_and_comparisons_open(tmp_path: Path, chromium: Any) -> None:
    board, exam = school()
    write_leaderboard(board, tmp_path, lines=exam.lines)
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "leaderboard.html").as_uri())

    def heads() -> list[str]:
        texts: list[str] = page.locator("#board thead tr:last-child th.score:visible").all_inner_texts()
        return [text.split("\n")[0] for text in texts]

    assert heads() == ["average", "exam", "quiz"]
    page.locator(".pick summary").click()
    page.locator(".pick label", has_text="exam").click()
    assert heads() == ["average", "quiz"]
    assert page.locator("#board thead .suite").get_attribute("colspan") == "2"
    assert page.locator("#board tbody td.score:visible").count() == 4
    page.locator("h1").click()
    assert not page.locator(".pick .menu").is_visible()

    assert not page.locator("#groups td", has_text="95.0").is_visible()
    page.locator("#groups summary").click()
    assert page.locator("#groups tr", has_text="law").inner_text().split()[:3] == ["law", "95.0", "▲"]
    assert page.locator("#pareto svg").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.get_by_role("link", name="child", exact=True).click()
    assert "0ld" in page.locator("dialog").inner_text()
    page.locator("dialog").get_by_role("link", name="Answers gained and lost against parent").click()
    assert page.locator("h1").inner_text() == "child against parent"
    page.locator("summary", has_text="exam_law").click()
    assert page.locator(".doc:visible", has_text="of exam_law").count() == PER_TASK
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("a.back").click()
    assert page.locator("#board").is_visible()
    assert problems == []
