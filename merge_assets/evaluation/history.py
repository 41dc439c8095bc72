"""How the versions of one model scored, one after the other, each with a verdict on its difference to the one before."""

from __future__ import annotations

from dataclasses import dataclass

from merge_assets.evaluation.judge import SamplesOf
from merge_assets.evaluation.leaderboard import Cell, Column, Leaderboard, LeaderboardEntry, Parent, Past


@dataclass(frozen=True)
class Version:
    """One version of a model in one suite.

    Attributes:
        fingerprint: of its bytes.
        when: it was scored last; UTC, ISO 8601.
        cell: its score, with the difference to the version before.
    """

    fingerprint: str
    when: str
    column: Column
    cell: Cell


def versions_of(entry: LeaderboardEntry, samples: SamplesOf) -> list[Version]:
    """The versions of a model by suite, the oldest first; empty for suites of one version.

    The score is the suite's headline, or its first task where it has none. Verdicts are adjusted for the others of this model.
    """
    found = []
    for suite in dict.fromkeys(past.scores.suite for past in entry.history):
        own = [past for past in entry.history if past.scores.suite == suite]
        if len(own) > 1:
            found += _of_suite(own, samples)
    return found


def _of_suite(own: list[Past], samples: SamplesOf) -> list[Version]:
    before = [None, *own[:-1]]
    entries = [
        LeaderboardEntry(
            model=past.scores.fingerprint,
            kind="variant",
            parents=[Parent("the version before", last.scores.fingerprint, [last.scores])] if last else [],
            scores=[past.scores],
        )
        for past, last in zip(own, before, strict=True)
    ]
    board = Leaderboard(entries, samples=samples)
    rows = {row.entry.model: row for row in board.rows}
    column = board.columns[0]
    return [
        Version(past.scores.fingerprint, past.when, column, rows[past.scores.fingerprint].cells[column])
        for past in own
        if column in rows[past.scores.fingerprint].cells
    ]
