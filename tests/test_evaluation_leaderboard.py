"""Contract: ranks, differences to each parent and their exports agree with tables worked out by hand."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry, format_count
from merge_assets.evaluation.scores import Scores, TaskScore, format_delta, format_value, metric_key

RECIPE = "name: mix\nmerge_method: slerp\n# </script><b>&\n"


def row(
    task: str, metric: str, value: float, stderr: float | None = None, *, higher: bool = True, headline: bool = True
) -> TaskScore:
    return TaskScore(
        task=task,
        metric=metric,
        value=value,
        stderr=stderr,
        shots=0,
        limit=None,
        n=50,
        higher_is_better=higher,
        headline=headline,
        task_version="1.0",
        task_digest="t",
        result="r",
        seconds=1.0,
    )


def scores(model: str, *rows: TaskScore, suite: str = "demo") -> Scores:
    values = [r.value for r in rows if r.headline]
    return Scores(
        model=model,
        fingerprint="f",
        suite=suite,
        suite_digest="s",
        tasks=rows,
        headline=sum(values) / len(values) if values else None,
        headline_stderr=None,
        seed=1234,
        versions={"lm_eval": "0.4"},
    )


def demo(model: str, perplexity: float, cloze: float, word: float) -> Scores:
    return scores(
        model,
        row("demo_perplexity", "byte_perplexity", perplexity, higher=False, headline=False),
        row("demo_cloze", "acc_norm", cloze, 0.03),
        row("demo_word", "exact_match", word, 0.04),
    )


#            perplexity  cloze  word  average
# a          8.0         0.50   0.30  0.40
# b          6.0         0.40   0.50  0.45
# mix (a,b)  7.0         0.56   0.50  0.53
# deep (mix) 9.0         0.30   0.50  0.40
# alone      no scores; its parent is not on the board
ENTRIES = [
    LeaderboardEntry(model="a", kind="base", parameters=1_290_000, layers=14, scores=[demo("a", 8.0, 0.50, 0.30)]),
    LeaderboardEntry(model="org/b", kind="base", parameters=1_290_000, layers=14, scores=[demo("b", 6.0, 0.40, 0.50)]),
    LeaderboardEntry(
        model="mix",
        kind="variant",
        method="slerp",
        parameters=1_290_000,
        layers=14,
        parents=["a", "org/b"],
        description="Both | halves",
        recipe=RECIPE,
        scores=[
            demo("mix", 7.0, 0.56, 0.50),
            scores("mix", row("arc", "acc", 0.25), suite="extra"),
        ],
    ),
    LeaderboardEntry(
        model="deep",
        kind="variant",
        method="passthrough",
        layers=21,
        parents=["mix", "mix"],
        scores=[demo("deep", 9.0, 0.30, 0.50)],
    ),
    LeaderboardEntry(model="alone", kind="variant", method="ties", parents=["elsewhere"], url="javascript:alert(1)"),
]


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    return Leaderboard(ENTRIES)


def test_ranks_follow_the_headline_and_ties_share_one(board: Leaderboard) -> None:
    assert [(line.rank, line.entry.model) for line in board.rows] == [
        (1, "mix"),
        (2, "org/b"),
        (3, "a"),
        (3, "deep"),
        (None, "alone"),
    ]


def test_the_table_holds_the_values_and_the_difference_to_the_best_parent(board: Leaderboard) -> None:
    table = board.table().set_index("model")
    assert list(table["rank"].dropna()) == [1, 2, 3, 3]
    expected = {
        # column: (mix's value, its best parent, difference to it)
        "demo": (0.53, "org/b", 0.08),
        "demo/demo_perplexity:byte_perplexity": (7.0, "org/b", 1.0),
        "demo/demo_cloze:acc_norm": (0.56, "a", 0.06),
        "demo/demo_word:exact_match": (0.50, "org/b", 0.0),
    }
    for name, (value, parent, delta) in expected.items():
        assert table.loc["mix", name] == pytest.approx(value)
        assert table.loc["mix", f"{name} best parent"] == parent
        assert table.loc["mix", f"{name} delta"] == pytest.approx(delta)
    assert table.loc["mix", "demo/demo_cloze:acc_norm stderr"] == 0.03
    assert table.loc["mix", "demo/demo_cloze:acc_norm n"] == 50
    assert pd.isna(table.loc["a", "demo delta"])
    assert list(table.loc["mix", "parents"]) == ["a", "org/b"]


def test_there_is_one_difference_per_parent_and_score(board: Leaderboard) -> None:
    deltas = board.deltas()
    assert len(deltas) == 2 * 4 + 4
    one = deltas[(deltas["model"] == "mix") & (deltas["parent"] == "a")].set_index("task")
    assert one.loc["demo_perplexity", "delta"] == pytest.approx(-1.0)
    assert one.loc["demo_perplexity", "gain"] == pytest.approx(1.0)
    assert one.loc["demo_cloze", "gain"] == pytest.approx(0.06)
    assert one.loc["demo_cloze", "delta_stderr"] == pytest.approx(math.sqrt(0.03**2 + 0.03**2))
    assert pd.isna(one.loc["demo_perplexity", "delta_stderr"])


def test_missing_scores_are_null_in_every_export_and_never_nan(board: Leaderboard, tmp_path: Path) -> None:
    assert {path.name for path in board.write(tmp_path)} == {path.name for path in tmp_path.iterdir()}
    table = pd.read_parquet(tmp_path / "leaderboard.parquet").set_index("model")
    assert list(table["extra/arc:acc"].isna()) == [False, True, True, True, True]
    records = json.loads(board.table().to_json(orient="records"), parse_constant=pytest.fail)
    assert records[1]["extra"] is None
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text().split("<body>")[-1].split("<script>")[0]
        assert not re.search(r"\b(nan|na|null)\b", text, re.IGNORECASE)


def test_markdown_is_one_table_per_suite_with_arrows_for_better_and_worse(board: Leaderboard) -> None:
    lines = board.to_markdown().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert tables[0].split(" | ")[5:] == ["average", "perplexity ↓", "cloze", "word |"]
    mix = next(line for line in tables if "**mix**" in line)
    assert mix == "| 1 | **mix** | slerp | 1.29M | 14 | 53.0 ▲+8.0 | 7.000 ▼+1.000 | 56.0 ±3.0 ▲+6.0 | 50.0 ±4.0 ±0 |"
    assert "**extra**" in lines
    assert not any("alone" in line for line in tables)
    brief = next(line for line in board.to_markdown(brief=True).splitlines() if "**mix**" in line)
    assert brief == "| 1 | **mix** | slerp | 1.29M | 14 | 53.0 ▲+8.0 | 7.000 | 56.0 | 50.0 |"


def test_scores_print_their_differences_to_parents() -> None:
    text = demo("mix", 7.0, 0.56, 0.50).to_markdown([demo("a|b", 8.0, 0.50, 0.30)])
    assert "| task | metric | shots | n | value | ± stderr | Δ a\\|b |" in text
    assert "| demo_perplexity | byte_perplexity ↓ | 0 | 50 | 7.000 |  | −1.000 |" in text
    assert "| demo_cloze | acc_norm | 0 | 50 | 56.0 | 3.0 | +6.0 |" in text
    assert "| **average** |  |  |  | **53.0** |  | +13.0 |" in text


def test_the_suite_with_most_models_ranks_unless_another_is_named() -> None:
    assert Leaderboard(ENTRIES).suites == ["demo", "extra"]
    other = Leaderboard(ENTRIES, rank_by="extra")
    assert other.suites == ["extra", "demo"]
    assert [line.rank for line in other.rows] == [1, None, None, None, None]
    with pytest.raises(EvaluationError, match="no model has scores of suite 'absent'"):
        Leaderboard(ENTRIES, rank_by="absent")


def test_a_suite_without_headline_ranks_by_its_first_task() -> None:
    entries = [
        LeaderboardEntry(
            model=name, kind="base", scores=[scores(name, row("p", "byte_perplexity", v, higher=False, headline=False))]
        )
        for name, v in (("worse", 9.0), ("better", 7.0))
    ]
    assert [line.entry.model for line in Leaderboard(entries).rows] == ["better", "worse"]


def test_an_empty_leaderboard_can_be_written(tmp_path: Path) -> None:
    Leaderboard([]).write(tmp_path)
    assert "No scores yet" in (tmp_path / "leaderboard.html").read_text()
    assert len(pd.read_parquet(tmp_path / "leaderboard.parquet")) == 0


def test_one_title_for_two_models_is_refused() -> None:
    with pytest.raises(EvaluationError, match="'a' appears 2 times"):
        Leaderboard([ENTRIES[0], ENTRIES[0]])


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks about."""

    VOID = frozenset({"meta", "link", "input", "wbr", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_nests_and_loads_nothing_from_elsewhere(board: Leaderboard) -> None:
    text = board.to_html("A & B")
    page = Page(text)
    assert page.open == []
    assert "<title>A &amp; B</title>" in text
    sources = [attrs[name] or "" for _, attrs in page.tags for name in ("src", "href", "action") if name in attrs]
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert "@import" not in text
    assert "url(" not in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1


def test_texts_of_recipes_and_addresses_cannot_inject_markup(board: Leaderboard) -> None:
    text = board.to_html()
    assert "</script><b>" not in text
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in text
    assert "javascript:" not in text


def test_the_page_holds_the_table_without_its_script(board: Leaderboard) -> None:
    page = Page(board.to_html())
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-kind" in attrs]
    cells = [attrs for tag, attrs in page.tags if tag == "td" and "data-suite" in attrs]
    assert len(rows) == 5
    assert len(cells) == 5 * 6
    tips = [attrs["data-tip"] or "" for attrs in cells if "data-tip" in attrs]
    assert "demo_cloze acc_norm\n56.0% ± 3.0\n50 documents, 0-shot\n▲ +6.0 vs a (50.0)\n▲ +16.0 vs org/b (40.0)" in tips


def test_in_a_browser_columns_sort_filters_hide_and_the_panel_shows_the_recipe(
    board: Leaderboard, tmp_path: Path, chromium: Any
) -> None:
    board.write(tmp_path)
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "leaderboard.html").as_uri())

    def models() -> list[str]:
        names: list[str] = page.locator("#board tbody tr:visible th.model a").all_inner_texts()
        return names

    def head(name: str) -> object:
        return page.locator("#board thead button", has_text=name)

    assert models() == ["mix", "org/b", "a", "deep", "alone"]
    head("perplexity").click()
    assert models() == ["org/b", "mix", "a", "deep", "alone"]
    assert page.locator("th[aria-sort=ascending]").count() == 1
    head("perplexity").click()
    assert models() == ["deep", "a", "mix", "org/b", "alone"]
    head("cloze").click()
    assert models() == ["mix", "a", "org/b", "deep", "alone"]
    head("Model").click()
    assert models() == ["a", "alone", "deep", "mix", "org/b"]

    page.get_by_role("radio", name="Variants").check()
    assert models() == ["alone", "deep", "mix"]
    page.get_by_role("searchbox").fill("org/b")
    assert models() == ["mix"]
    assert page.locator("output").inner_text() == "1 of 5 models"

    page.get_by_role("link", name="mix").click()
    assert "merge_method: slerp" in page.locator("dialog pre").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert problems == []


