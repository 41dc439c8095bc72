"""A search as one self-contained HTML page, which reloads itself while the search goes on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from merge_assets.markup import beside, render
from merge_assets.recipe.schema_search import Choices, Dimension
from merge_assets.search.figure import LeftOut, Picture
from merge_assets.search.pictures import pictures_of
from merge_assets.search.standing import Standing, number, text_of
from merge_assets.shown import without_credentials

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

_PACKAGE = "merge_assets.search"
RELOAD = 5
"""Seconds from one reload of the page of a search that goes on to the next."""

OPEN_ROWS = 100
"""Trials of the table that are shown at once."""

MOST_ROWS = 1000
"""Trials of the table; all are in what is exported."""

MOST_BEST = 10
MOST_FAILURES = 50
_LONGEST_REASON = 2000


@dataclass(frozen=True)
class Head:
    """What is searched.

    Attributes:
        name: of the search.
        study: what the storage calls its trials.
        description: the recipe's.
        method: the merge method.
        models: that are merged.
        sampler: which one proposes.
        trials: the budget.
        hours: likewise, if there is such a one.
        written: when the page was, and by which clock.
        is_running: whether it will be written again.
    """

    name: str
    study: str
    description: str
    method: str
    models: Sequence[str]
    sampler: str
    trials: int
    hours: float | None
    written: datetime
    is_running: bool


@dataclass(frozen=True)
class _Row:
    """A trial in a table.

    Attributes:
        number: of it.
        state: in a word.
        is_best: whether no other beats it.
        values: by place, as text and for sorting.
        came: by goal, likewise.
        seconds: of merging and of evaluating.
        reason: why it failed or was given up.
    """

    number: int
    state: str
    is_best: bool
    values: list[tuple[str, str]]
    came: list[tuple[str, str]]
    seconds: list[tuple[str, str]]
    reason: str


def search_page(standing: Standing, head: Head) -> str:
    """The whole page, without credentials of addresses; nothing is loaded from elsewhere.

    What is in it does not grow beyond :data:`MOST_ROWS` trials.

    Args:
        standing: the trials.
        head: what is searched.
    """
    drawn = pictures_of(standing)
    others = [one for one in standing.trials if one.state != "done"]
    order = {"running": 0, "given up": 1, "failed": 2, "waiting": 3}
    comparable = {one.number for one in standing.done}
    incomparable = [one for one in standing.trials if one.state == "done" and one.number not in comparable]
    listed = [*standing.ranked, *incomparable, *sorted(others, key=lambda one: (order[one.state], one.number))]
    labels = _objective_labels(standing)
    rows = [_row(standing, one, labels) for one in listed[:MOST_ROWS]]
    best = [_row(standing, one, labels) for one in standing.ranked[:MOST_BEST]]
    text = render(
        _PACKAGE,
        "page.html.j2",
        style=beside("merge_assets", "look.css") + beside(_PACKAGE, "page.css"),
        script=beside(_PACKAGE, "page.js"),
        head=head,
        reload=RELOAD,
        counts=_counts(standing, head),
        cards=_cards(standing),
        paths=list(standing.space),
        labels=labels,
        goals=standing.goals,
        space=[(path, *_dimension(dimension)) for path, dimension in standing.space.items()],
        best=best,
        rows=rows[:OPEN_ROWS],
        rest=rows[OPEN_ROWS:],
        missing=len(listed) - len(rows),
        sections=_sections(drawn.pictures),
        left_out=_gathered(drawn.left_out),
        failures=standing.failures[:MOST_FAILURES],
        more_failures=len(standing.failures) - MOST_FAILURES,
        longest=_LONGEST_REASON,
    )
    return without_credentials(text)


def _objective_labels(standing: Standing) -> list[str]:
    """Heads of the columns of what trials came to: the goals; of a weighted sum also its parts."""
    told: Mapping[str, float] = next((one.told.get("objectives", {}) for one in standing.done), {})
    goals = [goal.label for goal in standing.goals]
    return [*goals, *(label for label in told if label not in goals)]


def _row(standing: Standing, trial: Trial, labels: Sequence[str]) -> _Row:
    came = dict(trial.told.get("objectives", {}))
    came |= {goal.label: value for goal, value in zip(standing.goals, trial.objectives, strict=False)}
    seconds = [trial.told.get(key) for key in ("merge_seconds", "evaluation_seconds")]
    is_best = trial.number in standing.front
    return _Row(
        number=trial.number,
        state="best" if is_best else trial.state,
        is_best=is_best,
        values=[_cell(trial.values[path]) if path in trial.values else ("", "") for path in standing.space],
        came=[(number(came[label]), repr(came[label])) if label in came else ("", "") for label in labels],
        seconds=[("", "") if one is None else (f"{one:.3g}", repr(one)) for one in seconds],
        reason=_short(trial.reason),
    )


def _cell(value: object) -> tuple[str, str]:
    """A value as it is shown, and for sorting."""
    text = text_of(value)
    return text, repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else text


def _short(reason: str, longest: int = 140) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _dimension(dimension: Dimension) -> tuple[str, str]:
    """What is tried in a place, and when."""
    if isinstance(dimension, Choices):
        tried = ", ".join(text_of(value, 60) for value in dimension.choices)
    else:
        kinds = [word for word, said in (("whole numbers", dimension.whole), ("logarithmic", dimension.log)) if said]
        tried = f"{number(dimension.low)} to {number(dimension.high)}" + (f", {', '.join(kinds)}" if kinds else "")
    when = "; ".join(f"{path}: {', '.join(map(text_of, values))}" for path, values in dimension.when.items())
    return tried, when


def _counts(standing: Standing, head: Head) -> dict[str, int]:
    states = [one.state for one in standing.trials]
    finished = sum(one.is_finished for one in standing.trials)
    budget = max(head.trials, finished + states.count("running"))  # which another run may have been given
    return {
        "finished": finished,
        "budget": budget,
        "done": states.count("done"),
        "given_up": states.count("given up"),
        "failed": states.count("failed"),
        "running": states.count("running"),
        "done_share": round(100 * states.count("done") / budget),
        "given_up_share": round(100 * states.count("given up") / budget),
        "failed_share": round(100 * states.count("failed") / budget),
    }


_Card = tuple[str, str, str, str]
"""Its head, what it is of, the value, a note."""


def _cards(standing: Standing) -> list[_Card]:
    if not standing.done:
        return []
    first = standing.ranked[0]
    cards: list[_Card] = []
    if len(standing.goals) == 1:
        goal = standing.goals[0]
        better = "higher is better" if goal.higher else "lower is better"
        cards.append(("Best", f"trial {first.number}", number(first.objectives[0]), f"{goal.label}, {better}"))
        middle = statistics.median(one.objectives[0] for one in standing.done)
        cards.append(
            ("Middle of all", f"{len(standing.done)} trials", number(middle), "half came to more, half to less")
        )
    else:
        for index, goal in enumerate(standing.goals):
            top = standing.first(standing.done, index)
            better = "highest" if goal.higher else "lowest"
            cards.append((f"Best {goal.label}", f"trial {top.number}", number(top.objectives[index]), f"the {better}"))
        note = "no other trial beats them in all objectives"
        cards.append(("Unbeaten", "trials", str(len(standing.front)), note))
    spent = [
        [float(value) for one in standing.done if (value := one.told.get(key)) is not None]
        for key in ("merge_seconds", "evaluation_seconds")
    ]
    if all(spent):
        merge, evaluation = (statistics.median(of) for of in spent)
        note = f"merging {merge:.3g} s, evaluating {evaluation:.3g} s, in the middle"
        cards.append(("A trial takes", "", f"{merge + evaluation:.3g} s", note))
    return cards


_SECTIONS = (
    ("Scores, and what matters for them", ("trials", "front", "importance", "heat"), False),
    ("All places", ("parallel",), True),
    ("Place by place", ("slice",), False),
    ("Over the layers", ("layers",), False),
)
"""Titles, the kinds of pictures, and whether each takes the whole width."""


def _sections(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture], bool]]:
    found = [(title, [p for p in pictures if p.name.partition("-")[0] in of], wide) for title, of, wide in _SECTIONS]
    return [one for one in found if one[1]]


def _gathered(left_out: Sequence[LeftOut]) -> list[tuple[str, list[str]]]:
    """Reasons, with what is not drawn for each."""
    found: dict[str, list[str]] = {}
    for one in left_out:
        found.setdefault(one.why, []).append(one.title)
    return list(found.items())
