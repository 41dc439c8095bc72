"""Contract: a headline is what the leaderboards make of the same values, worked out here by other means; its error follows
where it can; values that are missing are counted."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.collect import collect_scores
from merge_assets.evaluation.headline import Headline, HeadlinePart, Term, measured
from merge_assets.evaluation.results import ResultKey, SampleCount, TaskResult
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.suite import load_suite, load_suites

SUITES = Path(__file__).parents[2] / "suites"

CHOICES = {
    "sports_understanding": 2, "tracking_shuffled_objects_three_objects": 3, "navigate": 2, "snarks": 2,
    "date_understanding": 6, "reasoning_about_colored_objects": 18, "object_counting": 19,
    "logical_deduction_seven_objects": 7, "geometric_shapes": 11, "web_of_lies": 2, "movie_recommendation": 6,
    "logical_deduction_five_objects": 5, "salient_translation_error_detection": 6, "disambiguation_qa": 3,
    "temporal_sequences": 4, "hyperbaton": 2, "logical_deduction_three_objects": 3, "causal_judgement": 2,
    "formal_fallacies": 2, "tracking_shuffled_objects_seven_objects": 7, "ruin_names": 6, "penguins_in_a_table": 5,
    "boolean_expressions": 2, "tracking_shuffled_objects_five_objects": 5,
}  # fmt: skip
"""Of the tasks of BBH, as the Open LLM Leaderboard published them."""


def result(task: str, metrics: dict[str, dict[str, float]], members: dict[str, int] | None = None) -> TaskResult:
    """What lm-eval found for a task or group: per name and metric the value, or value and error."""
    counts = members or {task: 10}
    return TaskResult(
        key=ResultKey(
            evaluation="1", model="m", task=task, task_digest="t", shots=0, limit=None, seed=1, dtype="auto",
            batch_size=1, lm_eval="0.4", revision=None, trust_remote_code=False,
        ),
        metrics={name: {**values} for name, values in metrics.items()},
        higher_is_better={name: {metric.split(",")[0]: True for metric in values} for name, values in metrics.items()},
        shots=dict.fromkeys(metrics, 0),
        samples={name: SampleCount(original=n, effective=n) for name, n in counts.items()},
        task_versions={}, seeds={}, versions={}, device="cpu", model_dtype="float32", command=[], seconds=1.0,
        created="now",
    )  # fmt: skip


def collected(folder: Path, headline: str, *results: TaskResult, metric: str = "acc") -> Scores:
    """Scores of a suite that lists each result's task once, with a headline."""
    path = folder / "mine.yaml"
    tasks = "".join(f"  - {{task: {one.key.task}, metric: {metric}}}\n" for one in results)
    path.write_text(f"headline: {headline}\ntasks:\n{tasks}")
    return collect_scores(load_suite(path), results, model="m", fingerprint="f")


def both(value: float, error: float) -> dict[str, float]:
    return {"acc,none": value, "acc_stderr,none": error}


def test_mmlu_pro_of_a_published_result(tmp_path: Path) -> None:
    """0.53092 raw is published as 47.88."""
    scores = collected(tmp_path, "[{task: pro, choices: 10}]", result("pro", {"pro": {"acc,none": 0.53092}}))
    assert scores.headline is not None
    assert f"{100 * scores.headline:.2f}" == "47.88"
    assert (scores.tasks[0].value, scores.tasks[0].text) == (0.53092, "53.1"), "the raw value stands beside"
    assert "| pro | 53.1 | 47.9 | 1 |" in scores.to_markdown()
    assert Scores.from_json(scores.to_json()) == scores


def test_the_second_leaderboard_as_it_is_shipped_and_published() -> None:
    suite = load_suites([SUITES])["open-llm-leaderboard-v2"]
    values = {
        part.task: dict(part.choices) if isinstance(part.choices, dict) else {part.task: part.choices or 0}
        for part in suite.headline_parts
    }
    assert values == {
        "leaderboard_ifeval": {"leaderboard_ifeval": 0},
        "leaderboard_bbh": {f"leaderboard_bbh_{name}": number for name, number in CHOICES.items()},
        "leaderboard_math_hard": {"leaderboard_math_hard": 0},
        "leaderboard_gpqa": {"leaderboard_gpqa": 4},
        "leaderboard_musr": {
            "leaderboard_musr_murder_mysteries": 2,
            "leaderboard_musr_object_placements": 5,
            "leaderboard_musr_team_allocation": 3,
        },
        "leaderboard_mmlu_pro": {"leaderboard_mmlu_pro": 10},
    }
    assert suite.headline_parts[0].metrics == ("prompt_level_strict_acc", "inst_level_strict_acc")
    assert {part.weight for part in suite.headline_parts} == {1.0}


