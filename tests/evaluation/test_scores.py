"""Contract: what is no scores is refused, and people read of scores what was worked out by hand."""

from __future__ import annotations

import math

import pytest

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.scores import Scores, format_delta, format_value, metric_key
from tests.leaderboard_support import demo, row


def test_scores_are_a_table() -> None:
    text = demo("mix", 7.0, 0.56, 0.50).to_markdown()
    assert "| task | metric | shots | n | value | ± stderr |" in text
    assert "| demo_perplexity | byte_perplexity ↓ | 0 | 50 | 7.000 |  |" in text
    assert "| demo_cloze | acc_norm | 0 | 50 | 56.0 | 3.0 |" in text
    assert "| **average** |  |  |  | **53.0** |  |" in text


@pytest.mark.parametrize(
    ("metric", "available", "found"),
    [
        ("acc", ["acc,none", "acc_norm,none"], "acc,none"),
        ("exact_match", ["exact_match,strict-match", "exact_match,flexible-extract"], None),
        (
            "exact_match,strict-match",
            ["exact_match,strict-match", "exact_match,flexible-extract"],
            "exact_match,strict-match",
        ),
        ("exact_match", ["exact_match,first-word", "other,none"], "exact_match,first-word"),
        ("absent", ["acc,none"], None),
    ],
)
def test_a_metric_means_one_column_of_lm_eval_or_none(metric: str, available: list[str], found: str | None) -> None:
    assert metric_key(metric, dict.fromkeys(available, 0.0)) == found


@pytest.mark.parametrize(
    ("value", "fraction", "text"),
    [
        (0.5, True, "50.0"),
        (0.12345, True, "12.3"),
        (7.0, False, "7.000"),
        (12.3456, False, "12.35"),
        (1234.5, False, "1234"),
    ],
)
def test_values_for_people(value: float, fraction: bool, text: str) -> None:
    assert format_value(value, fraction) == text


def test_differences_for_people() -> None:
    assert format_delta(-0.021, True, 0.5) == "−2.1"
    assert format_delta(0.0146, False, 7.871) == "+0.015"
    assert format_delta(123444.0, False, 1.235e5) == "+1.234e+05"
    assert format_delta(-3.25e-6, False, 1.235e-5) == "−3.250e-06"
    assert format_delta(-3.2, False, 12345.6) == "−3.200"
    assert format_delta(0.0, True) == format_delta(-1e-9, True) == "±0"
    assert format_delta(None, True) == ""


@pytest.mark.parametrize("text", ["", "{}", '{"model": 1}', "null"])
def test_what_is_no_scores_is_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match="scores: "):
        Scores.from_json(text)


def test_scores_hold_no_nan() -> None:
    with pytest.raises(ValueError, match="finite"):
        row("a", "acc", math.nan)
