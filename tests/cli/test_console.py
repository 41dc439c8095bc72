"""Contract of tables: whole lines without a frame where a program reads them, whole texts within the width of a terminal."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from merge_assets.cli import console

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
