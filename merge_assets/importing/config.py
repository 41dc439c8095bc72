"""A merge config found in a model card, a web page or any text -> the text of a recipe file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from merge_assets.errors import NoConfigError, RecipeError
from merge_assets.importing.blocks import documents_of, find_blocks, outside
from merge_assets.importing.chains import final_step, joined, linked, with_own_names
from merge_assets.importing.cleaning import HIDDEN_PASSWORD, without_passwords, without_table
from merge_assets.importing.embedded import notebook_text
from merge_assets.importing.fences import Block
from merge_assets.importing.indentation import MethodParameters
from merge_assets.importing.labels import CardStep, with_surroundings
from merge_assets.importing.mending import Imported, mended, name_line, sound_recipes
from merge_assets.importing.operations import without_operations
from merge_assets.importing.suggestions import suggestion
from merge_assets.recipe.load import BrokenRecipe, read_recipes

_NAME_LINE = re.compile(r"^name[ \t]*:.*$", re.MULTILINE)
_MOST_CUTS = 200
"""Pieces that cannot be read and are looked into for pieces that can."""
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

    Of several configs that are whole, those that are made of each other become one file (see
    :mod:`merge_assets.importing.chains`); otherwise the last one is taken, which model cards show last. What the author's
    operation needs (see :mod:`merge_assets.importing.operations`) is left out, and passwords in addresses are never read.

    Args:
        text: Markdown, HTML, YAML, a Jupyter notebook or plain text.
        file: where it comes from; named in errors, need not exist.
        name: the recipe's name, if the config has none.
        parameters: of the methods; tells whose ``parameters`` are whose where the indentation is lost.
        pick: take this one of several configs, from 1, with those that it is made of.
        keep: operational keys that stay.

    Raises:
        RecipeError: there is none, or the one that is meant cannot be mended.
    """
    text = notebook_text(text) or text
    text = without_table(without_passwords(text.replace("\r\n", "\n").replace("\r", "\n")))
    known = {parameter for of_method in (parameters or {}).values() for parameter in of_method}
    groups = find_blocks(text, known)
    if not groups:
        raise NoConfigError(_nothing(text, name), file=file)
    errors: list[tuple[bool, RecipeError]] = []
    for group in groups:
        everything = sorted([*group, *outside(text, group, known)], key=lambda block: block.line)
        steps, wrong = _steps(everything, file, name, parameters or {})
        # A mention in a sentence is less likely what was meant than something of several lines.
        errors += [("\n" in steps[place].block.text.strip(), wrong[place]) for place in sorted(wrong, reverse=True)]
        if any(step.imported for step in steps):
            if pick is not None and not 1 <= pick <= len(steps):
                raise RecipeError(f"has {len(steps)} configs, so there is no number {pick}", file=file)
            if pick is not None and pick - 1 in wrong:
                raise wrong[pick - 1]
            return _own(_chosen(with_surroundings(steps, text), wrong, file, name, pick), file, name, keep)
    raise next((error for several_lines, error in errors if several_lines), errors[0][1])


def _steps(
    group: Sequence[Block], file: Path, name: str, parameters: MethodParameters
) -> tuple[list[CardStep], dict[int, RecipeError]]:
    """The configs of some blocks, and why those that cannot be read cannot; several in one block are read one by one where they
    cannot be read as one."""
    steps: list[CardStep] = []
    wrong: dict[int, RecipeError] = {}
    cuts = _MOST_CUTS
    for block in group:
        pieces = [block]
        while pieces:
            piece = pieces.pop(0)
            try:
                steps.append(with_own_names(CardStep(piece, mended(piece, file, name, parameters)), file, name))
            except RecipeError as error:
                cuts -= 1
                if cuts > 0 and (inside := documents_of(piece)) != [piece]:
                    pieces = [*inside, *pieces]
                    continue
                wrong[len(steps)] = error
                steps.append(CardStep(piece, None))
    return steps, wrong


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


def _nothing(text: str, name: str) -> str:
    if _EXPERTS.search(text):
        return "this is a config for mergekit-moe (experts: …), which builds a mixture of experts; only merges are read"
    if described := suggestion(text, name):
        return f"no merge config was found; {described}"
    return (
        "no merge config was found: nothing in it, in code blocks or outside, has the key merge_method; "
        "copy the config alone into a file and import that"
    )


def _chosen(
    steps: Sequence[CardStep], wrong: Mapping[int, RecipeError], file: Path, name: str, pick: int | None
) -> Imported:
    """One of several configs with those that it is made of, and what of the others is not in it."""
    chain = linked(steps)
    final = final_step(steps, chain, name) if pick is None else pick - 1
    used = chain.behind(final)
    found = steps[final].imported
    assert found is not None
    count = len(steps)
    apart: list[str] = []
    if len(used) > 1:
        try:
            found = joined(steps, chain, final, name, file)
        except RecipeError as error:
            apart = [f"the configs that it is made of do not go together: {_reason(error)}"]
            used = [final]
    if len(used) > 1:
        many = "all" if len(used) == count else f"{len(used)} of"
        place = f"{many} {count} configs, which are made of each other"
    elif count == 1:
        place = found.place
    elif len(wrong) == count - 1:
        place = f"{found.place}, the only whole one of {count}"
    else:
        which = "the last" if final == count - 1 else f"number {final + 1}"
        place = f"{found.place}, {which} of {count}; --pick takes another"
    left = [steps[other].block.line for other in range(count) if other not in used and other not in wrong]
    if len(used) > 1 and left:
        place += f"; of others at line{'s'[: len(left) != 1]} {', '.join(map(str, left))}, --pick takes one"
    unread = tuple(f"the config at line {steps[other].block.line}: {_reason(error)}" for other, error in wrong.items())
    unresolved = (said for one in used for said in chain.open.get(one, ()))
    return replace(found, place=place, unread=(*unread, *apart, *unresolved))


def _reason(error: RecipeError) -> str:
    return f"{error.key}: {error.message}" if error.key else error.message
