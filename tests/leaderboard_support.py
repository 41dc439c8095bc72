"""Models with scores, made up by hand."""

from __future__ import annotations

from merge_assets.evaluation.headline import Headline, HeadlinePart, Term
from merge_assets.evaluation.leaderboard import LeaderboardEntry, Parent
from merge_assets.evaluation.scores import Scores, TaskScore

RECIPE = "name: mix\nmerge_method: slerp\n# </script><b>&\n"


def row(
    task: str,
    metric: str,
    value: float,
    stderr: float | None = None,
    *,
    n: int = 50,
    higher: bool = True,
    headline: bool = True,
) -> TaskScore:
    return TaskScore(
        task=task,
        metric=metric,
        value=value,
        stderr=stderr,
        shots=0,
        limit=None,
        n=n,
        higher_is_better=higher,
        headline=headline,
        task_version="1.0",
        task_digest="t",
        result="r",
        seconds=1.0,
    )


def part_of(task: str, metric: str, value: float | None = None, stderr: float | None = None) -> HeadlinePart:
    """A part of a plain mean; without a value, of a task that failed."""
    return HeadlinePart(task=task, terms=(Term(task=task, metric=metric, value=value),), value=value, stderr=stderr)


def scores(model: str, *rows: TaskScore, suite: str = "demo", stderr: float | None = None) -> Scores:
    values = [r.value for r in rows if r.headline]
    return Scores(
        model=model,
        fingerprint="f",
        suite=suite,
        suite_digest="s",
        tasks=rows,
        headline=sum(values) / len(values) if values else None,
        headline_stderr=stderr,
        formula=Headline(parts=tuple(part_of(r.task, r.metric, r.value, r.stderr) for r in rows if r.headline)),
        seed=1234,
        versions={"lm_eval": "0.4"},
    )


def demo(model: str, perplexity: float, cloze: float, word: float) -> Scores:
    return scores(
        model,
        row("demo_perplexity", "byte_perplexity", perplexity, higher=False, headline=False),
        row("demo_cloze", "acc_norm", cloze, 0.03),
        row("demo_word", "exact_match", word, 0.04),
    )


#            perplexity  cloze  word  average
# a          8.0         0.50   0.30  0.40
# b          6.0         0.40   0.50  0.45
# mix (a,b)  7.0         0.56   0.50  0.53
# deep (mix) 9.0         0.30   0.50  0.40
# alone      no scores; its parent has none either
A, B, MIX = demo("a", 8.0, 0.50, 0.30), demo("b", 6.0, 0.40, 0.50), demo("mix", 7.0, 0.56, 0.50)
ENTRIES = [
    LeaderboardEntry(model="a", kind="base", parameters=1_290_000, layers=14, scores=[A]),
    LeaderboardEntry(model="org/b", kind="base", parameters=1_290_000, layers=14, scores=[B]),
    LeaderboardEntry(
        model="mix",
        kind="variant",
        method="slerp",
        parameters=1_290_000,
        layers=14,
        parents=[Parent("a", scores=[A]), Parent("org/b", scores=[B])],
        description="Both | halves",
        recipe=RECIPE,
        scores=[
            MIX,
            scores("mix", row("arc", "acc", 0.25), suite="extra"),
        ],
    ),
    LeaderboardEntry(
        model="deep",
        kind="variant",
        method="passthrough",
        layers=21,
        parents=[Parent("mix", scores=[MIX])],
        scores=[demo("deep", 9.0, 0.30, 0.50)],
    ),
    LeaderboardEntry(
        model="alone", kind="variant", method="ties", parents=[Parent("elsewhere")], url="javascript:alert(1)"
    ),
]
