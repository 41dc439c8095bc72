"""Contract of a search's page: whole without network or script, bounded, and reloading itself only while it is written."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from merge_assets.recipe.schema_search import Choices
from merge_assets.search.page import MOST_ROWS, OPEN_ROWS, Head, search_page
from merge_assets.search.standing import Goal, Standing
from tests.evaluation.test_page import HOSTILE, Page
from tests.search_support import HIGHER, LOWER, METHOD, SPACE, X, drawn_at_random, trial

HEAD = Head(
    name="best",
    study="best-0123456789ab",
    description="The mix of two.",
    method="slerp",
    models=["a", "b"],
    sampler="tpe",
    trials=60,
    hours=None,
    written=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    is_running=False,
)


def refreshes(text: str) -> list[str | None]:
    return [
        attrs["content"] for tag, attrs in Page(text).tags if tag == "meta" and attrs.get("http-equiv") == "refresh"
    ]


def test_the_page_nests_and_loads_nothing_from_elsewhere() -> None:
    text = search_page(drawn_at_random(60), HEAD)
    page = Page(text)
    assert page.open == []
    sources = [attrs[name] or "" for _, attrs in page.tags for name in ("src", "href", "action") if name in attrs]
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert "@import" not in text and "url(" not in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "60 of 60</b> trials are finished" in text and "3 failed" in text and "2026-01-02 03:04:05 UTC" in text


def test_it_reloads_itself_only_while_the_search_goes_on() -> None:
    standing = drawn_at_random(10)
    assert refreshes(search_page(standing, replace(HEAD, is_running=True))) == ["5"]
    assert refreshes(search_page(standing, HEAD)) == []


def test_trials_that_were_given_up_are_counted_and_say_why_and_are_no_failures() -> None:
    standing = drawn_at_random(10)
    lost = trial(10, {X: 0.9}, state="given up", reason="worse than trial 3 on 1/8 of the documents", told={})
    text = search_page(Standing([*standing.trials, lost], SPACE, [HIGHER]), replace(HEAD, trials=11))
    assert "11 of 11</b> trials are finished, 1 of them given up" in text and "Failed trials" not in text
    assert rows_of(text)[-1][:2] == ["10", "given up"] and rows_of(text)[-1][-1].startswith("worse than trial 3")
    assert "were not asked all documents, and have no point" in text


def rows_of(text: str) -> list[list[str]]:
    """The cells of the rows of the table of all trials, as they are shown."""
    body = text[text.index('id="all"') :]
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
        if "<td" in row
    ]


def test_all_trials_are_listed_the_best_first_and_those_without_a_score_last() -> None:
    standing = drawn_at_random(250)
    text = search_page(standing, HEAD)
    rows = rows_of(text)
    assert [int(row[0]) for row in rows[: len(standing.done)]] == [one.number for one in standing.ranked]
    assert [row[1] for row in rows[len(standing.done) :]] == ["failed"] * 12
    assert rows[0][1] == "best" and len(rows) == 250
    head, _, rest = text[text.index('id="all"') :].partition('id="rest"')
    assert len(rows_of('id="all"' + head)) == OPEN_ROWS and "<summary>150 more</summary>" in rest


def test_a_search_of_two_objectives_and_one_of_nothing_yet_have_pages() -> None:
    both = search_page(drawn_at_random(60, (HIGHER, LOWER)), HEAD)
    assert Page(both).open == [] and 'id="front-1-0"' in both and "perplexity ↓" in both
    none = search_page(Standing([], SPACE, [HIGHER]), HEAD)
    assert Page(none).open == [] and "No trial has come to anything yet." in none and 'id="all"' not in none
    begun = search_page(Standing([trial(0, {X: 0.5}, state="running", told={})], SPACE, [HIGHER]), HEAD)
    assert Page(begun).open == [] and "1 begun and not finished" in begun


def test_failed_trials_say_why_once_for_each_reason() -> None:
    text = search_page(drawn_at_random(200), HEAD)
    assert text.count('<pre class="reason">') == 1 and "trials 19, 39, 59, 79" in text


def test_a_page_that_is_handed_on_has_no_password() -> None:
    reason = "https://me:secret@hub.example/m is not there"
    failed = trial(0, {X: 0.5}, state="failed", reason=reason, told={})
    text = search_page(Standing([failed], SPACE, [HIGHER]), HEAD)
    assert "hub.example/m is not there" in text and "secret" not in text


@pytest.mark.parametrize("count", [MOST_ROWS + 200, 2 * MOST_ROWS])
def test_a_page_does_not_grow_beyond_a_bound(count: int) -> None:
    text = search_page(drawn_at_random(count), HEAD)
    assert len(rows_of(text)) == MOST_ROWS
    assert f"{count - MOST_ROWS} more are left out" in text
    assert len(text) < 1_000_000 and text.count("<") < 45 * MOST_ROWS


def test_no_name_value_or_reason_of_a_stranger_becomes_markup() -> None:
    def tags(text: str) -> list[str]:
        space = {**SPACE, text: Choices(choices=(text, f"{text}{text}"))}
        trials: list[Any] = [
            trial(n, {X: n / 40, METHOD: "ties", text: text * (1 + n % 2)}, n % 7 / 7, float(n)) for n in range(40)
        ]
        trials.append(trial(40, {X: 0.5}, state="failed", reason=f"{text}\n{text}", told={}))
        head = replace(HEAD, name=text, study=text, description=text, method=text, models=[text], sampler=text)
        goals = [Goal(text, True), Goal(f"{text}2", False)]
        return [tag for tag, _ in Page(search_page(Standing(trials, space, goals), head)).tags]

    assert tags(HOSTILE) == tags("harmless")
