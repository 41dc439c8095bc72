"""What was wrong with single prompts and answers of a task that has a value all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import Field

from merge_assets.records import Record


class Flaws(Record):
    """Documents of one task with which something was wrong.

    Attributes:
        truncated: a prompt was longer than the model's context, and its beginning was cut off.
        empty: what was generated has no text.
        endless: what was generated came to no end within its bound.
        failed: an answer is no number, as NaN; lm-eval gave them no metric, so that they are in no value.
    """

    truncated: int = Field(default=0, ge=0)
    empty: int = Field(default=0, ge=0)
    endless: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)


_WORDS = {
    "failed": "the answers to {} of {} documents are no numbers, and left out",
    "truncated": "prompts of {} of {} documents were longer than the model's context, and their beginning was cut off",
    "empty": "{} of {} answers are empty",
    "endless": "{} of {} answers came to no end within their bound",
}


def summed(flaws: Iterable[Flaws]) -> Flaws:
    """Those of several tasks together."""
    counts: Counter[str] = Counter()
    for one in flaws:
        counts.update({name: getattr(one, name) for name in Flaws.model_fields})
    return Flaws(**counts)


def told(task: str, documents: int, flaws: Flaws) -> list[str]:
    """The flaws of a task, a sentence for each kind; so many documents are in its value."""
    counts = [(getattr(flaws, name), text) for name, text in _WORDS.items()]
    return [f"{task}: {text.format(count, documents + flaws.failed)}" for count, text in counts if count]
