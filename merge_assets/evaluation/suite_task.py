"""One entry of a suite's tasks: a task of lm-eval, or a text that models are run on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from merge_assets.reference import ModelReference

TOKENS = "tokens_per_answer"
"""The metric of every task that generates: mean number of tokens of the answers."""

Documents = Literal[
    "all", "search", "confirm", "search/2", "search/4", "search/8", "search/16", "search/32", "search/64"
]
"""Of each task: all, those that a search may see or a fraction of these, or those that it never does."""

DIVERGENCE = "kl"
TEXT_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")
_OF_TASKS = ("shots", "revision", "higher_is_better", "headline")


class SuiteTask(BaseModel):
    """One metric of one task of a suite, or of a text.

    A headline metric is a fraction in 0..1 where higher is better, such as accuracy. Those of texts, and numbers of tokens, are
    no such fractions and in no headline.

    Attributes:
        task: of a text its path, as the suite writes it, with the model that it is compared with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: str = Field(min_length=1, description="name of an lm-eval task, group or tag")
    metric: str = Field(
        min_length=1, description='lm-eval metric; with its filter where there are several: "exact_match,strict-match"'
    )
    shots: int | None = Field(None, ge=0, description="few-shot examples; null leaves it to the task")
    limit: int | float | None = Field(
        None, gt=0, allow_inf_nan=False, description="documents per task, or a fraction below 1; null means all"
    )
    revision: str | None = Field(
        None, description="commit of the task's data set on the Hub; null takes the newest, whose digest is recorded"
    )
    higher_is_better: bool | None = Field(None, description="null asks lm-eval")
    headline: bool | None = Field(
        None, description="whether the metric enters the average; null means yes; a formula says so itself"
    )
    text: str | None = Field(
        None, min_length=1, description="plain text file, relative to the suite file, in the place of a task"
    )
    piece: int | None = Field(
        None, ge=64, le=1 << 20, description="most bytes of the text that are scored together; null means 2048"
    )
    to: str | None = Field(
        None, min_length=1, description="model whose next-token distributions the metric kl compares with"
    )

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_text(cls, given: Any) -> Any:
        """A text is known by its path."""
        if not isinstance(given, Mapping) or not isinstance(given.get("text"), str):
            return given
        name = given["text"]
        if given.get("metric") == DIVERGENCE and isinstance(given.get("to"), str):
            name = f"{name} to {given['to']}"
        if given.get("task", name) != name:
            raise ValueError("an entry has a task or a text, not both; remove one of the keys")
        return {**given, "task": name}

    @model_validator(mode="after")
    def _fits_a_text(self) -> SuiteTask:
        if self.text is None:
            unfit = [key for key in ("piece", "to") if getattr(self, key) is not None]
            if unfit:
                raise ValueError(f"{unfit[0]} is of a text; remove it, or give text: FILE in the place of task")
            if self.metric == TOKENS and self.headline:
                raise ValueError(f"{TOKENS} is no fraction and in no headline; remove headline")
            return self
        unfit = [key for key in _OF_TASKS if getattr(self, key) is not None]
        if unfit:
            raise ValueError(f"{unfit[0]} is of a task, and this is a text, where lower is better; remove it")
        known = (*TEXT_METRICS, DIVERGENCE)
        if self.metric not in known:
            raise ValueError(f"a text has no metric {self.metric!r}; it has: {', '.join(known)}")
        if self.metric == DIVERGENCE and self.to is None:
            raise ValueError("kl compares with a model; name it with to: MODEL")
        if self.metric != DIVERGENCE and self.to is not None:
            raise ValueError(f"to is of the metric kl, and {self.metric} is of one model alone; remove it")
        return self

    @field_validator("to")
    @classmethod
    def _is_a_model(cls, to: str | None) -> str | None:
        if to is not None:
            ModelReference.parse(to)
        return to

    @field_validator("limit")
    @classmethod
    def _whole_or_fraction(cls, limit: int | float | None) -> int | float | None:
        return whole_or_fraction(limit)

    @field_validator("revision")
    @classmethod
    def _whole_commit(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError("a data set is pinned by its commit, all 40 hex digits; branches and tags move")
        return revision

    @property
    def is_proxy(self) -> bool:
        """Whether the metric is for screening, and in no headline."""
        return self.text is not None or self.metric.partition(",")[0] == TOKENS


def whole_or_fraction(limit: int | float | None) -> int | float | None:
    """A number of documents, or the fraction of them that is below 1."""
    if isinstance(limit, float) and limit >= 1:
        raise ValueError("a limit of 1 or more is a whole number of documents; write it without a fraction")
    return limit
