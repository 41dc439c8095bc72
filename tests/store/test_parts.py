"""Contract of cutting a file into parts of an S3 upload: legal sizes, nothing lost, and as little sent as can be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.store.cutting import Stretch, plan_parts

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SMALLEST, LARGEST = 5 * MIB, 5 * GIB
"""Bytes of a part on S3; the last of a file may be smaller."""

SENT, COPIED = 8 * MIB, 128 * MIB
"""Bytes of a part at least, where there are as many, if it is sent or copied."""


@st.composite
def files(draw: st.DrawFn) -> list[Stretch]:
    """Runs one after the other, some of which other files have."""
    sizes = st.one_of(st.integers(0, 3 * SMALLEST), st.integers(0, 2 * COPIED), st.integers(1, 4096))
    runs, at = [], 0
    for size in draw(st.lists(sizes, max_size=12)):
        source = draw(st.sampled_from([None, "one", "two"]))
        if source is None:
            runs.append(Stretch(at, at + size))
        elif runs and runs[-1].source == source and draw(st.booleans()):
            runs.append(Stretch(at, at + size, source, runs[-1].offset + runs[-1].size))
        else:
            runs.append(Stretch(at, at + size, source, draw(st.integers(0, 1 << 40))))
        at += size
    return runs


def test_a_short_file_is_one_part() -> None:
    assert plan_parts([Stretch(0, 10), Stretch(10, 300)]) == [Stretch(0, 300)]
    assert plan_parts([]) == []


def test_a_file_that_is_all_new_is_sent_in_equal_parts() -> None:
    assert {part.size for part in plan_parts([Stretch(0, 100 * MIB)])} == {100 * MIB // 12, 100 * MIB // 12 + 1}


@pytest.mark.parametrize(("source", "size"), [(None, 8 * MIB), ("one", 128 * MIB)], ids=["sent", "copied"])
@pytest.mark.parametrize(("times", "more", "count"), [(1, 0, 1), (2, -1, 1), (2, 0, 2), (3, -1, 2), (3, 0, 3)])
def test_a_file_has_as_many_parts_as_are_of_the_size_at_least(
    source: str | None, size: int, times: int, more: int, count: int
) -> None:
    whole = times * size + more
    parts = plan_parts([Stretch(0, whole, source, 7 if source else 0)])
    assert len(parts) == count
    assert {part.size for part in parts} <= {whole // count, whole // count + 1}
    assert [part.offset - part.begin for part in parts if part.source] == ([7] * count if source else [])


def test_the_largest_file_is_sent_in_five_thousand_parts() -> None:
    """Half of those that S3 takes, since each is held in memory while it is sent."""
    assert 4_990 <= len(plan_parts([Stretch(0, 5 * TIB)])) <= 5_000


@given(files())
def test_parts_are_the_file_in_legal_sizes(runs: list[Stretch]) -> None:
    parts = plan_parts(runs)
    size = runs[-1].end if runs else 0
    assert [part.begin for part in parts] == [0, *(part.end for part in parts)][: len(parts)]
    assert sum(part.size for part in parts) == size
    assert all(part.size >= SMALLEST for part in parts[:-1])
    assert all(0 < part.size < 2 * (SENT if part.source is None else COPIED) for part in parts)


@given(files())
def test_copied_parts_hold_the_bytes_of_the_file(runs: list[Stretch]) -> None:
    for part in plan_parts(runs):
        if part.source is None:
            continue
        for run in runs:
            begin, end = max(run.begin, part.begin), min(run.end, part.end)
            if begin < end:
                assert run.source == part.source
                assert run.offset + begin - run.begin == part.offset + begin - part.begin


@given(files())
def test_no_more_is_sent_than_fills_a_part_for_each_change_of_source(runs: list[Stretch]) -> None:
    parts = plan_parts(runs)
    sent = sum(part.size for part in parts if part.source is None)
    sources = sum(run.size for run in runs if run.source is None)
    assert sent <= sources + 2 * SMALLEST * (len(runs) + 1)


def test_a_shard_of_whole_layers_is_sent_only_at_its_front() -> None:
    """A stack of layers copied twice: the header and what fills its part up are sent, the rest is copied."""
    header, layer = 40_000, 90 * MIB
    runs = [Stretch(0, header)]
    for number, source in enumerate([0, 1, 2, 1, 2, 3]):
        begin = header + number * layer
        runs.append(Stretch(begin, begin + layer, "base", 30_000 + source * layer))
    parts = plan_parts(runs)
    assert [part.size for part in parts if part.source is None] == [SMALLEST]
    assert [round(part.size / layer, 2) for part in parts[1:]] == [1.47, 1.47, 1.5, 1.5]


SIZES = (48 * GIB, 10_000 * SMALLEST - 1, 10_000 * SMALLEST, 10_000 * SMALLEST + 1, 79 * GIB, 400 * GIB, 5 * TIB)
"""Files around which 10,000 parts of 5 MiB are no longer enough, up to the largest that S3 has."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("source", [None, "one"])
@pytest.mark.parametrize("step", [SMALLEST - 1, SMALLEST, SMALLEST + 1, 3 * SMALLEST, 129 * MIB, 6 * TIB])
def test_a_file_of_any_size_has_at_most_ten_thousand_parts_of_sizes_that_s3_takes(
    size: int, source: str | None, step: int
) -> None:
    """The whole of it new or of one origin; and in stretches that come from here and from there by turns."""
    step = max(step, size // 12_500)
    edges = [*range(0, size, step), size]
    for others in (("one", "two"), ("one", None)) if source else ((None, None),):
        runs = [Stretch(begin, end, others[n % 2], begin) for n, (begin, end) in enumerate(itertools.pairwise(edges))]
        parts = plan_parts(runs)
        assert 0 < len(parts) <= 10_000
        assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])]
        assert parts[-1].end == size
        assert all(SMALLEST <= part.size <= LARGEST for part in parts[:-1])
        assert 0 < parts[-1].size <= LARGEST


