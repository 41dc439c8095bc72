"""What a plan decided for tensors that are not the same in all inputs, for people to see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

What = Literal["renamed", "regrouped", "carried", "dropped", "untied"]


@dataclass(frozen=True)
class TensorDecision:
    """One decision on tensors of one input.

    Attributes:
        what: ``renamed``: read under another name than in the files; ``regrouped``: cut from or
            joined with others, as the variant has them; ``carried``: copied from this input alone, whatever the
            method; ``dropped``: not in the variant, although other tensors of its layer or place are; ``untied``: a head that
            is not the embedding any more.
        model: the input, as the recipe writes it.
        count: how many tensors it is about.
        example: name of the first, as the variant has it or would have it; of renamed and regrouped ones, the name in the file.
        why: in words.
    """

    what: What
    model: str
    count: int
    example: str
    why: str

    @property
    def text(self) -> str:
        """A sentence."""
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        whether = "is" if self.count == 1 else "are"
        return f"{self.example}{more} {whether} {self.what} ({self.model}): {self.why}"


class Decisions:
    """Decisions as they are made, alike ones counted together."""

    def __init__(self) -> None:
        self._made: dict[tuple[What, str, str], TensorDecision] = {}

    def add(self, what: What, model: object, name: str, why: str) -> None:
        """Keep what was decided for one tensor."""
        key = (what, str(model), why)
        known = self._made.get(key)
        self._made[key] = (
            replace(known, count=known.count + 1) if known else TensorDecision(what, str(model), 1, name, why)
        )

    @property
    def warnings(self) -> list[str]:
        """What a person should know of them."""
        return [one.text for one in self if one.what not in ("renamed", "regrouped")]

    def __iter__(self) -> Iterator[TensorDecision]:
        return iter(self._made.values())
