"""Contract of a search's pictures: what they show is what the trials came to, and what would say nothing is not drawn."""

from __future__ import annotations

import base64
import math
import re
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import optuna
import pytest

from merge_assets.recipe import Search
from merge_assets.recipe.schema_search import Choices, Dimension, Span
from merge_assets.search.figure import LeftOut, Picture
from merge_assets.search.fronts import pareto_front
from merge_assets.search.gradients import gradients_of
from merge_assets.search.heat import heat_map
from merge_assets.search.importance import FEWEST, importance, importances
from merge_assets.search.layers import layer_profile
from merge_assets.search.over_trials import MOST_POINTS, over_trials
from merge_assets.search.parallel import MOST_LINES, parallel_coordinates
from merge_assets.search.pictures import pictures_of
from merge_assets.search.slices import local_means, means_of_values, slice_of
from merge_assets.search.standing import Goal, Standing, goals_of, number, text_of
from merge_assets.search.trials import Trials
from tests.search_support import (
    HIGHER,
    LOWER,
    METHOD,
    SPACE,
    SVG,
    Axes,
    X,
    Y,
    drawn_at_random,
    gradient,
    of_kind,
    points_of,
    scored,
    shown,
    title_of,
    trial,
)


def near(*values: float) -> Any:
    """As exactly as a picture shows it."""
    return pytest.approx(list(values), abs=4e-3)


# -- how a search stands -----------------------------------------------------------------------------------------------


def test_trials_are_ranked_by_what_is_better_and_those_without_a_number_are_not() -> None:
    assert [one.number for one in scored(0.2, math.inf, 0.9, 0.9, 0.5).ranked] == [2, 3, 4, 0]
    assert [one.number for one in scored(3.0, 1.0, 2.0, goal=LOWER).ranked] == [1, 2, 0]


def test_the_front_of_two_goals_is_what_no_other_beats() -> None:
    standing = drawn_at_random(60, (HIGHER, LOWER))
    came = {one.number: one.objectives for one in standing.done}

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    assert standing.front == {n for n, own in came.items() if not any(beats(one, own) for one in came.values())}
    assert {one.number for one in standing.ranked[: len(standing.front)]} == standing.front


def test_failures_of_one_reason_stand_together() -> None:
    reasons = ["best-trial-0: no room", "nan", "best-trial-2: no room"]
    trials = [trial(n, {X: 0.1}, state="failed", reason=reason) for n, reason in enumerate(reasons)]
    found = Standing(trials, SPACE, [HIGHER]).failures
    assert [(one.reason, one.numbers) for one in found] == [("best-trial-0: no room", (0, 2)), ("nan", (1,))]


def test_a_weighted_sum_is_one_goal_that_says_of_what() -> None:
    space = {X: {"low": 0, "high": 1}}
    parts = [{"suite": "demo", "weight": 1}, {"size": "parameters", "weight": 0.5}]
    search = Search.model_validate({"space": space, "objective": parts})
    assert goals_of(search, ("demo", "parameters"), (True, False)) == (Goal("1 · demo − 0.5 · parameters", True),)
    search = Search.model_validate({"space": space, "objective": [{"suite": "demo"}, {"size": "parameters"}]})
    assert goals_of(search, ("demo", "parameters"), (True, False)) == (Goal("demo", True), Goal("parameters", False))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (4_690_000, "4.69M"), (12_345, "12.35k"), (9999, "9999"), (True, "true"), (0, "0"),
     (None, "null"), ([0, 0.51239], "[0, 0.5124]"), ("a" * 30, "…" + "a" * 23)],
)  # fmt: skip
def test_values_are_short(value: Any, text: str) -> None:
    assert text_of(value) == text


# -- score over trials -------------------------------------------------------------------------------------------------


