"""The schema of the two templates, which :mod:`merge_assets.recipe.templates` expands."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, StrictInt, field_validator, model_validator

from merge_assets.recipe.fields import RecipeMapping, Reference
from merge_assets.recipe.parameters import Misfit, shown

_UNSHOWN = re.compile(r"[^A-Za-z0-9]+")


class DepthUpscale(RecipeMapping):
    """Depth up-scaling: two copies of a model's layers, one after the other or interlocked."""

    model: Reference = Field(description="the checkpoint whose layers are doubled")
    overlap: StrictInt = Field(ge=0, description="layers cut from the end of copy A and from the start of copy B")
    block: StrictInt | None = Field(
        default=None, ge=1, description="interlock in blocks of so many layers; left out: A then B"
    )


class Lowest(RecipeMapping):
    """The layers with the lowest values of the metric."""

    lowest: StrictInt = Field(ge=1, description="how many")


class Protect(RecipeMapping):
    """Layers that are never removed."""

    first: StrictInt = Field(default=0, ge=0, description="layers at the start that stay")
    last: StrictInt = Field(default=0, ge=0, description="layers at the end that stay")


ImportanceKind = Literal["activations", "perplexity"]
"""Analyses that run a model on a text: one pass for block influence and angular distances; one with every layer left out."""


class TextSample(RecipeMapping):
    """The text that a model is run on."""

    file: str = Field(min_length=1, description="plain text in UTF-8; relative to the project's folder")
    tokens: StrictInt = Field(default=16384, ge=2, description="tokens that are used, from the beginning of the text")
    length: StrictInt | None = Field(
        default=None, ge=2, description="tokens of a piece; left out: 512, or what the model has positions for if less"
    )
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        default="float32", description="dtype of weights and hidden states"
    )

    @property
    def label(self) -> str:
        """A short name that no other text or settings have: the file's stem and a digest."""
        digest = hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()
        return f"{_UNSHOWN.sub('_', PurePath(self.file).stem)[:40] or 'text'}-{digest[:8]}"


Metric = Literal["snr", "margin", "block_influence", "angular_distance", "perplexity", "reverse_order", "list"]
_OF_TEXT: Mapping[str, ImportanceKind] = {
    "block_influence": "activations",
    "angular_distance": "activations",
    "perplexity": "perplexity",
}


class PruneLayers(RecipeMapping):
    """A model without the layers that an analysis picks."""

    model: Reference = Field(description="the checkpoint whose layers are removed")
    by: Metric = Field(description="the metric, or `list` for layers named one by one")
    tensor: str | None = Field(
        default=None, min_length=1, description="module the metric is taken of, for `snr` and `margin`"
    )
    text: TextSample | None = Field(
        default=None,
        description="text that the model is run on, for `block_influence`, `angular_distance` and `perplexity`: a file, or "
        "a mapping",
    )
    remove: Literal["infinite"] | int | Lowest | tuple[int, ...] = Field(
        description="`infinite`: layers of infinite SNR; a number of layers; `{lowest: n}`; layer numbers"
    )
    at_most: StrictInt | None = Field(default=None, ge=1, description="upper limit for `remove: infinite`")
    protect: Protect = Field(default=Protect(), description="layers that stay whatever the metric says")

    @property
    def is_measured(self) -> bool:
        """Whether the layers are chosen by an analysis of the model."""
        return self.tensor is not None or self.importance is not None

    @property
    def importance(self) -> ImportanceKind | None:
        """The analysis that runs the model on a text; ``None`` if none does."""
        return _OF_TEXT.get(self.by)

    @field_validator("text", mode="before")
    @classmethod
    def _read_text(cls, raw: Any) -> Any:
        return {"file": raw} if isinstance(raw, str) else raw

    @model_validator(mode="before")
    @classmethod
    def _read_remove(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "remove" not in raw:
            return raw
        remove = raw["remove"]
        if isinstance(remove, dict):
            extra = [key for key in remove if key != "lowest"]
            number = remove.get("lowest")
            if extra or not _is_count(number, 1):
                raise Misfit("write {lowest: N} with N of 1 or more", ("remove", *extra[:1]))
            return {**raw, "remove": Lowest(lowest=number)}
        if isinstance(remove, (list, tuple)):
            if not remove or not all(_is_count(layer, 0) for layer in remove) or len(set(remove)) != len(remove):
                raise Misfit("a list names layers by number, each once, at least one", ("remove",))
            return {**raw, "remove": tuple(remove)}
        if remove != "infinite" and not _is_count(remove, 1):
            raise Misfit(
                f"{shown(remove)} is neither infinite, nor a number of layers, nor {{lowest: N}}, nor a list",
                ("remove",),
            )
        return raw

    @model_validator(mode="after")
    def _fits_metric(self) -> PruneLayers:
        of_weights = self.by in ("snr", "margin")
        if of_weights and self.tensor is None:
            raise Misfit(f"by: {self.by} needs the module it is taken of, such as self_attn.v_proj", ("tensor",))
        if not of_weights and self.tensor is not None:
            raise Misfit(f"by: {self.by} is not taken of one tensor; leave it out", ("tensor",))
        if self.importance is not None and self.text is None:
            raise Misfit(f"by: {self.by} needs a text to run the model on; name a file of plain text", ("text",))
        if self.importance is None and self.text is not None:
            raise Misfit(f"by: {self.by} runs no model on a text; leave it out", ("text",))
        if isinstance(self.remove, tuple) != (self.by == "list"):
            raise Misfit("layer numbers and by: list go together", ("remove",))
        if self.remove == "infinite" and not of_weights:
            raise Misfit(f"infinite is for by: snr and by: margin, not for {self.by}", ("remove",))
        if self.at_most is not None and self.remove != "infinite":
            raise Misfit("limits only remove: infinite; leave it out", ("at_most",))
        return self


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
