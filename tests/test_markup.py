"""Contract: a value that a template prints is the text that a reader sees; oracle: markdown-it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markdown_it import MarkdownIt
from markdown_it.token import Token

from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry
from merge_assets.evaluation.leaderboard_files import leaderboard_markdown
from merge_assets.evaluation.page import leaderboard_page
from merge_assets.markup import FOLDER, code_span, escape_markdown, fenced, render
from tests.leaderboard_support import row, scores

REPOSITORY = Path(__file__).parents[1]
TEXTS = st.text(alphabet=r"ab1 _*`~<>[]()|\!&;#:/.-+=$@" + "'\"\n\r\u2028é", min_size=1, max_size=30)
ACTING = "\x1b[31m\x07\x9b\x7f\u202e\u2066\U000e0041"
HOSTILE = "a|b\\|<img src=x onerror=y>[l](javascript:z)`**_q_~~&lt;\n# h"


def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def cells(text: str) -> list[list[Token]]:
    return [token.children or [] for token in parsed(text) if token.type == "inline"]


def in_one_line(text: str) -> str:
    return " ".join(text.splitlines())


@given(TEXTS)
def test_a_text_in_a_cell_of_a_table_is_read_as_it_is(text: str) -> None:
    head, *body = cells(f"| head |\n| --- |\n| {escape_markdown(text)} | x |\n")
    assert [token.type for token in head] == ["text"]
    shown = in_one_line(text).strip(" ")
    assert "".join(token.content for token in body[0]) == shown
    assert {token.type for token in body[0]} <= {"text"}


@given(TEXTS)
def test_a_text_in_bold_is_read_as_it_is(text: str) -> None:
    (children,) = cells(f"x **a{escape_markdown(text)}b**\n")
    found = [(token.type, token.content) for token in children if token.content or token.type != "text"]
    bold = f"a{in_one_line(text)}b"
    assert found == [("text", "x "), ("strong_open", ""), ("text", bold), ("strong_close", "")]


@given(TEXTS)
def test_code_is_one_span(text: str) -> None:
    (children,) = cells(f"x {code_span(f'a{text}b')} y\n")
    assert [(token.type, token.content) for token in children] == [
        ("text", "x "),
        ("code_inline", in_one_line(f"a{text}b")),
        ("text", " y"),
    ]


def test_code_may_begin_and_end_with_backticks() -> None:
    (children,) = cells(code_span("`a``"))
    assert [(token.type, token.content) for token in children] == [("code_inline", "`a``")]


@given(TEXTS)
def test_a_fenced_block_ends_where_the_text_does(text: str) -> None:
    (block,) = parsed(fenced(f"a{text}b".replace("\u2028", ""), "yaml"))
    assert (block.type, block.info) == ("fence", "yaml")
    assert block.content.count("b") == text.count("b") + 1


@pytest.mark.parametrize("form", [escape_markdown, code_span, fenced])
def test_what_acts_on_who_reads_it_is_spelled_out(form: Callable[[str], str]) -> None:
    shown = form(f"a{ACTING}b\tc")
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert "x1b" in shown and "u202e" in shown


def test_in_html_too() -> None:
    made = scores(ACTING, row(ACTING, ACTING, 0.5), suite=ACTING)
    entry = LeaderboardEntry(model=ACTING, kind="variant", method=ACTING, recipe=ACTING, scores=[made])
    assert not (set(ACTING) - set("[31m")) & set(leaderboard_page(Leaderboard([entry])))


def test_names_stay_legible() -> None:
    assert escape_markdown("org/leaderboard_ifeval-7B_v0.1") == "org/leaderboard_ifeval-7B_v0.1"


def test_scores_of_strangers_stay_in_their_cells() -> None:
    made = scores(HOSTILE, row(HOSTILE, HOSTILE, 0.5), suite=HOSTILE)
    board = Leaderboard([LeaderboardEntry(model=HOSTILE, kind="variant", method=HOSTILE, scores=[made])])
    shown = in_one_line(HOSTILE)
    assert {token.type for line in cells(made.to_markdown()) for token in line} == {
        *("text", "strong_open", "strong_close"),
    }
    table = ["".join(token.content for token in line) for line in cells(made.to_markdown())]
    assert table[:8] == ["task", "metric", "shots", "n", "value", "± stderr", shown, shown]
    ranks = ["".join(token.content for token in line) for line in cells(leaderboard_markdown(board))]
    assert ranks[0] == shown
    assert ranks[8:11] == ["1", shown, shown]


def test_a_template_that_lacks_a_value_says_so() -> None:
    with pytest.raises(UndefinedError, match="'rows' is undefined"):
        render("merge_assets.evaluation", "scores.md.j2", heads=["task"], average=[])


def test_wheels_contain_the_templates() -> None:
    packaged = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = sorted((REPOSITORY / "merge_assets").rglob(FOLDER))
    assert len(folders) > 1
    for folder in folders:
        package = ".".join(folder.parent.relative_to(REPOSITORY).parts)
        assert f"{FOLDER}/*" in packaged.get(package, []), f"package-data of pyproject.toml: {package}"


def test_definitions_and_commands_start_without_jinja2() -> None:
    code = "import sys, definitions, merge_assets.cli.app; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
