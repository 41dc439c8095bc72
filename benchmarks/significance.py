"""Whether verdicts on differences are right as often as they say, on the samples of this project's store.

    python -m benchmarks.significance [ONE OTHER] [--times 1000]

1. The leaderboard's differences, before and after: by one standard error of models taken as independent, and by their
   documents.
2. No difference: the answers of two models are swapped within each document at random, so that none is better. How many columns
   are called better or worse at the 5 % level, and how many pages have any, after Holm.
3. A difference: documents are drawn anew and answers swapped so that one model is better by the smallest difference that the
   suite is said to tell from none. How often it is told.

All is from fixed seeds. Scores come from the store that the settings name; ONE and OTHER are titles of models in it, by default
the first two base checkpoints.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merge_assets.api import Workspace
from merge_assets.api.rank import leaderboard_entries
from merge_assets.evaluation.leaderboard import Leaderboard
from merge_assets.evaluation.pairs import Sheet, measure_of, sheet_of
from merge_assets.evaluation.samples import SuiteSamples
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.statistics import (
    LEVEL,
    FloatArray,
    Measure,
    Ratio,
    compare,
    holm,
    p_value,
    resampled,
)
from merge_assets.workspace.results import KnownScores
from merge_assets.workspace.samples import StoredSamples

SEED = 7


@dataclass(frozen=True, eq=False)
class Column:
    """Two models' documents of one column.

    Attributes:
        name: for people.
        measure: of the two.
        rows: digests of the results whose documents the parts hold, one after the other, with their numbers of documents.
        unpaired: standard error of the difference, the models taken as independent; None where one is unknown.
    """

    name: str
    measure: Measure
    rows: Sequence[tuple[str, int]]
    unpaired: float | None


def columns_of(one: Scores, other: Scores, samples: Mapping[int, SuiteSamples]) -> list[Column]:
    """The headline and each task of two models.

    Args:
        one: scores of the first.
        other: of the second, on the same suite.
        samples: of both, by the id of the scores.
    """

    def sheets(task: str | None, metric: str | None) -> list[Sheet]:
        return [sheet_of(scores, task, metric, samples[id(scores)]) for scores in (one, other)]

    def documents(sheet: Sheet) -> int:
        return sum(len(sums) for sums, *_ in sheet.parts)

    theirs = {(row.task, row.metric): row for row in other.tasks}
    columns = []
    for row in one.tasks:
        found = sheets(row.task, row.metric)
        errors = (row.stderr, theirs[row.task, row.metric].stderr)
        columns.append(
            Column(f"{row.task} {row.metric}", measure_of(found), [(row.task, documents(found[0]))], _unpaired(*errors))
        )
    sizes = {column.name: column.rows[0] for column in columns}
    headline = [sizes[f"{row.task} {row.metric}"] for row in one.tasks if row.headline]
    if headline:
        error = _unpaired(one.headline_stderr, other.headline_stderr)
        columns.insert(0, Column("headline", measure_of(sheets(None, None)), headline, error))
    return columns


def nothing(columns: Sequence[Column], times: int) -> tuple[FloatArray, FloatArray]:
    """Two models of which none is better: p-values and differences, each float64[times, columns].

    The answers of both are swapped within each document with a chance of one half; a document that is in several columns is
    swapped in all of them or in none.
    """
    draws = np.random.default_rng(SEED)
    ps, gaps = np.empty((times, len(columns))), np.empty((times, len(columns)))
    for time in range(times):
        masks: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for number, column in enumerate(columns):
            for row in column.rows:
                masks.setdefault(row, draws.random(row[1]) < 0.5)
            mask = np.concatenate([masks[row] for row in column.rows])
            swapped = _swapped(column.measure, mask)
            ps[time, number] = p_value(swapped)
            ours, theirs = swapped.values
            gaps[time, number] = ours - theirs
    return ps, gaps


def something(column: Column, shift: float, times: int) -> FloatArray:
    """p-values, float64[times], of two models of which the first is better by ``shift``, on documents that are drawn anew.

    Of zeros and ones, documents on which the two differ are swapped less often the one way than the other; where these are too
    few, the first model gains more. Of other values, what the first is better by is taken away, and the shift put in its
    place, in proportion to the document's length.
    """
    draws = np.random.default_rng(SEED)
    level = float(column.measure.values.mean()) if _is_perplexity(column.measure) else 1.0
    found = np.empty(times)
    for time in range(times):
        parts = []
        for part in column.measure.parts:
            chosen = draws.integers(0, part.sums.shape[1], part.sums.shape[1])
            if np.isin(part.sums[..., 0], (0.0, 1.0)).all():
                sums = _gained(draws, part.sums[:, chosen], shift)
            else:
                totals = part.sums.sum(axis=1)
                ahead = float((totals[0, 0] - totals[1, 0]) / totals[0, 1])
                sums = part.sums[:, chosen]
                sums[0, :, 0] += sums[0, :, 1] * (shift / level - ahead)
            parts.append(Ratio(sums, part.strata, part.source))
        found[time] = p_value(Measure(parts, column.measure.value))
    return found


def _is_perplexity(measure: Measure) -> bool:
    """Whether the value of a single part is the exponential of minus its ratio."""
    return len(measure.parts) == 1 and math.isclose(float(measure.value(np.array([[-1.0]]))[0]), math.e)


def _gained(draws: np.random.Generator, sums: FloatArray, shift: float) -> FloatArray:
    """Zeros and ones of two models of which the first is right more often by ``shift``, with as many differing documents."""
    differing = sums[0, :, 0] != sums[1, :, 0]
    share = differing.mean()
    made = sums.copy()
    ahead = draws.random(len(differing)) < (1 + min(1.0, shift / share if share else 1.0)) / 2
    made[0, differing, 0], made[1, differing, 0] = ahead[differing], ~ahead[differing]
    more = ~differing & (draws.random(len(differing)) < max(0.0, shift - share) / max(1 - share, 1e-9))
    made[0, more, 0], made[1, more, 0] = 1, 0
    return made


def _swapped(measure: Measure, mask: NDArray[np.bool_]) -> Measure:
    """The two models' answers, swapped in some documents: those of all parts, one after the other."""
    ends = np.cumsum([part.sums.shape[1] for part in measure.parts])[:-1]
    return Measure(
        [
            Ratio(np.where(own[None, :, None], part.sums[::-1], part.sums), part.strata, part.source)
            for part, own in zip(measure.parts, np.split(mask, ends), strict=True)
        ],
        measure.value,
    )


