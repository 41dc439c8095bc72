"""Contract of what long work tells and asks."""

import pytest

from merge_assets.errors import Stopped
from merge_assets.work import UNATTENDED, Work


def test_what_nobody_attends_to_goes_on() -> None:
    UNATTENDED.report(1, 2, "a")
    UNATTENDED.check("looking")
    assert not UNATTENDED.should_stop()


def test_whether_to_stop_is_asked_each_time() -> None:
    answers = iter([False, True])
    work = Work(should_stop=lambda: next(answers))
    work.check("looking")
    with pytest.raises(Stopped, match=r"^stopped while looking$"):
        work.check("looking")


def test_what_nobody_describes_is_just_stopped() -> None:
    with pytest.raises(Stopped, match=r"^stopped$"):
        Work(should_stop=lambda: True).check()


def test_a_step_can_tell_another_or_nobody_and_ends_with_the_whole() -> None:
    told: list[tuple[int, int, str]] = []
    stopped: list[int] = []
    whole = Work(lambda *step: told.append(step), lambda: bool(stopped))
    part = whole.reporting(lambda done, total, label: whole.report(10 + done, 20, label))
    silent = whole.silent()
    part.report(1, 2, "a")
    silent.report(2, 2, "b")
    whole.report(3, 20, "c")
    assert told == [(11, 20, "a"), (3, 20, "c")]
    for step in (part, silent):
        step.check()
    stopped.append(1)
    for step in (part, silent):
        with pytest.raises(Stopped):
            step.check()
