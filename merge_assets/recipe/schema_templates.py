"""The schema of the two templates, which :mod:`merge_assets.recipe.templates` expands."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictInt, model_validator

from merge_assets.recipe.fields import RecipeMapping, Reference
from merge_assets.recipe.parameters import Misfit, shown


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


Metric = Literal["snr", "margin", "block_influence", "angular_distance", "reverse_order", "list"]
UNBUILT_METRICS = ("block_influence", "angular_distance")
"""Metrics that nothing computes yet; see :mod:`merge_assets.recipe.unbuilt`."""


class PruneLayers(RecipeMapping):
    """A model without the layers that an analysis picks."""

    model: Reference = Field(description="the checkpoint whose layers are removed")
    by: Metric = Field(
        description="the metric, or `list` for layers named one by one; `block_influence` and `angular_distance` are not "
        "built yet: an error of the plan"
    )
    tensor: str | None = Field(
        default=None, min_length=1, description="module the metric is taken of, for `snr` and `margin`"
    )
    remove: Literal["infinite"] | int | Lowest | tuple[int, ...] = Field(
        description="`infinite`: layers of infinite SNR; a number of layers; `{lowest: n}`; layer numbers"
    )
    at_most: StrictInt | None = Field(default=None, ge=1, description="upper limit for `remove: infinite`")
    protect: Protect = Field(default=Protect(), description="layers that stay whatever the metric says")

    @property
    def is_measured(self) -> bool:
        """Whether the layers are chosen by an analysis of the model's weights."""
        return self.by in ("snr", "margin")

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
        if self.is_measured and self.tensor is None:
            raise Misfit(f"by: {self.by} needs the module it is taken of, such as self_attn.v_proj", ("tensor",))
        if not self.is_measured and self.tensor is not None:
            raise Misfit(f"by: {self.by} is not taken of one tensor; leave it out", ("tensor",))
        if isinstance(self.remove, tuple) != (self.by == "list"):
            raise Misfit("layer numbers and by: list go together", ("remove",))
        if self.remove == "infinite" and not self.is_measured:
            raise Misfit(f"infinite is for by: snr and by: margin, not for {self.by}", ("remove",))
        if self.at_most is not None and self.remove != "infinite":
            raise Misfit("limits only remove: infinite; leave it out", ("at_most",))
        return self


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
