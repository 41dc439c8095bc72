"""Contract: documents are matched by what they are, never by where they stand; what cannot be matched cannot be told, with the
reason; and what the documents give is the recorded value or nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from merge_assets.evaluation.headline import Headline, HeadlinePart, Term
from merge_assets.evaluation.judge import Judge
from merge_assets.evaluation.pairs import UnmatchedError, measure_of, sheet_of
from merge_assets.evaluation.samples import packed, read_samples, unpacked
from merge_assets.evaluation.scores import Scores, TaskScore
from merge_assets.evaluation.statistics import mcnemar
from merge_assets.evaluation.verdicts import Pair, Verdict
from tests.leaderboard_support import row, scores
from tests.sample_support import Answered, lines, result_of


def values(sums: object) -> list[list[float]]:
    return np.asarray(sums).tolist()


def verdict(
    answered: Answered, ours: Scores, theirs: Scores, task: str | None = None, metric: str | None = None
) -> Verdict:
    higher = metric is None or "perplexity" not in metric
    (found,) = Judge(answered).verdicts([Pair(ours, theirs, task, metric, higher)])
    return found


def right(count: int, of: int = 40) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


# -- what samples say -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logged", "added"),
    [
        (1.0, [1.0, 1.0]),
        (True, [1.0, 1.0]),
        ([-12.5, 40], [-12.5, 40.0]),
        ([True, False, True], [2.0, 3.0]),
        ([True, False], [1.0, 2.0]),
    ],
)
def test_a_document_adds_to_a_numerator_and_a_denominator(logged: object, added: list[float]) -> None:
    assert values(read_samples(lines("t", "m", [logged])).sums["m,none"]) == [added]


@pytest.mark.parametrize("logged", ["text", None, [1, 2, 3], [], [[1, 2]], {"a": 1}])
def test_what_is_no_part_of_a_ratio_is_left_out(logged: object) -> None:
    assert dict(read_samples(lines("t", "m", [1.0, logged])).sums) == {}


def test_each_filter_has_its_documents() -> None:
    found = read_samples(lines("t", "em,strict", [1.0, 0.0]) + lines("t", "em,loose", [1.0, 1.0]))
    assert {name: len(each) for name, each in found.documents.items()} == {"strict": 2, "loose": 2}
    assert values(found.sums["em,strict"]) == [[1, 1], [0, 1]]


def test_samples_are_kept_as_they_were_read() -> None:
    found = {"12345678": {"t": read_samples(lines("t", "m", [0.1, 0.7])), "empty": read_samples([])}}
    again = unpacked(packed(found))
    assert again is not None
    assert list(again["12345678"]) == ["t", "empty"]
    assert values(again["12345678"]["t"].sums["m,none"]) == [[0.1, 1], [0.7, 1]]
    assert again["12345678"]["t"].documents["none"].tolist() == found["12345678"]["t"].documents["none"].tolist()
    assert unpacked(packed(found)[:-30]) is None


# -- what the documents give ------------------------------------------------------------------------------------------------


def of_subjects(answered: Answered, value: float) -> Scores:
    """A group of two subjects of 10 and 30 documents, of which 9 and 15 are right."""
    made = answered.add(scores("m", row("mmlu", "acc", value)), {})
    answered.samples[id(made)] = {
        result_of("mmlu")[:8]: {
            "law": read_samples(lines("law", "acc", right(9, 10))),
            "art": read_samples(lines("art", "acc", right(15, 30))),
        }
    }
    return made


@pytest.mark.parametrize("value", [24 / 40, (9 / 10 + 15 / 30) / 2])
def test_a_group_is_weighted_as_its_value_says(value: float) -> None:
    answered = Answered()
    made = of_subjects(answered, value)
    sheet = sheet_of(made, "mmlu", "acc", answered(made))
    assert measure_of([sheet]).values.tolist() == [pytest.approx(value)]
    strata = [len(np.unique(each)) for _, each, _ in sheet.parts]
    assert strata == ([2] if value == 24 / 40 else [1, 1])


def test_a_value_that_the_documents_do_not_give_is_not_judged() -> None:
    answered = Answered()
    made = of_subjects(answered, 0.61)
    with pytest.raises(UnmatchedError, match=r"^acc of mmlu does not follow from its samples one by one$"):
        sheet_of(made, "mmlu", "acc", answered(made))


def test_the_headline_follows_from_its_tasks_by_the_suites_formula() -> None:
    answered = Answered()
    made = answered.model("m", {"a": right(10), "b": right(30)})

    skewed = made.model_copy(update={"headline": (3 * 0.25 + 0.75) / 4})
    weighted = [part.model_copy(update={"weight": w}) for part, w in zip(made.formula.parts, (3, 1), strict=True)]
    right_one = skewed.model_copy(update={"formula": Headline(parts=tuple(weighted))})
    assert measure_of([sheet_of(right_one, None, None, answered(made))]).values.tolist() == [0.375]
    with pytest.raises(UnmatchedError, match="do not give the recorded headline"):
        sheet_of(skewed, None, None, answered(made))


def test_tasks_of_a_group_count_by_themselves_and_by_what_chance_gives() -> None:
    answered = Answered()
    made = of_subjects(answered, 24 / 40)
    terms = [Term(task=task, metric="acc", lower=0.25, value=value) for task, value in (("law", 0.9), ("art", 0.5))]
    value = (0.65 / 0.75 + 0.25 / 0.75) / 2
    formula = Headline(parts=(HeadlinePart(task="mmlu", terms=tuple(terms), value=value),))
    spread = made.model_copy(update={"headline": value, "formula": formula})
    assert measure_of([sheet_of(spread, None, None, answered(made))]).values.tolist() == [pytest.approx(value)]


def test_a_number_that_is_none_is_not_judged() -> None:
    answered = Answered()
    made = answered.add(scores("m", row("t", "acc", 0.5)), {"t": lines("t", "acc", [1.0, "nan"])})
    with pytest.raises(UnmatchedError, match=r"^acc of 1 documents of t is no number$"):
        sheet_of(made, "t", "acc", answered(made))


# -- what is matched --------------------------------------------------------------------------------------------------------


def shuffled(answered: Answered, name: str, answers: Sequence[float], seed: int) -> Scores:
    """A model that was asked the documents in another order."""
    order = list(range(len(answers)))
    random.Random(seed).shuffle(order)
    logged = lines("t", "acc", [answers[i] for i in order], documents=[str(i) for i in order])
    return answered.add(scores(name, row("t", "acc", float(np.mean(answers)))), {"t": logged})


def test_the_order_of_documents_does_not_matter() -> None:
    answered = Answered()
    draws = random.Random(3)
    ours, theirs = ([float(draws.random() < rate) for _ in range(50)] for rate in (0.7, 0.4))
    gained = sum(a > b for a, b in zip(ours, theirs, strict=True))
    lost = sum(a < b for a, b in zip(ours, theirs, strict=True))
    found = {
        verdict(answered, shuffled(answered, "a", ours, seed), shuffled(answered, "b", theirs, seed + 1), "t", "acc")
        for seed in range(3)
    }
    (one,) = found
    assert one.found is not None
    assert one.found.p == mcnemar(gained, lost)


def test_documents_with_one_hash_are_matched_in_their_order() -> None:
    answered = Answered()

    def model(name: str, answers: list[float]) -> Scores:
        logged = lines("t", "acc", answers, documents=["twin", "other", "twin", "twin"])
        return answered.add(scores(name, row("t", "acc", float(np.mean(answers)))), {"t": logged})

    one, other = model("a", [1, 0, 0, 1]), model("b", [0, 0, 1, 1])
    found = verdict(answered, one, other, "t", "acc").found
    assert found is not None
    assert (found.difference, found.p) == (0, 1)
    sums = measure_of([sheet_of(each, "t", "acc", answered(each)) for each in (one, other)]).parts[0].sums
    assert sorted(zip(*sums[..., 0].tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def changed(answered: Answered, made: Scores, **update: object) -> Scores:
    rows = tuple(TaskScore.model_validate(each.model_dump() | update) for each in made.tasks)
    other = made.model_copy(update={"tasks": rows})
    answered.samples[id(other)] = answered(made)
    answered._kept.append(other)
    return other


def test_why_nothing_can_be_told() -> None:
    answered = Answered()
    ours = answered.model("a", {"t": right(30)})
    none = scores("b", row("t", "acc", 0.5))
    fewer = answered.model("b", {"t": right(10, 20)})
    other_data = answered.model("b", {"t": right(10)}, data="e")
    other_files = changed(answered, answered.model("b", {"t": right(10)}), task_digest="u")
    reasons = {name: verdict(answered, ours, theirs, "t", "acc") for name, theirs in {
        "none": none, "fewer": fewer, "data": other_data, "files": other_files
    }.items()}  # fmt: skip
    assert {each.word for each in reasons.values()} == {"cannot tell"}
    assert {name: each.why for name, each in reasons.items()} == {
        "none": "b: no samples are kept",
        "fewer": "of 40 and 20 documents of t, 20 are the same",
        "data": "the prompts of t differ",
        "files": "the files of t differ",
    }


# -- what is said -----------------------------------------------------------------------------------------------------------


def test_better_worse_and_what_cannot_be_told() -> None:
    answered = Answered()
    high, low, near = (answered.model(name, {"t": right(count)}) for name, count in (("h", 30), ("l", 10), ("n", 28)))
    assert [verdict(answered, *pair, "t", "acc").word for pair in ((high, low), (low, high), (high, near))] == [
        "better",
        "worse",
        "cannot tell",
    ]


def test_lower_is_better_where_the_metric_says_so() -> None:
    answered = Answered()
    draws = random.Random(5)
    sizes = [draws.randrange(100, 900) for _ in range(30)]
    theirs = [(-1.3 * size * draws.uniform(0.8, 1.2), size) for size in sizes]
    ours = [(ll + 0.05 * size * draws.uniform(0.5, 1.5), size) for ll, size in theirs]
    found = verdict(
        answered, answered.perplexity("a", ours), answered.perplexity("b", theirs), "text", "byte_perplexity"
    )
    assert found.word == "better"
    assert found.found is not None
    assert found.found.difference < 0
    assert found.found.low < found.found.difference < found.found.high < 0


def test_identical_answers_cannot_be_told_apart() -> None:
    answered = Answered()
    one, other = (answered.model(name, {"a": right(20), "b": right(3)}) for name in "ab")
    found = verdict(answered, one, other)
    assert (found.word, found.adjusted, found.why) == ("cannot tell", 1, "")


def test_verdicts_are_adjusted_for_all_that_are_asked_together() -> None:
    """Eight documents more and none less are better for themselves (p = 0.008), but not among ten."""
    answered = Answered()
    one, other = answered.model("a", {"t": right(20)}), answered.model("b", {"t": right(12)})
    same = answered.model("c", {"t": right(12)})
    pair, nothing = Pair(one, other, "t", "acc", True), Pair(other, same, "t", "acc", True)
    alone, *_ = Judge(answered).verdicts([pair])
    among, *_ = Judge(answered).verdicts([pair] + [nothing] * 9)
    assert (alone.word, alone.adjusted) == ("better", mcnemar(8, 0))
    assert (among.word, among.adjusted) == ("cannot tell", pytest.approx(10 * mcnemar(8, 0)))


def test_ranks_hold_for_models_that_were_asked_the_same() -> None:
    answered = Answered()
    high, low, near = (answered.model(name, {"t": right(count)}) for name, count in (("h", 38), ("l", 5), ("n", 37)))
    apart = answered.model("x", {"t": right(10, 20)})
    models = [high, low, near, apart]
    headlines = [one.headline or math.nan for one in models]
    found = Judge(answered).rank_intervals(models, headlines, None, None, higher=True)
    assert found == [(1, 3), (3, 4), (1, 3), (1, 4)]