@pytest.mark.parametrize(("count", "copied"), [(10_000, 10_000), (10_001, 1)])
def test_ten_thousand_parts_are_all_that_a_file_has(count: int, copied: int) -> None:
    """Runs of a byte more than S3 needs, from here and there by turns: each is a part, or too short but for the last."""
    size = 5 * MIB + 1
    parts = plan_parts([Stretch(n * size, (n + 1) * size, f"origin{n % 2}", n * size) for n in range(count)])
    assert len(parts) <= 10_000
    assert sum(part.source is not None for part in parts) == copied


def shortest(sizes: tuple[int, ...], copied: tuple[bool, ...]) -> int:
    """The fewest bytes that have to be sent, found by trying every way to cut at the edges of runs and 5 MiB after them."""
    ends = list(itertools.accumulate(sizes))
    size, kind = ends[-1], list(copied)

    def have(at: int) -> int:
        return next(n for n, end in enumerate(ends) if at < end)

    best = {size: 0}
    places = sorted({0, *ends} | {e + k for e in (0, *ends) for k in (SMALLEST,) if e + k < size}, reverse=True)
    for begin in places[1:]:
        options = []
        for end in places:
            if end <= begin or end not in best or (end - begin < SMALLEST and end != size):
                continue
            one = have(begin) == have(end - 1) and kind[have(begin)]
            options.append(best[end] + (0 if one else end - begin))
        if options:
            best[begin] = min(options)
    return best[0]


AROUND = (1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 2 * SMALLEST - 1, 2 * SMALLEST, 2 * SMALLEST + 1)


@pytest.mark.parametrize("copied", itertools.product((False, True), repeat=3))
def test_a_run_is_copied_from_five_mebibytes_on_and_no_byte_more_is_sent_than_that_takes(
    copied: tuple[bool, ...],
) -> None:
    """All runs around the boundary, each beside every other, the last of a file too."""
    for sizes in itertools.product(AROUND, repeat=3):
        edges = [0, *itertools.accumulate(sizes)]
        runs = [
            Stretch(begin, end, f"origin{n}" if here else None, 7 if here else 0)
            for n, (begin, end, here) in enumerate(zip(edges, edges[1:], copied, strict=False))
        ]
        parts = plan_parts(runs)
        assert all(part.size >= SMALLEST for part in parts[:-1]), sizes
        for part in parts:
            if part.source is not None:
                run = runs[int(part.source[-1])]
                assert run.begin <= part.begin < part.end <= run.end, sizes
                assert part.offset - part.begin == run.offset - run.begin, sizes
        sent = sum(part.size for part in parts if part.source is None)
        assert sent == shortest(sizes, copied), (sizes, parts)
