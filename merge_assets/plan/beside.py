"""Files beside the weights of a variant: copied, made, or left behind."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from merge_assets.checkpoint import Checkpoint
from merge_assets.checkpoint.files import CONFIG

_OF_THE_MODEL = frozenset({CONFIG, "README.md", "plan.json", "recipe.yaml", "mergekit_config.yml"})
"""What a variant has of its own."""


@dataclass(frozen=True)
class CarriedFile:
    """A file copied beside the weights: tokenizer, chat template, generation config.

    Attributes:
        model: index into :attr:`Plan.models`, never of a folded recipe.
        file: name relative to the model's directory.
        size: bytes.
        digest: content digest, if it is known.
    """

    model: int
    file: str
    size: int
    digest: str | None


@dataclass(frozen=True)
class WrittenFile:
    """A file beside the weights that is made, not copied: a tokenizer with more tokens, another chat template.

    Attributes:
        file: name.
        text: content; not part of the plan's JSON.
        digest: SHA-256 of its UTF-8 bytes.
    """

    file: str
    text: str
    digest: str


def left_behind(checkpoint: Checkpoint, kept: Collection[str]) -> tuple[str, ...]:
    """Files of the donor that a variant does not have, sorted; without those that describe the donor alone.

    Args:
        checkpoint: the donor.
        kept: the files that are carried or made.
    """
    own = {*_OF_THE_MODEL, *checkpoint.weight_files, *kept}
    return tuple(
        sorted(
            name
            for name in checkpoint.files
            if name not in own and not name.startswith(".") and ".safetensors.index." not in name
        )
    )
