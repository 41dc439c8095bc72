"""What a model reference turned out to be, and the store lines that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from merge_assets.reference import ModelKind, ModelReference


@dataclass(frozen=True)
class ModelIdentity:
    """What a model reference turned out to be.

    Attributes:
        kind: what it is.
        parts: path of the model in asset keys and store lines.
        title: name for people.
        reference: as written.
    """

    kind: ModelKind
    parts: tuple[str, ...]
    title: str
    reference: ModelReference

    @property
    def slug(self) -> str:
        return "/".join(self.parts)


def checkpoint_line(reference: ModelReference) -> str:
    """Store line of a Hub model's mirrors."""
    return f"checkpoints/{reference.path}"


def variant_line(name: str) -> str:
    """Store line of a recipe's variants."""
    return f"variants/{name}"


def search_line(name: str) -> str:
    """Store line of what a search found; under the name of its study, of the leases by which workers share its trials."""
    return f"searches/{name}"


def analysis_line(model: ModelIdentity) -> str:
    """Store line of a model's analyses."""
    return f"analyses/{model.slug}"


def importance_line(model: ModelIdentity, kind: str, text: str) -> str:
    """Store line of what a model's layers are worth on one text.

    Args:
        model: the model.
        kind: of the analysis.
        text: label of the text and its settings.
    """
    return f"importance/{model.slug}/{kind}-{text}"


def scores_line(model: ModelIdentity, suite: str) -> str:
    """Store line of a model's scores on one suite."""
    return f"scores/{model.slug}/{suite}"