@pytest.mark.parametrize(
    ("metric", "available", "found"),
    [
        ("acc", ["acc,none", "acc_norm,none"], "acc,none"),
        ("exact_match", ["exact_match,strict-match", "exact_match,flexible-extract"], None),
        (
            "exact_match,strict-match",
            ["exact_match,strict-match", "exact_match,flexible-extract"],
            "exact_match,strict-match",
        ),
        ("exact_match", ["exact_match,first-word", "other,none"], "exact_match,first-word"),
        ("absent", ["acc,none"], None),
    ],
)
def test_a_metric_means_one_column_of_lm_eval_or_none(metric: str, available: list[str], found: str | None) -> None:
    assert metric_key(metric, dict.fromkeys(available, 0.0)) == found


@pytest.mark.parametrize(
    ("value", "fraction", "text"),
    [
        (0.5, True, "50.0"),
        (0.12345, True, "12.3"),
        (7.0, False, "7.000"),
        (12.3456, False, "12.35"),
        (1234.5, False, "1234"),
    ],
)
def test_values_for_people(value: float, fraction: bool, text: str) -> None:
    assert format_value(value, fraction) == text


def test_differences_for_people() -> None:
    assert format_delta(-0.021, True, 0.5) == "−2.1"
    assert format_delta(0.0146, False, 7.871) == "+0.015"
    assert format_delta(0.0, True) == format_delta(-1e-9, True) == "±0"
    assert format_delta(None, True) == ""


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (999, "999"), (1_287_456, "1.29M"), (7_241_732_096, "7.24B"), (10**13, "10T")]
)
def test_parameter_counts_for_people(count: int | None, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize("text", ["", "{}", '{"model": 1}', "null"])
def test_what_is_no_scores_is_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match="scores: "):
        Scores.from_json(text)


def test_scores_hold_no_nan() -> None:
    with pytest.raises(ValueError, match="finite"):
        row("a", "acc", math.nan)
