"""Contract of cutting a file into parts of an S3 upload: legal sizes, nothing lost, and as little sent as can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from merge_assets.store.parts import COPIED, SENT, SMALLEST, Run, plan_parts

MIB = 1 << 20


@st.composite
def files(draw: st.DrawFn) -> list[Run]:
    """Runs one after the other, some of which other files have."""
    sizes = st.one_of(st.integers(0, 3 * SMALLEST), st.integers(0, 2 * COPIED), st.integers(1, 4096))
    runs, at = [], 0
    for size in draw(st.lists(sizes, max_size=12)):
        source = draw(st.sampled_from([None, "one", "two"]))
        if source is None:
            runs.append(Run(at, at + size))
        elif runs and runs[-1].source == source and draw(st.booleans()):
            runs.append(Run(at, at + size, source, runs[-1].offset + runs[-1].size))
        else:
            runs.append(Run(at, at + size, source, draw(st.integers(0, 1 << 40))))
        at += size
    return runs


@given(files())
def test_parts_are_the_file_in_legal_sizes(runs: list[Run]) -> None:
    parts = plan_parts(runs)
    size = runs[-1].end if runs else 0
    assert [part.begin for part in parts] == [0, *(part.end for part in parts)][: len(parts)]
    assert sum(part.size for part in parts) == size
    assert all(part.size >= SMALLEST for part in parts[:-1])
    assert all(0 < part.size < 2 * (SENT if part.source is None else COPIED) for part in parts)


@given(files())
def test_copied_parts_hold_the_bytes_of_the_file(runs: list[Run]) -> None:
    for part in plan_parts(runs):
        if part.source is None:
            continue
        for run in runs:
            begin, end = max(run.begin, part.begin), min(run.end, part.end)
            if begin < end:
                assert run.source == part.source
                assert run.offset + begin - run.begin == part.offset + begin - part.begin


@given(files())
def test_no_more_is_sent_than_fills_a_part_for_each_change_of_source(runs: list[Run]) -> None:
    parts = plan_parts(runs)
    sent = sum(part.size for part in parts if part.source is None)
    sources = sum(run.size for run in runs if run.source is None)
    assert sent <= sources + 2 * SMALLEST * (len(runs) + 1)


def test_a_shard_of_whole_layers_is_sent_only_at_its_front() -> None:
    """A stack of layers copied twice: the header and what fills its part up are sent, the rest is copied."""
    header, layer = 40_000, 90 * MIB
    runs = [Run(0, header)]
    for number, source in enumerate([0, 1, 2, 1, 2, 3]):
        begin = header + number * layer
        runs.append(Run(begin, begin + layer, "base", 30_000 + source * layer))
    parts = plan_parts(runs)
    assert [part.size for part in parts if part.source is None] == [SMALLEST]
    assert [round(part.size / layer, 2) for part in parts[1:]] == [1.47, 1.47, 1.5, 1.5]


def test_a_file_that_is_all_new_is_sent_in_equal_parts() -> None:
    assert {part.size for part in plan_parts([Run(0, 100 * MIB)])} == {100 * MIB // 12, 100 * MIB // 12 + 1}


def test_a_short_file_is_one_part() -> None:
    assert plan_parts([Run(0, 10), Run(10, 300)]) == [Run(0, 300)]
    assert plan_parts([]) == []
