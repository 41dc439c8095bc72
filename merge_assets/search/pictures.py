"""All pictures of a search, and what is not drawn, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from merge_assets.search.figure import LeftOut, Picture
from merge_assets.search.fronts import pareto_front
from merge_assets.search.heat import heat_map
from merge_assets.search.importance import importance, importances
from merge_assets.search.layers import layer_profile
from merge_assets.search.over_trials import over_trials
from merge_assets.search.parallel import parallel_coordinates
from merge_assets.search.slices import slice_of
from merge_assets.search.standing import Standing

MOST_SLICES = 12


@dataclass(frozen=True)
class Gallery:
    """The pictures of a search.

    Attributes:
        pictures: that say something, in the order in which they are shown.
        left_out: the others.
    """

    pictures: tuple[Picture, ...]
    left_out: tuple[LeftOut, ...]


def pictures_of(standing: Standing) -> Gallery:
    """Draw a search.

    Their number is bounded by the numbers of places and objectives, and what is in each does not grow with the trials beyond
    :data:`~merge_assets.search.over_trials.MOST_POINTS`.

    Args:
        standing: its trials; those that failed or came to no finite number are not compared.
    """
    goals = range(len(standing.goals))
    made: list[Picture | LeftOut] = [over_trials(standing, goal) for goal in goals]
    made += [pareto_front(standing, across, 0) for across in goals[1:]]
    if len(standing.done) > 1 and not standing.telling:
        made.append(LeftOut("What the scores depend on", "all finished trials came to the same"))
    else:
        made += _of_places(standing)
    return Gallery(
        tuple(one for one in made if isinstance(one, Picture)),
        tuple(one for one in made if isinstance(one, LeftOut)),
    )


def _of_places(standing: Standing) -> list[Picture | LeftOut]:
    """What scores have to do with the values of places, by the goals by which trials differ."""
    goals = standing.telling or [0]
    matters = [importances(standing, goal) for goal in goals]
    made = [importance(standing, goal, found) for goal, found in zip(goals, matters, strict=True)]
    order = sorted(standing.space, key=lambda path: -sum(of.get(path, 0.0) for of in matters))
    made.append(parallel_coordinates(standing, goals[0], order))
    varied = [path for path in order if path in standing.varied]
    if len(varied) < 2:
        made.append(LeftOut("Heat map", "fewer than two places vary"))
    else:
        made += [heat_map(standing, goal, *varied[:2]) for goal in goals]
    made += [slice_of(standing, goal, path) for goal in goals for path in order[:MOST_SLICES]]
    made += [
        LeftOut(f"Slices by {path}", f"the {MOST_SLICES} places that matter most are drawn")
        for path in order[MOST_SLICES:]
    ]
    made += [layer_profile(standing, gradient) for gradient in standing.gradients]
    if not standing.gradients:
        made.append(LeftOut("Values over the layers", "no place of the space is a list of values over the layers"))
    return made