def test_the_tasks_of_bbh_have_these_choices_in_lm_eval() -> None:
    """The published numbers are those of the tasks that are evaluated here."""
    import lm_eval

    for name, number in CHOICES.items():
        text = (Path(lm_eval.__file__).parent / "tasks/leaderboard/bbh_mc" / f"{name}.yaml").read_text()
        assert len(yaml.safe_load(text)["doc_to_choice"]) == number, name


def test_mmlu_is_the_plain_mean_over_its_subjects_in_the_first_leaderboard(tmp_path: Path) -> None:
    subjects = {"law": (0.5, 100), "maths": (0.2, 10), "art": (0.8, 40)}
    weighted = sum(value * n for value, n in subjects.values()) / 150
    metrics = {"mmlu": both(weighted, 0.01)} | {name: both(value, 0.03) for name, (value, _) in subjects.items()}
    mmlu = result("mmlu", metrics, {name: n for name, (_, n) in subjects.items()})
    arc = result("arc", {"arc": both(0.7, 0.04)})
    scores = collected(tmp_path, "[{task: arc}, {task: mmlu, subtasks: true}]", arc, mmlu)
    assert scores.headline == pytest.approx((0.7 + (0.5 + 0.2 + 0.8) / 3) / 2)
    assert scores.headline_stderr == pytest.approx(math.hypot(0.04, math.sqrt(3) * 0.03 / 3) / 2)
    assert scores.tasks[1].value == weighted, "lm-eval's own value stands beside"
    first = load_suites([SUITES])["open-llm-leaderboard-v1"]
    assert [part.task for part in first.headline_parts if part.subtasks] == ["mmlu"]


def test_an_average_is_the_mean_of_its_values_as_ever(tmp_path: Path) -> None:
    scores = collected(tmp_path, "average", result("a", {"a": both(0.5, 0.03)}), result("b", {"b": both(0.25, 0.04)}))
    assert (scores.headline, scores.headline_stderr) == (0.375, pytest.approx(0.025))
    assert scores.formula.is_average
    assert "counts as" not in scores.to_markdown()


def test_weights(tmp_path: Path) -> None:
    results = [result("a", {"a": both(0.5, 0.03)}), result("b", {"b": both(0.25, 0.04)})]
    scores = collected(tmp_path, "[{task: a, weight: 3}, {task: b}]", *results)
    assert scores.headline == (3 * 0.5 + 0.25) / 4
    assert scores.headline_stderr == pytest.approx(math.hypot(3 * 0.03, 0.04) / 4)


def test_two_metrics_of_one_task_are_one_part_without_an_error(tmp_path: Path) -> None:
    """They are of the same documents: their errors say nothing of their mean's."""
    path = tmp_path / "mine.yaml"
    path.write_text("headline: [{task: a}]\ntasks: [{task: a, metric: strict}, {task: a, metric: loose}]\n")
    one = result(
        "a", {"a": {"strict,none": 0.5, "strict_stderr,none": 0.1, "loose,none": 0.75, "loose_stderr,none": 0.1}}
    )
    scores = collect_scores(load_suite(path), [one, one], model="m", fingerprint="f")
    assert (scores.headline, scores.headline_stderr) == (0.625, None)
    assert len(scores.formula.parts) == 1


def test_what_is_at_chance_or_below_counts_nothing_and_has_no_error(tmp_path: Path) -> None:
    scores = collected(tmp_path, "[{task: a, choices: 4}]", result("a", {"a": both(0.2, 0.03)}))
    assert (scores.headline, scores.headline_stderr) == (0.0, None)
    scores = collected(tmp_path, "[{task: a, choices: 4}]", result("a", {"a": both(0.4, 0.03)}))
    assert (scores.headline, scores.headline_stderr) == (pytest.approx(0.2), pytest.approx(0.04))


