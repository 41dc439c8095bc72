"""Imported recipes of several sources as one file: those that others are made of first, each named as the others name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from merge_assets.importing.edits import Edits
from merge_assets.importing.mending import Imported, name_line, sound_recipes
from merge_assets.importing.mentions import write_reference
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import parse_documents


@dataclass(frozen=True)
class Ancestor:
    """The config of one model of a lineage.

    Attributes:
        model: as its descendants name it.
        imported: its config.
        origin: where that was found, in words.
        name: of its last recipe.
    """

    model: ModelReference
    imported: Imported
    origin: str
    name: str


def as_one(found: Imported, name: str, ancestors: Sequence[Ancestor], file: Path) -> Imported:
    """A config and those of its ancestors as one file of several documents.

    Args:
        found: the config.
        name: of its last recipe.
        ancestors: each behind those that it is made of.
        file: named in errors.

    Raises:
        RecipeError: if two recipes have one name.
    """
    names: dict[ModelReference, str] = {}
    texts: list[str] = []
    for one in ancestors:  # each names only those before it, so that there are no circles
        texts.append(f"# {one.origin}\n{_linked(one.imported, one.name, names, file)}")
        names[one.model] = one.name
    whole = "---\n".join([*texts, _linked(found, name, names, file)])
    everything = [*(ancestor.imported for ancestor in ancestors), found]
    return replace(
        found,
        text=whole,
        recipes=sound_recipes(whole, file, name),
        repairs=tuple(dict.fromkeys(repair for one in everything for repair in one.repairs)),
        choices=_of_each(ancestors, "choices") + found.choices,
        notices=_of_each(ancestors, "notices") + found.notices,
        unread=_of_each(ancestors, "unread") + found.unread,
        dropped=tuple(dict.fromkeys(key for one in everything for key in one.dropped)),
    )


def _of_each(ancestors: Sequence[Ancestor], what: str) -> tuple[str, ...]:
    return tuple(f"{one.model}: {said}" for one in ancestors for said in getattr(one.imported, what))


def _linked(imported: Imported, name: str, names: Mapping[ModelReference, str], file: Path) -> str:
    """The text of a config with the names of recipes where it names models that are imported, too."""
    edits = Edits(imported.text)

    def by_name(reference: ModelReference) -> ModelReference:
        known = names.get(reference.model)
        return reference if known is None else ModelReference(known, lora=reference.lora)

    documents = parse_documents(imported.text, file)
    for document, recipe in zip(documents, imported.recipes, strict=True):
        for key, reference in recipe.mentions():
            if by_name(reference) != reference:
                write_reference(edits, document, key, by_name)
    text = edits.done()
    return text if "name" in documents[-1].data else f"{name_line(name)}\n{text}"
