"""Model references: the strings by which recipes name checkpoints.

Grammar (``recipes.md``): ``PATH[@REVISION][+LORA[@REVISION]]``, where PATH is ``org/name`` on the Hub, a
local path, an fsspec URL, or the name of another recipe. Which of these a PATH is depends on what exists;
that is decided by whoever opens the reference, not here. ``+`` and ``@`` that belong to a PATH are written ``%2B`` and ``%40``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["recipe", "local", "hub", "url"]
"""What a model may be: another recipe's variant, a folder, a repository on the Hub, or a folder at a URL."""

_HUB_ID = re.compile(r"(?=.{1,96}\Z)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEAD = re.compile(r"(?!.*[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff])[^@+\s][^@+]*(@[^@+\s]+)?", re.DOTALL)
_SPECIAL = re.compile(r"[+@]|%(?=2B|40|25)")
_ESCAPED = re.compile("%(2B|40|25)")
_LONGEST = 4096


@dataclass(frozen=True, order=True)
class ModelReference:
    """Where a checkpoint comes from.

    Attributes:
        path: Hub id, local path, fsspec URL or recipe name.
        revision: Hub branch, tag or commit; ``None`` is the default branch.
        lora: adapter to apply, a reference without an adapter of its own.
    """

    path: str
    revision: str | None = None
    lora: ModelReference | None = None

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read a reference string.

        Raises:
            ValueError: if the text is not of the grammar.
        """
        base, plus, adapter = text.strip().partition("+")
        return cls(*_split(base, text), lora=cls(*_split(adapter, text)) if plus else None)

    @property
    def model(self) -> ModelReference:
        """The model without the adapter."""
        return ModelReference(self.path, self.revision)

    @property
    def parts(self) -> tuple[ModelReference, ...]:
        """The model and, if there is one, the adapter."""
        return (self.model,) if self.lora is None else (self.model, self.lora)

    @property
    def looks_like_hub_id(self) -> bool:
        """True for ``org/name``, which is also a legal relative path."""
        return _HUB_ID.fullmatch(self.path) is not None

    @property
    def is_commit(self) -> bool:
        """True if the revision is a full commit id, which names the same bytes for ever."""
        return _COMMIT.fullmatch(self.revision or "") is not None

    @property
    def has_own_signs(self) -> bool:
        """Whether a path is written otherwise in text than it is, for a ``+`` or ``@`` of its own."""
        return _SPECIAL.search(self.path) is not None or (self.lora is not None and self.lora.has_own_signs)

    @property
    def is_url(self) -> bool:
        return "://" in self.path

    def __str__(self) -> str:
        path = _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", self.path)
        own = f"{path}@{self.revision}" if self.revision else path
        return f"{own}+{self.lora}" if self.lora else own


def _split(part: str, whole: str) -> tuple[str, str | None]:
    if len(whole) > _LONGEST:
        raise ValueError(f"{whole[:40]!r}… has {len(whole)} characters, more than a path or a name on the Hub can have")
    if not _HEAD.fullmatch(part):
        raise ValueError(f"{whole!r} is not a model reference; write PATH[@REVISION][+LORA[@REVISION]]")
    path, _, revision = part.partition("@")
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), path), revision or None