def test_the_line_is_the_best_so_far_and_the_points_are_the_others() -> None:
    svg = shown(over_trials(scored(0.1, 0.5, 0.3, 0.7, 0.6), 0))
    axes = Axes(svg)
    (steps,) = of_kind(svg, "steps")
    corners = points_of(steps.attrib["d"])
    assert [axes.x(x) for x, _ in corners] == near(0, 1, 1, 3, 3, 4)
    assert [axes.y(y) for _, y in corners] == near(0.1, 0.1, 0.5, 0.5, 0.7, 0.7)
    (others,) = of_kind(svg, "points")
    assert [(axes.x(x), axes.y(y)) for x, y in points_of(others.attrib["d"])] == [near(2, 0.3), near(4, 0.6)]
    assert [title_of(one).splitlines()[0] for one in of_kind(svg, "best")] == [
        *("trial 0: demo 0.1", "trial 1: demo 0.5", "trial 3: demo 0.7")
    ]


def test_where_less_is_better_the_line_goes_down() -> None:
    svg = shown(over_trials(scored(30.0, 40.0, 20.0, goal=LOWER), 0))
    (steps,) = of_kind(svg, "steps")
    assert [Axes(svg).y(y) for _, y in points_of(steps.attrib["d"])] == pytest.approx([30, 30, 20, 20], abs=0.2)


def test_a_few_scores_that_are_far_worse_do_not_squeeze_the_others() -> None:
    usual = [0.5 + 0.001 * n for n in range(40)]
    made = over_trials(scored(*usual, -500.0), 0)
    svg = shown(made)
    assert (
        isinstance(made, Picture)
        and "1 that are far worse are at the edge, and count as if they were there." in made.text
    )
    heights = [float(one.attrib["y"]) for one in of_kind(svg, "tick") if one.attrib["text-anchor"] == "end"]
    assert max(heights) - min(heights) > 150  # marks between 0.4 and 0.55 fill the picture
    (edge,) = of_kind(svg, "edge")
    assert len(points_of(edge.attrib["d"])) == 1


def test_failed_trials_are_crosses() -> None:
    standing = drawn_at_random(60)
    svg = shown(over_trials(standing, 0))
    (crosses,) = of_kind(svg, "crosses")
    assert crosses.attrib["d"].count("M") == 3 == sum(one.state == "failed" for one in standing.trials)


# -- importance --------------------------------------------------------------------------------------------------------


def test_importance_is_that_which_optuna_computes_on_the_storage(tmp_path: Path) -> None:
    search = Search.model_validate(
        {
            "space": {path: one.model_dump(exclude_defaults=True) for path, one in SPACE.items()},
            "objective": {"suite": "demo"},
            "sampler": "random",
        }
    )
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    trials = Trials(url, "study", search, (True,))
    for _ in range(60):
        asked = trials.ask()
        trials.tell(asked.number, [1 - (asked.values[X] - 0.3) ** 2 - (asked.values[METHOD] == "ties") * 0.1], {})
    found = importances(Standing(trials.all(), search.space, [HIGHER]))

    study = optuna.load_study(study_name="study", storage=url)
    assert found == pytest.approx(optuna.importance.get_param_importances(study))
    assert sum(found.values()) == pytest.approx(1) and list(found)[-1] == Y


def test_what_the_score_does_not_depend_on_matters_least_and_the_bars_are_as_long() -> None:
    standing = drawn_at_random(400)
    found = importances(standing)
    svg = shown(importance(standing, 0, found))
    bars = {title_of(one).partition(":")[0]: float(one.attrib["width"]) for one in of_kind(svg, "bar")}
    assert list(bars) == list(found) and list(found)[-1] == Y
    most = max(found.values())
    assert all(bars[path] / max(bars.values()) == pytest.approx(found[path] / most, abs=0.01) for path in found)


def test_few_trials_and_a_single_place_tell_nothing_of_importance() -> None:
    few = drawn_at_random(FEWEST - 2)
    made = importance(few, 0, importances(few))
    assert isinstance(made, LeftOut) and made.why == f"{FEWEST} finished trials are needed, {len(few.done)} are there"
    single = Standing(drawn_at_random(60).trials, {X: SPACE[X]}, [HIGHER])
    assert importance(single, 0, importances(single)) == LeftOut("What matters for demo", "fewer than two places vary")


