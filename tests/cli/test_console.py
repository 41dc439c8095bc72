"""Contract of tables: whole lines without a frame where a program reads them, whole texts within the width of a terminal."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from merge_assets.cli import console, show
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry
from tests.leaderboard_support import row, scores

LONG = "/models/" + "a-very-long-name-" * 20


def filled() -> None:
    table = console.table("model", "size", title="Models", numbers=("size",))
    table.add_row(LONG, "1")
    table.add_row("b", "200")
    console.print_table(table)


def test_a_table_in_a_file_has_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    filled()
    width = len(LONG)
    assert capsys.readouterr().out.splitlines() == [
        "Models",
        f"{'model':<{width}}  size",
        f"{LONG}     1",
        f"{'b':<{width}}   200",
    ]


def test_a_table_on_a_terminal_is_folded_and_nothing_of_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "console", lambda: Console(force_terminal=True, no_color=True, width=80))
    filled()
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert "".join(cells) == f"{LONG}b"


def test_a_leaderboard_on_a_terminal_is_divided_into_tables_whose_heads_tell_columns_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Console(force_terminal=True, no_color=True, width=80)
    monkeypatch.setattr(console, "console", lambda: shown)
    monkeypatch.setattr(show, "console", lambda: shown)
    tasks = [
        f"demo_{kind}_{text}" for kind in ("perplexity", "next_word") for text in ("scripture", "manual", "glosses")
    ]
    rows = [row(task, "acc", 0.5) for task in tasks]
    entry = LeaderboardEntry(model="task-arithmetic", kind="base", scores=[scores("m", *rows)])
    show._print_leaderboard(Leaderboard([entry]))
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(len(line) for line in lines if "│" in line or "┃" in line) <= 80
    assert sum("task-arithmetic" in line for line in lines) > 1
    for first, second in (("perplexity", "scripture"), ("perplexity", "glosses"), ("next word", "manual")):
        above = [(number, m.end()) for number, line in enumerate(lines) for m in re.finditer(first, line)]
        assert any(lines[number + 1][: end + 1].rstrip(" ┃").endswith(second) for number, end in above)
    assert "…" not in "".join(lines)
