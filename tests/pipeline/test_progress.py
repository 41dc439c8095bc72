"""Contract of progress in words: how much of how much, at what rate lately, and how long still."""

from __future__ import annotations

import pytest

from merge_assets.pipeline.progress import BYTES, PASSES, TASKS, Pace, about

GIB = 2**30


def test_bytes_have_a_rate_and_a_time_left() -> None:
    pace = Pace(BYTES)
    assert pace.at(10, 1 * GIB, 8 * GIB, "x").words == "12 %, 1.0 GiB of 8.0 GiB, 102.4 MiB/s, about 1 min left"
    assert pace.at(20, 2 * GIB, 8 * GIB, "x").left == pytest.approx(60)


def test_tasks_are_counted_in_thousandths_and_have_no_rate() -> None:
    now = Pace(TASKS).at(30, 2500, 7000, "arc")
    assert now.words == "36 %, 2.5 of 7 tasks, about 55 s left" or now.words.endswith("about 1 min left")
    assert (now.gib_per_s, now.doing) == (None, "arc")


def test_passes_are_counted_one_by_one() -> None:
    assert Pace(PASSES).at(30, 34, 136, "layer 7").words == "25 %, 34 of 136 passes, about 2 min left"


def test_what_an_earlier_attempt_had_done_says_nothing_of_the_rate() -> None:
    pace = Pace(BYTES)
    pace.at(5, 90 * GIB, 100 * GIB, "")
    assert pace.at(10, 91 * GIB, 100 * GIB, "").left == pytest.approx(9 * 5)


def test_the_rate_is_that_of_the_last_minute() -> None:
    pace = Pace(BYTES)
    for second in range(5, 605, 5):  # a slow begin, then a GiB a second
        pace.at(second, (max(0, second - 500) + 1) * GIB, 1000 * GIB, "")
    assert pace.at(605, 106 * GIB, 1000 * GIB, "").left == pytest.approx(894)


def test_where_nothing_moves_no_time_is_promised() -> None:
    pace = Pace(BYTES)
    pace.at(5, GIB, 2 * GIB, "")
    assert pace.at(100, GIB, 2 * GIB, "").words == "50 %, 1.0 GiB of 2.0 GiB, 0 B/s"
    assert Pace(BYTES).at(5, 0, 0, "").percent == 0


def test_a_small_rate_is_no_rate_of_nothing_and_what_is_done_takes_no_longer() -> None:
    assert Pace(BYTES).at(2, 72 * 1024, 72 * 1024, "").words == "100 %, 72.0 KiB of 72.0 KiB, 36.0 KiB/s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "5 s"), (41, "40 s"), (58, "1 min"), (170, "3 min"), (3599, "1 h"), (7800, "2 h 10 min"), (36000, "10 h")],
)
def test_spans_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert about(seconds) == f"about {words}"
