"""Contract of what a build shows while it goes on: on a terminal it moves, elsewhere a running step has a line now and then."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from merge_assets.cli.building import BuildDisplay, _elapsed
from merge_assets.pipeline.outcome import BUILT, FAILED, RUNNING, Outcome

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(*, lasting: float, line_seconds: float = 10.0, **console: object) -> str:
    """What a build of two assets prints, of which the first runs for a while and tells how far it is."""
    out = io.StringIO()
    with BuildDisplay(Console(file=out, **console), line_seconds) as display:
        display(Outcome("variants/a", RUNNING, message="never built"), 0, 2)
        display(Outcome("variants/a", RUNNING, 61.0, "38 %, 1.0 GiB of 2.6 GiB, about 3 min left"), 0, 2)
        time.sleep(lasting)
        display(Outcome("variants/a", BUILT, 62.5, "never built"), 1, 2)
        display(Outcome("variants/b", FAILED, 0.0, "b.yaml: no such [bold]model[/]"), 2, 2)
    return out.getvalue()


def test_in_a_pipe_a_short_step_has_its_outcome_only() -> None:
    assert shown(lasting=0, width=200).splitlines() == [
        "[1/2] built                 variants/a 62.5 s  never built",
        "[2/2] failed                variants/b  b.yaml: no such [bold]model[/]",
    ]


def test_in_a_pipe_a_long_step_says_now_and_then_that_it_runs() -> None:
    lines = shown(lasting=1.0, line_seconds=0.4, width=200).splitlines()
    running = [line for line in lines if " running " in line]
    assert 1 <= len(running) <= 2
    assert re.fullmatch(
        r"\[0/2\] running {15}variants/a \d+\.\d s  38 %, 1\.0 GiB of 2\.6 GiB, about 3 min left", running[0]
    )
    assert "\x1b" not in "".join(lines)


def test_a_running_step_is_not_told_of_before_its_time() -> None:
    assert " running " not in shown(lasting=0.5, line_seconds=10.0, width=200)


@pytest.mark.parametrize("width", [200, 40])
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_shows_what_runs_below_the_outcomes_within_its_width(width: int, no_color: bool) -> None:
    text = shown(lasting=0.6, force_terminal=True, no_color=no_color, width=width, height=20, legacy_windows=False)
    plain = CONTROL.sub("", text)
    assert "running variant" in plain and "0 of 2 done, 1 to come" in plain
    moving = [line for line in plain.splitlines() if line.startswith("running ")]
    assert moving and all(len(line) <= width for line in moving)
    if width == 200:
        assert re.search(r"running variants/a +1 min \d s 38 %, 1\.0 GiB of 2\.6 GiB, about 3 min left", plain)
    assert plain.splitlines().count("[1/2] built                 variants/a 62.5 s  never built") == 1
    if no_color:
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in shown(lasting=0, force_terminal=True, no_color=True, width=200)


def test_spans() -> None:
    assert [_elapsed(seconds) for seconds in (0.4, 59.9, 61, 3725)] == ["0 s", "59 s", "1 min 1 s", "1 h 2 min"]