# -- place by place ----------------------------------------------------------------------------------------------------


def test_the_local_mean_is_that_of_the_nearest_trials() -> None:
    at = [((7 * n) % 31) / 31 for n in range(31)]
    scores = [math.sin(5 * one) for one in at]
    for found in local_means(at, scores, 6):
        nearest = sorted(range(31), key=lambda n: (abs(at[n] - found.at), n))[:6]
        values = [scores[n] for n in nearest]
        assert found.mean == pytest.approx(statistics.fmean(values))
        assert found.error == pytest.approx(statistics.stdev(values) / math.sqrt(6))


def test_the_mean_of_a_value_is_of_its_trials_and_needs_two() -> None:
    found = means_of_values([0.25, 0.75, 0.25, 0.9], [1.0, 5.0, 2.0, 7.0])
    assert [(one.at, one.mean, one.count) for one in found] == [(0.25, 1.5, 2)]
    assert found[0].error == pytest.approx(0.5)


def test_a_slice_shows_the_mean_and_two_standard_errors_around_it() -> None:
    standing = drawn_at_random(200)
    svg = shown(slice_of(standing, 0, X))
    axes = Axes(svg)
    at, scores = [one.values[X] for one in standing.done], [one.objectives[0] for one in standing.done]
    expected = local_means(at, scores, math.ceil(len(at) / 5))
    (mean,), (band,) = of_kind(svg, "line"), of_kind(svg, "band")
    line, around = points_of(mean.attrib["d"]), points_of(band.attrib["d"])
    assert [axes.x(x) for x, _ in line] == near(*(one.at for one in expected))
    assert [axes.y(y) for _, y in line] == near(*(one.mean for one in expected))
    assert [axes.y(y) for _, y in around[: len(line)]] == near(*(one.mean - 2 * one.error for one in expected))
    assert [axes.y(y) for _, y in around[len(line) :][::-1]] == near(*(one.mean + 2 * one.error for one in expected))
    (best,) = of_kind(svg, "best")
    assert axes.x(float(best.attrib["cx"])) == pytest.approx(standing.ranked[0].values[X], abs=4e-3)


def test_a_slice_of_words_has_a_bar_for_each() -> None:
    standing = drawn_at_random(100)
    svg = shown(slice_of(standing, 0, METHOD))
    means = {m: [one.objectives[0] for one in standing.done if one.values[METHOD] == m] for m in ("linear", "ties")}
    assert [title_of(one).partition(" ")[0] for one in of_kind(svg, "mean")] == [
        f"{statistics.fmean(of):.5g}" for of in means.values()
    ]
    assert [one.text for one in of_kind(svg, "tick") if one.attrib["text-anchor"] == "middle"] == ["linear", "ties"]


def test_a_place_that_does_not_vary_or_has_few_values_is_not_drawn() -> None:
    trials = [trial(n, {X: 0.5, **({Y: 0.1 * n} if n < 4 else {})}, float(n)) for n in range(1, 20)]
    standing = Standing(trials, SPACE, [HIGHER])
    assert slice_of(standing, 0, X) == LeftOut(f"demo by {X}", "all finished trials have 0.5")
    assert slice_of(standing, 0, Y) == LeftOut(
        f"demo by {Y}", "10 finished trials with a value there are needed, 3 are there"
    )


# -- two places, all places --------------------------------------------------------------------------------------------


