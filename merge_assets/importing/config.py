"""A merge config found in a model card, a web page or any text -> the text of a recipe file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from merge_assets.errors import RecipeError
from merge_assets.importing.blocks import find_blocks
from merge_assets.importing.cleaning import HIDDEN_PASSWORD, without_passwords, without_table
from merge_assets.importing.indentation import MethodParameters
from merge_assets.importing.mending import Imported, mended, name_line, sound_recipes
from merge_assets.importing.operations import without_operations
from merge_assets.recipe.load import BrokenRecipe, read_recipes

_NAME_LINE = re.compile(r"^name[ \t]*:.*$", re.MULTILINE)
_EXPERTS = re.compile(r"^[ \t>]*experts[ \t]*:", re.MULTILINE)


def import_text(
    text: str,
    file: Path,
    name: str,
    parameters: MethodParameters | None = None,
    pick: int | None = None,
    keep: Collection[str] = (),
) -> Imported:
    """Find the merge config in a text and mend it.

    Of several configs that are whole, those that refer to each other by name become one file; otherwise the last one is
    taken, which model cards show last. What the author's operation needs (see :mod:`merge_assets.importing.operations`) is left
    out, and passwords in addresses are never read.

    Args:
        text: Markdown, HTML, YAML or plain text.
        file: where it comes from; named in errors, need not exist.
        name: the recipe's name, if the config has none.
        parameters: of the methods; tells whose ``parameters`` are whose where the indentation is lost.
        pick: take this one of several configs, from 1.
        keep: operational keys that stay.

    Raises:
        RecipeError: there is none, or the one that is meant cannot be mended.
    """
    text = without_table(without_passwords(text.replace("\r\n", "\n").replace("\r", "\n")))
    known = {parameter for of_method in (parameters or {}).values() for parameter in of_method}
    groups = find_blocks(text, known)
    if not groups:
        raise RecipeError(_nothing(text), file=file)
    errors: list[tuple[bool, RecipeError]] = []
    for group in groups:
        if pick is not None:
            if not 1 <= pick <= len(group):
                raise RecipeError(f"has {len(group)} configs, so there is no number {pick}", file=file)
            group = [group[pick - 1]]
        whole: list[Imported] = []
        for block in reversed(group):
            try:
                whole.append(mended(block, file, name, parameters or {}))
            except RecipeError as error:
                errors.append(("\n" in block.text.strip(), error))
        if whole:
            return _own(_chosen(whole[::-1], file, name, len(group)), file, name, keep)
    # A mention in a sentence is less likely what was meant than something of several lines.
    raise next((error for several_lines, error in errors if several_lines), errors[0][1])


def _own(imported: Imported, file: Path, name: str, keep: Collection[str]) -> Imported:
    """What a recipe says of the merge, without what it says of its author's operation.

    Raises:
        RecipeError: if that cannot be left out.
    """
    if HIDDEN_PASSWORD in imported.text:
        imported = replace(imported, repairs=(*imported.repairs, "passwords in addresses, now asterisks"))
    text, dropped = without_operations(imported.text, file, keep)
    if not dropped:
        return imported
    return replace(imported, text=text, recipes=sound_recipes(text, file, name), dropped=dropped)


def renamed(imported: Imported, name: str, file: Path) -> Imported:
    """The same with another name.

    Raises:
        RecipeError: if it holds several recipes, or its ``name`` stands where it cannot be replaced.
    """
    if len(imported.recipes) > 1:
        names = ", ".join(recipe.name for recipe in imported.recipes)
        raise RecipeError(f"holds {len(imported.recipes)} recipes that have names already ({names})", file=file)
    line = name_line(name)
    text, count = _NAME_LINE.subn(lambda _: line, imported.text, count=1)
    text = text if count else f"{line}\n{imported.text}"
    entries = read_recipes(text, file, name)
    first = entries[0]
    if isinstance(first, BrokenRecipe) and first.error.key == "name":
        raise first.error
    if len(entries) != 1 or isinstance(first, BrokenRecipe) or first.name != name:
        raise RecipeError("its name cannot be set; write name: on a line of its own", file=file, key="name")
    return replace(imported, text=text, recipes=(first,))


def _nothing(text: str) -> str:
    if _EXPERTS.search(text):
        return "this is a config for mergekit-moe (experts: …), which builds a mixture of experts; only merges are read"
    return (
        "no merge config was found: nothing in it, in code blocks or outside, has the key merge_method; "
        "copy the config alone into a file and import that"
    )


def _chosen(whole: Sequence[Imported], file: Path, name: str, count: int) -> Imported:
    """One of several configs, or all of them if one is made of another."""
    last = whole[-1]
    if len(whole) == 1:
        return last if count == 1 else replace(last, place=f"{last.place}, the only whole one of {count}")
    names = [recipe.name for found in whole for recipe in found.recipes]
    used = {reference.path for found in whole for recipe in found.recipes for reference in recipe.references()}
    if len(set(names)) == len(names) and used & set(names):
        texts = [found.text if _has_name(found.text) else f"{name_line(name)}\n{found.text}" for found in whole]
        text = "---\n".join(texts)
        return Imported(
            text=text,
            recipes=sound_recipes(text, file, name),
            repairs=tuple(dict.fromkeys(repair for found in whole for repair in found.repairs)),
            choices=tuple(choice for found in whole for choice in found.choices),
            place=f"all {len(whole)} configs, which are made of each other",
        )
    return replace(last, place=f"{last.place}, the last of {count}; --pick takes another")


def _has_name(text: str) -> bool:
    return _NAME_LINE.search(text) is not None
