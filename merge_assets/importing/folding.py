"""Steps of a merge in several stages that need not be stored: they are folded into what is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from merge_assets.importing.edits import Edits
from merge_assets.importing.mending import Imported, sound_recipes
from merge_assets.recipe.schema import NEEDS_STORED, Recipe
from merge_assets.yamlfile import parse_documents


def folded(imported: Imported, file: Path, name: str) -> Imported:
    """The same with ``materialize: false`` in every recipe that another one of it is made of.

    Not where a recipe says itself whether it is stored, nor where it must be: what is published, evaluated or analysed.

    Raises:
        RecipeError: if the text is no recipe.
    """
    parts = (part for recipe in imported.recipes for model in recipe.references() for part in (model, model.lora))
    used = {part.path for part in parts if part is not None}
    analysed = {recipe.prune_layers.model.path for recipe in imported.recipes if recipe.prune_layers is not None}
    edits = Edits(imported.text)
    documents = parse_documents(imported.text, file)
    for document, recipe in zip(documents, imported.recipes, strict=True):
        if recipe.name in used - analysed and "materialize" not in document.data and not _needs_a_store(recipe):
            edits.add((document.index, ()), "materialize", value=False)
    text = edits.done()
    if text == imported.text:
        return imported
    return replace(imported, text=text, recipes=sound_recipes(text, file, name))


def _needs_a_store(recipe: Recipe) -> bool:
    by_analysis = recipe.prune_layers is not None and recipe.prune_layers.is_measured
    return by_analysis or any(getattr(recipe, key) for key in NEEDS_STORED)