def test_a_cell_of_the_heat_map_is_the_mean_of_its_trials() -> None:
    space: dict[str, Dimension] = {path: Choices(choices=("p", "q")) for path in (X, Y)}
    trials = [trial(n, {X: "pq"[n % 2], Y: "pq"[n // 2 % 2]}, float(n)) for n in range(24)]
    svg = shown(heat_map(Standing(trials, space, [HIGHER]), 0, X, Y))
    cells = {
        (float(one.attrib["x"]), -float(one.attrib["y"])): title_of(one)
        for one in svg.iter(f"{SVG}rect")
        if one.find(f"{SVG}title") is not None
    }
    means = [statistics.fmean(range(first, 24, 4)) for first in (0, 2, 1, 3)]  # from below to above, from left to right
    assert [cells[at] for at in sorted(cells)] == [f"{mean:.4g}, the mean of 6" for mean in means]
    strong = [one.attrib["class"] for one in svg.iter(f"{SVG}rect") if title_of(one).startswith("13,")]
    assert strong == ["s7"]


def test_a_line_goes_through_the_values_of_the_best_trial_and_what_is_not_filled_is_below() -> None:
    standing = drawn_at_random(40)
    trials = [
        trial(one.number, {k: v for k, v in one.values.items() if k != Y or one.number % 2}, *one.objectives)
        for one in standing.done
    ]
    standing = Standing(trials, SPACE, [HIGHER])
    svg = shown(parallel_coordinates(standing, 0, [X, METHOD, Y]))
    (top,) = of_kind(svg, "top")
    at = points_of(top.attrib["d"])
    rules = [points_of(one.attrib["d"]) for one in of_kind(svg, "rule")]
    assert [x for x, _ in at] == [rule[0][0] for rule in rules] and len(at) == 4
    best = standing.ranked[0]
    assert title_of(top).splitlines()[0] == f"trial {best.number}: demo {number(best.objectives[0])}"
    (low, high) = (rules[0][0][1], rules[0][1][1])
    share = (low - at[0][1]) / (low - high)
    assert share == pytest.approx((best.values[X] + 0.03) / 1.06, abs=0.01)  # of 0 to 1, with a margin
    assert (at[2][1] > low) == (Y not in best.values)
    assert sum(of.attrib["d"].count("M") for n in range(8) for of in of_kind(svg, f"l{n}")) == len(standing.done)
    assert [one.text for one in of_kind(svg, "note")].count("not filled") == 1


# -- several objectives ------------------------------------------------------------------------------------------------


def test_the_front_is_named_and_its_line_is_never_beaten() -> None:
    standing = drawn_at_random(80, (HIGHER, LOWER))
    svg = shown(pareto_front(standing, 1, 0))
    axes = Axes(svg)
    named = {int(title_of(one).split()[1].rstrip(":")) for one in of_kind(svg, "best")}
    assert named == standing.front
    (line,) = of_kind(svg, "dashed")
    for x, y in points_of(line.attrib["d"]):
        price, worth = axes.x(x), axes.y(y)
        assert not any(one.objectives[1] < price - 0.02 and one.objectives[0] > worth + 0.02 for one in standing.done)


# -- over the layers ---------------------------------------------------------------------------------------------------


def test_the_profile_is_the_gradient_of_the_best_trial_with_what_the_recipe_has_itself() -> None:
    place = "parameters.t[2]"
    trials = [trial(n, {place: n / 10}, float(-abs(n - 7))) for n in range(10)]
    of = gradient(0.1, 0.4, place)
    svg = shown(layer_profile(Standing(trials, {place: SPACE[X]}, [HIGHER], [of]), of))
    axes = Axes.__new__(Axes)
    ticks = [one for one in of_kind(svg, "tick") if one.attrib["text-anchor"] == "end"]
    axes._y = Axes._ends([(float(one.attrib["y"]) - 4, one) for one in ticks])
    (top,) = of_kind(svg, "top")
    assert [axes.y(y) for _, y in points_of(top.attrib["d"])] == near(0.1, 0.4, 0.7)


def test_gradients_are_told_from_the_space_and_the_recipe() -> None:
    content = {"parameters": {"t": [{"value": [0.1, 0.2, 0.3]}, {"value": 0.4}]}, "models": [{"model": "a"}]}
    space: dict[str, Dimension] = {
        "parameters.t[0].value[1]": Span(low=0, high=1),
        "parameters.t[1].value": Choices(choices=([0, 1], [1, 0], 0.5)),
        "parameters.density": Span(low=0, high=1),
        "models[0].weight": Span(low=0, high=1),
    }
    listed, chosen = gradients_of(space, content)
    assert listed.entries == (0.1, "parameters.t[0].value[1]", 0.3)
    assert listed.of({"parameters.t[0].value[1]": 0.9}) == [0.1, 0.9, 0.3] and listed.of({}) is None
    assert chosen.of({"parameters.t[1].value": [0, 1]}) == [0, 1] and chosen.of({"parameters.t[1].value": 0.5}) is None


# -- all of them -------------------------------------------------------------------------------------------------------


def test_what_would_say_nothing_is_not_drawn_and_the_reason_is_said() -> None:
    assert pictures_of(Standing([], SPACE, [HIGHER])).pictures == ()
    drawn = pictures_of(drawn_at_random(60))
    assert {one.name.partition("-")[0] for one in drawn.pictures} == {
        "trials",
        "importance",
        "parallel",
        "heat",
        "slice",
    }
    assert (
        LeftOut("Values over the layers", "no place of the space is a list of values over the layers") in drawn.left_out
    )
    assert len({one.name for one in drawn.pictures}) == len(drawn.pictures)


def test_scores_that_are_all_the_same_depend_on_nothing() -> None:
    trials = [trial(n, {X: n / 40, Y: 0.5 + n / 100, METHOD: "ties"}, 0.35) for n in range(40)]
    drawn = pictures_of(Standing(trials, SPACE, [HIGHER]))
    assert [one.name for one in drawn.pictures] == ["trials-0"]
    assert drawn.left_out == (LeftOut("What the scores depend on", "all finished trials came to the same"),)
    both = [trial(one.number, dict(one.values), 0.35, one.number / 40) for one in trials]
    found = pictures_of(Standing(both, SPACE, [HIGHER, LOWER])).pictures
    assert {one.name for one in found if one.name.startswith(("importance", "heat", "slice"))} == {
        *("importance-1", "heat-1", "slice-1-0", "slice-1-1")
    }


@pytest.mark.slow
def test_pictures_do_not_grow_with_the_trials_beyond_a_bound() -> None:
    sizes = {}
    for count in (1100, 2600):
        drawn = pictures_of(drawn_at_random(count, (HIGHER, LOWER)))
        sizes[count] = {one.name: len(one.svg) for one in drawn.pictures}
        for one in drawn.pictures:
            svg = ElementTree.fromstring(one.svg)
            assert sum(1 for _ in svg.iter()) < 700, one.name
            dots = sum(mark.attrib["d"].count("M") for kind in ("points",) for mark in of_kind(svg, kind))
            assert dots <= 2 * MOST_POINTS
            assert sum(of.attrib["d"].count("M") for n in range(8) for of in of_kind(svg, f"l{n}")) <= MOST_LINES
    assert sizes[1100].keys() == sizes[2600].keys()
    assert all(size < 100_000 for of in sizes.values() for size in of.values())


def test_a_picture_is_an_image_of_markdown() -> None:
    (picture, *_) = pictures_of(drawn_at_random(60)).pictures
    found = re.fullmatch(r"!\[demo over trials\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", picture.markdown)
    assert found and base64.b64decode(found[1]).decode() == picture.svg


def test_no_name_or_value_becomes_markup() -> None:
    def tags(text: str) -> list[list[str]]:
        space: dict[str, Dimension] = {X: SPACE[X], "merge_method": Choices(choices=(text, f"{text}{text}"))}
        trials = [trial(n, {X: n / 40, "merge_method": text * (1 + n % 2)}, n % 7 / 7, float(n)) for n in range(40)]
        goals = [Goal(text, True), Goal(f"{text}2", False)]
        of = [ElementTree.fromstring(one.svg) for one in pictures_of(Standing(trials, space, goals)).pictures]
        return [[one.tag for one in svg.iter()] for svg in of]

    assert tags("</text></svg><script>\x1b[1m&'\"") == tags("harmless")
