"""Models that lie on the author's machine: other places are written for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from merge_assets.errors import RecipeError
from merge_assets.importing.edits import Edits
from merge_assets.importing.mending import Imported, sound_recipes
from merge_assets.importing.mentions import write_reference
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import parse_documents

_SIGNS = "/\\"


def with_models_replaced(imported: Imported, file: Path, name: str, replaced: Mapping[str, str]) -> Imported:
    """The same with other models where those of the author's machine stand.

    Args:
        imported: recipes.
        file: named in errors.
        name: of a recipe that has none.
        replaced: a model as it is written, or the folder that it lies in -> what is written instead.

    Raises:
        RecipeError: if a recipe names no such model, or what is written instead is no model.
    """
    used: set[str] = set()

    def other(reference: ModelReference) -> ModelReference:
        lora = other(reference.lora) if reference.lora else None
        for old, new in replaced.items():
            rest = reference.path.removeprefix(old)
            if reference.path == old:
                used.add(old)
                return replace(_parsed(new), lora=lora)
            if rest != reference.path and (rest[0] in _SIGNS or old[-1] in _SIGNS):
                used.add(old)
                inside = rest.strip(_SIGNS).replace(_SIGNS[1], "/")
                return ModelReference(f"{new.rstrip(_SIGNS)}/{inside}", reference.revision, lora)
        return replace(reference, lora=lora)

    edits = Edits(imported.text)
    for document, recipe in zip(parse_documents(imported.text, file), imported.recipes, strict=True):
        for key, reference in recipe.mentions():
            if other(reference) != reference:
                write_reference(edits, document, key, other)
    if unused := [old for old in replaced if old not in used]:
        raise RecipeError(f"--replace {unused[0]}=…: the config names no such model or folder", file=file)
    text = edits.done()
    return replace(imported, text=text, recipes=sound_recipes(text, file, name))


def _parsed(text: str) -> ModelReference:
    try:
        return ModelReference.parse(text)
    except ValueError as error:
        raise RecipeError(f"--replace: {error}") from None
