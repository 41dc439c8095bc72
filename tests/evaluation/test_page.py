"""Contract: the page is whole without a script and without the network, and no text of a recipe becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from merge_assets.evaluation.headline import Headline, HeadlinePart, Term
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry, Parent
from merge_assets.evaluation.leaderboard_files import write_leaderboard
from merge_assets.evaluation.leaderboard_tables import models_table
from merge_assets.evaluation.page import leaderboard_page
from tests.leaderboard_support import ENTRIES, row, scores
from tests.sample_support import Answered


@pytest.fixture(scope="module")
def board() -> Leaderboard:
    return Leaderboard(ENTRIES)


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
    text = leaderboard_page(board, "A & B")
    page = Page(text)
    assert page.open == []
    assert "<title>A &amp; B</title>" in text
    sources = [attrs[name] or "" for _, attrs in page.tags for name in ("src", "href", "action") if name in attrs]
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert "@import" not in text
    assert "url(" not in text
    assert sum(tag == "script" for tag, _ in page.tags) == 1


def test_what_values_count_as_in_a_headline_stands_beside_them() -> None:
    terms = (Term(task="pro", metric="acc", lower=0.1, value=0.53092),)
    formula = Headline(parts=(HeadlinePart(task="pro", weight=2, terms=terms, value=0.4788),))
    made = scores("m", row("pro", "acc", 0.53092)).model_copy(update={"headline": 0.4788, "formula": formula})
    text = leaderboard_page(Leaderboard([LeaderboardEntry(model="m", kind="base", scores=[made])]))
    assert Page(text).open == []
    assert '<th scope="row">pro</th><td>53.1</td><td>47.9</td><td>2</td>' in text
    assert "average is of" not in leaderboard_page(Leaderboard(ENTRIES)), "a plain mean needs no words"


def test_texts_of_recipes_and_addresses_cannot_inject_markup(board: Leaderboard) -> None:
    text = leaderboard_page(board)
    assert "</script><b>" not in text
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in text
    assert "javascript:" not in text


HOSTILE = "</title></style></script><i onclick='x' title=\"y\">&amp;"


def test_no_text_of_a_stranger_becomes_markup() -> None:
    """The tags of the page are those of a harmless one, whatever models, tasks and recipes are called."""

    def tags(text: str) -> list[str]:
        made = [
            scores(
                text, row(f"{text} {name}", text, 0.5, 0.1), row(name, text, 9.0, headline=False), suite=f"{text}{name}"
            )
            for name in ("s", "t")
        ]
        entries = [
            LeaderboardEntry(model=f"{text}/parent", kind="base", scores=made),
            LeaderboardEntry(
                model=f"{text}/child",
                kind="variant",
                method=text,
                fingerprint=text,
                parents=[Parent(f"{text}/parent", text, made), Parent(text, text)],
                scores=made,
                description=text,
                recipe=text,
                url=f"https://example.org/{text}",
                stale=text,
            ),
        ]
        return [tag for tag, _ in Page(leaderboard_page(Leaderboard(entries), text)).tags if tag != "wbr"]

    assert tags(HOSTILE) == tags("harmless")


def test_the_page_holds_the_table_without_its_script(board: Leaderboard) -> None:
    page = Page(leaderboard_page(board))
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-kind" in attrs]
    cells = [attrs for tag, attrs in page.tags if tag == "td" and "data-suite" in attrs]
    assert len(rows) == 5
    assert len(cells) == 5 * 6
    tips = [attrs["data-tip"] or "" for attrs in cells if "data-tip" in attrs]
    untold = ": cannot tell\nmix: no samples are kept"
    compared = f"≈ +6.0 vs a (50.0){untold}\n≈ +16.0 vs org/b (40.0){untold}"
    assert f"demo_cloze acc_norm\n56.0% ± 3.0\n50 documents, 0-shot\n{compared}" in tips


def entries_with(count: int, answers: Answered) -> list[LeaderboardEntry]:
    """A variant of which so many of 40 answers are right, and its parent with 20."""
    parent, child = (answers.model(name, {"t": [1.0] * n + [0.0] * (40 - n)}) for name, n in (("p", 20), ("c", count)))
    return [
        LeaderboardEntry(model="p", kind="base", fingerprint="f", scores=[parent]),
        LeaderboardEntry(model="c", kind="variant", parents=[Parent("p", "f", [parent])], scores=[child]),
    ]


@pytest.mark.parametrize(
    ("count", "tile", "word"),
    [
        (35, ("c", "▲ +37.5", "against p"), "better"),
        (
            22,
            ("none", "≈", "of no variant can be told that its demo average is better than its best parent's"),
            "cannot tell",
        ),
        (5, ("none", "≈", "of no variant can be told that its demo average is better than its best parent's"), "worse"),
    ],
)
def test_the_tile_of_the_largest_gain_shows_one_that_can_be_told(
    count: int, tile: tuple[str, str, str], word: str, tmp_path: Path, chromium: Any
) -> None:
    answers = Answered()
    board = Leaderboard(entries_with(count, answers), samples=answers)
    write_leaderboard(board, tmp_path)
    page = chromium.new_page()
    page.goto((tmp_path / "leaderboard.html").as_uri())
    shown = page.locator(".cards li", has_text="Largest gain")
    assert tuple(shown.locator(f".card-{part}").inner_text() for part in ("model", "value", "note")) == tile
    cell = page.locator("#board tr", has_text="cannot tell" if word == "cannot tell" else word).locator("td.headline")
    assert cell.locator(".verdict").inner_text().split("\n")[0].startswith(word)
    assert models_table(board)["demo verdict"].dropna().tolist() == [word]


def test_all_columns_of_a_suite_like_the_demos_fit_into_1440_pixels(tmp_path: Path, chromium: Any) -> None:
    rows = [
        row(f"demo_{kind}_{text}", metric, value, 0.071 if higher else None, higher=higher, headline=higher)
        for kind, text, metric, value, higher in (
            ("perplexity", "scripture", "byte_perplexity", 2.882, False),
            ("perplexity", "manual", "byte_perplexity", 3.607, False),
            ("perplexity", "glosses", "byte_perplexity", 4.312, False),
            ("cloze", "scripture", "acc", 0.883, True),
            ("cloze", "manual", "acc", 0.683, True),
            ("next_word", "scripture", "exact_match,first-word", 0.675, True),
            ("next_word", "manual", "exact_match,first-word", 0.350, True),
        )
    ]
    made = scores("m", *rows, stderr=0.032)
    parent = Parent("examples/checkpoints/scripture", "f", [made])
    entry = LeaderboardEntry(
        model="scaled-passthrough",
        kind="variant",
        method="task_arithmetic",
        parameters=1_290_000,
        layers=16,
        parents=[parent],
        scores=[made],
        description="The base plus seven tenths of what each fine-tune learned",
    )
    write_leaderboard(Leaderboard([entry]), tmp_path)
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.goto((tmp_path / "leaderboard.html").as_uri())
    scrolled, shown = page.evaluate(
        "(frame => [frame.scrollWidth, frame.clientWidth])(document.querySelector('.frame'))"
    )
    assert scrolled == shown


def test_in_a_browser_columns_sort_filters_hide_and_the_panel_shows_the_recipe(
    board: Leaderboard, tmp_path: Path, chromium: Any
) -> None:
    write_leaderboard(board, tmp_path)
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((tmp_path / "leaderboard.html").as_uri())

    def models() -> list[str]:
        names: list[str] = page.locator("#board tbody tr:visible th.model a").all_inner_texts()
        return names

    def head(name: str) -> Any:
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