@pytest.mark.parametrize(
    ("headline", "says"),
    [
        (
            "[{task: g, choices: {g_x: 2, g_y: 3, g_z: 2}}]",
            r"headline\[0\]\.choices: g has no task 'g_z'; it has: g_x, g_y",
        ),
        ("[{task: g, choices: {g_x: 2}}]", r"headline\[0\]\.choices: g_y of g has no number of choices here; add it"),
        (
            "[{task: alone, subtasks: true}]",
            r"headline\[0\]\.subtasks: alone is one task and no group; remove this key",
        ),
        ("[{task: wrong, subtasks: true}]", r"headline\[0\]: acc of w_x is 1\.5, not a fraction in 0\.\.1"),
    ],
)
def test_a_formula_that_does_not_fit_what_was_measured(tmp_path: Path, headline: str, says: str) -> None:
    group = {"g": both(0.5, 0.1), "g_x": both(0.4, 0.1), "g_y": both(0.6, 0.1)}
    results = [
        result("g", group, {"g_x": 5, "g_y": 5}),
        result("alone", {"alone": both(0.5, 0.1)}),
        result("wrong", {"wrong": both(0.5, 0.1), "w_x": both(1.5, 0.1), "w_y": both(0.5, 0.1)}, {"w_x": 1, "w_y": 1}),
    ]
    with pytest.raises(EvaluationError, match=says):
        collected(tmp_path, headline, *results)


# -- by laws -----------------------------------------------------------------------------------------------------------

fractions = st.floats(0, 1, width=32)
terms = st.tuples(fractions, st.sampled_from([0, 2, 3, 4, 10, 19]))
formulas = st.lists(st.tuples(st.lists(terms, min_size=1, max_size=4), st.integers(1, 5)), min_size=1, max_size=5)


def headline_of(formula: list[tuple[list[tuple[float, int]], int]]) -> tuple[Headline, dict[tuple[str, str], float]]:
    parts, values = [], {}
    for i, (of_part, weight) in enumerate(formula):
        named = tuple(
            Term(task=f"{i}/{j}", metric="acc", lower=1 / number if number else 0)
            for j, (_, number) in enumerate(of_part)
        )
        values |= {(term.task, term.metric): value for term, (value, _) in zip(named, of_part, strict=True)}
        parts.append(HeadlinePart(task=str(i), weight=weight, terms=named))
    return Headline(parts=tuple(parts)), values


@given(formulas)
def test_a_headline_is_the_weighted_mean_of_means_of_normalised_values(formula: list) -> None:
    """In exact arithmetic."""
    headline, values = headline_of(formula)
    total, weights = Fraction(0), Fraction(0)
    for of_part, weight in formula:
        counted = [
            max(Fraction(value) - Fraction(1, n), Fraction(0)) / (1 - Fraction(1, n)) if n else Fraction(value)
            for value, n in of_part
        ]
        total += weight * sum(counted) / len(counted)
        weights += weight
    found = headline.value(values)
    assert found.value == pytest.approx(float(total / weights), abs=1e-12)
    assert (found.found, found.of) == (len(formula), len(formula))
    assert 0 <= found.value <= 1


@given(formulas, st.data())
def test_a_part_with_a_value_missing_is_missing_as_a_whole_and_counted(formula: list, data: st.DataObject) -> None:
    headline, values = headline_of(formula)
    gone = data.draw(st.sets(st.sampled_from(sorted(values))))
    left = {key: value for key, value in values.items() if key not in gone}
    whole = [one for i, one in enumerate(formula) if not any(key[0].startswith(f"{i}/") for key in gone)]
    found = headline.value(left)
    assert (found.found, found.of) == (len(whole), len(formula))
    if whole:
        other, others = headline_of(whole)
        assert found.value == pytest.approx(other.value(others).value)
    else:
        assert found.value is None


def test_the_error_is_that_of_a_simulation() -> None:
    """Values above chance, each drawn many times with its own error."""
    headline, values = headline_of([([(0.6, 2), (0.5, 4)], 2), ([(0.4, 0)], 1)])
    errors = dict(zip(values, (0.02, 0.03, 0.04), strict=True))
    filled = Headline(
        parts=tuple(measured(part, {k: (values[k], errors[k]) for k in values}) for part in headline.parts)
    )
    rng = np.random.default_rng(0)
    drawn = [
        headline.value({key: rng.normal(value, errors[key]) for key, value in values.items()}).value
        for _ in range(20_000)
    ]
    assert filled.stderr == pytest.approx(np.std(drawn), rel=0.02)
