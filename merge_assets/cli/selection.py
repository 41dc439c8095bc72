"""Selections on the command line: the same words in every command that takes several recipes or models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from merge_assets.reference import ModelReference
    from merge_assets.workspace import Workspace

WORDS = (
    "names of recipes, sweeps, patterns ('attention-*'), tag:KEY, tag:KEY=VALUE, group:NAME; with + behind it (mean+), also "
    "all that is made of it"
)
SelectionArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[SELECTION]...", help=f"What is meant: {WORDS}.")
]
SelectOption = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="SELECTION", help="The same as the argument; may be given several times."),
]


def together(argument: Sequence[str] | None, option: Sequence[str] | None) -> list[str]:
    """The words of the argument and of the option that means the same."""
    return [*(argument or ()), *(option or ())]


def models_meant(workspace: Workspace, words: Sequence[str]) -> list[ModelReference]:
    """The models that words mean: the variants of recipes, or what stands there.

    Raises:
        RecipeError: no recipe is meant by a selection.
        CheckpointError: a word is neither a selection nor a model reference.
    """
    from merge_assets.recipe.choosing import choose, is_selection

    found: dict[ModelReference, None] = {}
    for word in words:
        is_place = "://" in word or Path(word).exists()
        names = choose(workspace.book, [word]) if not is_place and is_selection(workspace.book, word) else [word]
        found |= dict.fromkeys(map(parse_reference, names))
    return list(found)


def model_meant(workspace: Workspace, word: str) -> ModelReference:
    """The one model that a word means.

    Raises:
        RecipeError: several are meant, or none.
        CheckpointError: as :func:`models_meant`.
    """
    from merge_assets.errors import RecipeError
    from merge_assets.recipe.choosing import several

    models = models_meant(workspace, [word])
    if len(models) > 1:
        raise RecipeError(several(word, "recipes", list(map(str, models))))
    return models[0]


def parse_reference(text: str) -> ModelReference:
    """A model reference from the command line.

    Raises:
        CheckpointError: if it is not of the grammar.
    """
    from merge_assets.errors import CheckpointError
    from merge_assets.reference import ModelReference

    try:
        return ModelReference.parse(text)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