def _unpaired(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else math.hypot(one, other)


def show_deltas(board: Leaderboard) -> None:
    """The differences of a leaderboard: what was said of them by unpaired errors, and what is said now."""
    print("| model | parent | column | Δ | unpaired ± | before | paired ± | p | p, Holm | after |")
    print("| --- | --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- |")
    clear = unfounded = shown = 0
    for row in board.rows:
        for column, cell in row.cells.items():
            for delta in cell.deltas:
                theirs = next(
                    (r.cells[column].stderr for r in board.rows if r.entry.model == delta.parent and column in r.cells),
                    None,
                )
                error, found = _unpaired(cell.stderr, theirs), delta.verdict.found
                before = delta.difference != 0 and (error is None or abs(delta.difference) > error)
                shown, clear = shown + 1, clear + before
                unfounded += before and found is not None and found.p > LEVEL
                told = (
                    f"{found.stderr:.4f} | {found.p:.2g} | {delta.verdict.adjusted:.2g}"
                    if found
                    else f"{delta.verdict.why} | |"
                )
                unpaired = "" if error is None else f"{error:.4f}"
                print(
                    f"| {row.entry.model} | {delta.parent} | {column.name} | {delta.difference:+.4f} | {unpaired} | "
                    f"{'clear' if before else 'faint'} | {told} | {delta.verdict.word} |"
                )
    print(
        f"\n{shown} differences; {clear} were clear before, of which {unfounded} have p > 0.05 for themselves alone.\n"
    )


def show_trust(columns: Sequence[Column], times: int) -> None:
    """How often verdicts are wrong where there is no difference, and right where there is one."""
    ps, gaps = nothing(columns, times)
    print("| column | documents | unpaired ± | paired ± | wrong by unpaired ± | wrong at 5 % | told apart | told |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for number, column in enumerate(columns):
        found = compare(column.measure, resampled(column.measure))
        wrong = (ps[:, number] <= LEVEL).mean()
        limit = column.unpaired
        before = (gaps[:, number] != 0) if limit is None else (np.abs(gaps[:, number]) > limit)
        told, shift = "", "none"
        if found.detectable is not None:
            shift = f"{found.detectable:.4f}"
            told = f"{(something(column, found.detectable, times) <= LEVEL).mean():.1%}"
        documents = sum(count for _, count in column.rows)
        print(
            f"| {column.name} | {documents} | {'' if limit is None else f'{limit:.4f}'} | {found.stderr:.4f} | "
            f"{before.mean():.1%} | {wrong:.1%} | {shift} | {told} |"
        )
    pages = np.array([min(holm(list(page))) <= LEVEL for page in ps]).mean()
    print(f"\n{times} pages without a difference: {pages:.1%} have any column better or worse after Holm.")


def main() -> None:
    """Print all three."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.significance")
    parser.add_argument("models", nargs="*", help="titles of two models")
    parser.add_argument("--times", type=int, default=1000)
    options = parser.parse_args()
    workspace = Workspace.open()
    known = KnownScores(workspace)
    entries = leaderboard_entries(workspace, known=known)
    samples = StoredSamples(known, workspace.cache)
    board = Leaderboard(entries, samples=samples)
    show_deltas(board)
    names = options.models or [entry.model for entry in entries if entry.kind == "base"][:2]
    one, other = (next(e for e in entries if e.model == name).scores[0] for name in names)
    print(f"{names[0]} and {names[1]}, {one.suite}, {options.times} times:\n")
    show_trust(columns_of(one, other, {id(scores): samples(scores) for scores in (one, other)}), options.times)


if __name__ == "__main__":
    main()
