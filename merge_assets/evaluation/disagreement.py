"""Where in a text a model's next token is not that of another model."""

from __future__ import annotations

from pydantic import Field

from merge_assets.records import Record

MOST = 10
"""Disagreements that are kept of a text."""


class Disagreement(Record):
    """One position of a text.

    Attributes:
        piece: number of the piece of the text.
        position: number of the token in the piece that is predicted.
        kl: divergence there, nats.
        before: the end of the text before it.
        token: the token that follows.
        ours: the token that the model takes to be the likeliest.
        theirs: that of the model which it is compared with.
    """

    piece: int = Field(ge=0)
    position: int = Field(ge=0)
    kl: float
    before: str
    token: str
    ours: str
    theirs: str

    def cells(self, task: str) -> list[str]:
        """For people, as cells of a table."""
        told = (f"…{self.before}", self.token, self.ours, self.theirs)
        return [task, f"{self.piece}:{self.position}", f"{self.kl:#.3g}", *(_shown(text) for text in told)]


def _shown(text: str) -> str:
    return text.replace("\n", "⏎").replace("\r", "⏎").replace("\t", "⇥")
