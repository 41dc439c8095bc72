"""The schema of the template ``average_checkpoints``, which :mod:`merge_assets.recipe.averaging` writes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StrictInt, field_validator, model_validator

from merge_assets.recipe.fields import Filled, RecipeMapping, Reference
from merge_assets.recipe.parameters import Misfit, shown
from merge_assets.reference import ModelReference

Curve = Literal["constant", "linear", "cosine"]
_CURVES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class CheckpointListing:
    """The checkpoints that a folder of a training run was found to hold.

    Attributes:
        folder: as the recipe writes it.
        last: how many the recipe takes; ``None`` is all.
        checkpoints: those that are complete, of the last so many, oldest first.
        left_out: those that are not complete and would be among them, each with why, in a sentence.
        problem: why there is nothing to average; ``None`` if there is.
        key: of the template, that says what is wrong.
    """

    folder: str
    last: int | None
    checkpoints: tuple[ModelReference, ...] = ()
    left_out: tuple[str, ...] = ()
    problem: str | None = None
    key: str = "folder"


class Exponential(RecipeMapping):
    """A decay curve that falls by the same factor from each checkpoint to the next."""

    exponential: float = Field(description="the factor, more than 0 and less than 1")


class AverageCheckpoints(RecipeMapping):
    """The weighted mean of checkpoints of one training run."""

    folder: str | None = Field(
        default=None,
        min_length=1,
        description="folder of the training run, in which `checkpoint-100`, `checkpoint-200`, … appear; relative to the "
        "project's folder",
    )
    models: Annotated[tuple[Reference, ...] | None, Filled] = Field(
        default=None, description="the checkpoints one by one, oldest first; not both"
    )
    last: StrictInt | None = Field(default=None, ge=2, description="how many of them, the last; left out: all")
    decay: Curve | Exponential = Field(
        default="constant",
        description="`constant`: the mean; else the decay of the learning rate that the weights stand for",
    )

    _listing: CheckpointListing | None = PrivateAttr(default=None)

    @property
    def listing(self) -> CheckpointListing | None:
        """What ``folder`` was found to hold, of which ``models`` are then; ``None`` before anybody has looked."""
        return self._listing

    def listed(self, listing: CheckpointListing) -> AverageCheckpoints:
        """The template with the checkpoints that its folder holds."""
        found = self.model_copy(update={"models": None if listing.problem else listing.checkpoints})
        found._listing = listing
        return found

    def mentions(self) -> Iterator[tuple[str, ModelReference]]:
        """The checkpoints that are taken, oldest first, each with its key path; none before the folder was looked into."""
        models = self.models or ()
        begin = 0 if self.last is None else len(models) - self.last
        for number, model in enumerate(models):
            if number >= begin:
                where = "folder" if self.folder is not None else f"models[{number}]"
                yield f"average_checkpoints.{where}", model

    def check_around(self, method: str, parameters: Mapping[str, Any]) -> None:
        """Check what the recipe says beside the template.

        Raises:
            Misfit: another method than ``linear``, or parameters.
        """
        if method != "linear":
            raise Misfit(
                f"average_checkpoints is a weighted mean, so write merge_method: linear, not {method}",
                ("merge_method",),
            )
        if parameters:
            raise Misfit(
                "average_checkpoints gives the weights itself; leave parameters out, or list the models with their "
                "weights under models",
                ("parameters",),
            )

    @field_validator("decay", mode="before")
    @classmethod
    def _read_decay(cls, raw: Any) -> Any:
        if isinstance(raw, dict):
            extra = [key for key in raw if key != "exponential"]
            rate = raw.get("exponential")
            if extra or isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
                raise Misfit("write {exponential: R} with R more than 0 and less than 1", tuple(extra[:1]))
            return Exponential(exponential=rate)
        if raw == "exponential":
            raise Misfit("exponential needs its factor; write {exponential: 0.9} or another one below 1")
        if not isinstance(raw, Exponential) and raw not in _CURVES:
            raise Misfit(f"{shown(raw)} is none of {', '.join(_CURVES)} and {{exponential: R}}")
        return raw

    @field_validator("folder")
    @classmethod
    def _is_path(cls, folder: str | None) -> str | None:
        if folder is None:
            return None
        if "://" in folder:
            raise ValueError(
                f"{shown(folder)} is a URL; only folders of this machine are listed, so name the models one by one"
            )
        reference = ModelReference(f"{folder}/checkpoint-1")
        try:
            is_path = ModelReference.parse(str(reference)) == reference
        except ValueError:
            is_path = False
        if not is_path:
            raise ValueError(f"{shown(folder)} cannot be the path of a folder of models")
        return folder

    @model_validator(mode="after")
    def _one_source(self) -> AverageCheckpoints:
        if (self.folder is None) == (self.models is None):
            raise Misfit("write one of folder and models, and not both")
        if self.models is None:
            return self
        twice = next((n for n, model in enumerate(self.models) if model in self.models[:n]), None)
        if twice is not None:
            raise Misfit(f"{self.models[twice]} is listed twice", ("models", twice))
        if len(self.models) < 2:
            raise Misfit("lists one checkpoint; an average takes two or more", ("models",))
        if self.last is not None and self.last > len(self.models):
            raise Misfit(f"takes more than the {len(self.models)} checkpoints that are listed", ("last",))
        return self
