"""The parts of a checkpoint: encoder and decoder, or language model, vision tower and what joins them.

Names follow mergekit's ``modules:``: ``text_decoder``, ``vision_tower`` and ``multi_modal_projector``; ``encoder`` and
``decoder``. A checkpoint with one kind of layers has a single part, ``default``. Parts are told from tensor names alone:

- Every stack whose layer count the config holds is the body of a part, and so is the stack with most bytes, unless it is a
  further one of a tower. Neighbouring stacks that share a layer count (XLM's ``attentions.``, ``ffns.``) are one body.
- A tensor outside these bodies belongs to the part whose prefix shares most words with its name, a projector's to
  ``multi_modal_projector``, and all others (embeddings, heads) to the main part.

Every tensor of a checkpoint is in exactly one part. The main part is the language model or the decoder, even beside a larger
tower or encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from merge_assets.architecture.stacks import LayerStack
from merge_assets.architecture.towers import TOWERS, tower_of

DEFAULT_PART = "default"
TEXT_PART = "text_decoder"
PROJECTOR = "multi_modal_projector"
_CODERS = ("encoder", "decoder")
_MAIN = (TEXT_PART, "decoder")

_PROJECTOR = re.compile(
    r"projector|merger|connector|aligner|resampler|mm_projection|multi_modal|embed_(?:vision|audio)|text_hidden_fcs"
)


@dataclass(frozen=True)
class Part:
    """One part of a checkpoint.

    Attributes:
        name: as ``modules:`` of a recipe calls it.
        stacks: its layers; several stacks are cut alike. None for a part without layers.
        outside: names of its tensors outside the layers, in file order.
    """

    name: str
    stacks: tuple[LayerStack, ...]
    outside: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of layers."""
        return self.stacks[0].count if self.stacks else 0

    @property
    def is_beside(self) -> bool:
        """Whether a language model does without it: a tower, or what joins one to it."""
        return self.is_tower or self.name == PROJECTOR

    @property
    def coder(self) -> str | None:
        """What it would be called beside the other one, if its layers are those of an encoder or a decoder."""
        return _coder_of(self.stacks[0].prefix) if self.stacks else None

    @property
    def is_tower(self) -> bool:
        """Whether it sees or hears."""
        return self.name in TOWERS


def find_parts(names: Iterable[str], stacks: Sequence[LayerStack]) -> tuple[Part, ...]:
    """The parts of a checkpoint, the main one first.

    Args:
        names: all tensors, in file order.
        stacks: of the checkpoint, main one first.
    """
    bodies = _named(_bodies(stacks))
    outside: dict[str, list[str]] = {name: [] for name in bodies}
    home = next(iter(bodies), DEFAULT_PART)
    own = [stack for body in bodies.values() for stack in body]
    towers = any(name in bodies for name in TOWERS)
    for name in names:
        if any(stack.split(name) for stack in own):
            continue
        part = _part_of(name, bodies, home) if bodies else home
        if towers and _PROJECTOR.search(name):
            part = PROJECTOR
        outside.setdefault(part, []).append(name)
    return tuple(Part(name, tuple(bodies.get(name, ())), tuple(found)) for name, found in outside.items())


def _bodies(stacks: Sequence[LayerStack]) -> list[list[LayerStack]]:
    """Stacks that are layers of a part, those cut alike together."""
    bodies: list[list[LayerStack]] = []
    counted = any(stack.config_key is not None for stack in stacks)
    for number, stack in enumerate(stacks):
        if stack.config_key is None and (number > 0 or (counted and tower_of(stack.prefix))):
            continue
        beside = next((body for body in bodies if _cut_alike(body[0], stack)), None)
        if beside is not None:
            beside.append(stack)
        else:
            bodies.append([stack])
    return bodies


def _cut_alike(one: LayerStack, other: LayerStack) -> bool:
    parents = {stack.prefix.removesuffix(".").rpartition(".")[0] for stack in (one, other)}
    return len(parents) == 1 and one.config_key == other.config_key


def _named(bodies: list[list[LayerStack]]) -> dict[str, list[LayerStack]]:
    """Bodies by part name. A second body of the same name (two vision towers) counts as outside of the first."""
    found: dict[str, list[LayerStack]] = {}
    text = [body for body in bodies if tower_of(body[0].prefix) is None]
    for body in bodies:
        prefix = body[0].prefix
        name = tower_of(prefix)
        if name is None:
            coder = _coder_of(prefix)
            name = coder if coder is not None and len(text) > 1 else "text_decoder"
        found.setdefault(name, body)
    if len(found) <= 1:
        return {DEFAULT_PART: bodies[0]} if bodies else {}
    return dict(sorted(found.items(), key=lambda item: item[0] not in _MAIN))


def _coder_of(prefix: str) -> str | None:
    return next((word for word in _CODERS if word in prefix), None)


def _part_of(name: str, bodies: dict[str, list[LayerStack]], home: str) -> str:
    """The part of a tensor outside the bodies: by the words of a tower, else by the longest shared start of names."""
    tower = tower_of(name)
    if tower in bodies and tower is not None:
        return tower
    shared = {part: _shared(name, body[0].prefix) for part, body in bodies.items()}
    most = max(shared.values())
    nearest = [part for part, length in shared.items() if length == most]
    return nearest[0] if len(nearest) == 1 else home


def _shared(name: str, prefix: str) -> int:
    """How many words a name and a stack's prefix begin with alike."""
    words, stem = name.split("."), prefix.split(".")
    return max(length for length in range(len(stem)) if words[:length] == stem[:length])
