"""A merge config found in a model card, a web page or any text -> the text of a recipe file."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from merge_assets.errors import RecipeError
from merge_assets.importing.blocks import Block, find_blocks
from merge_assets.importing.cleaning import HIDDEN_PASSWORD, clean, without_passwords, without_table
from merge_assets.importing.indentation import MethodParameters, Reading, readings
from merge_assets.importing.operations import without_operations
from merge_assets.importing.shapes import recipe_shape
from merge_assets.recipe.load import BrokenRecipe, read_recipes
from merge_assets.recipe.problems import LATER
from merge_assets.recipe.schema import Recipe
from merge_assets.yamlfile import is_free, parse_documents

_SEPARATOR = re.compile(r"---[ \t]*(?:#.*)?")
_HEAD = re.compile(r"\A((?:[ \t]*(?:#.*)?\n)*)---[ \t]*(?=\n)")
_NAME_LINE = re.compile(r"^name[ \t]*:.*$", re.MULTILINE)
_EXPERTS = re.compile(r"^[ \t>]*experts[ \t]*:", re.MULTILINE)
_MOST_READINGS = 100
_SLIP = 0.75
"""How alike a key and a known one are if it is a slip of the pen, 0 to 1."""
_PROSE: Any = {"description", "chat_template"}


@dataclass(frozen=True)
class Imported:
    """A merge config that was found and reads as a recipe.

    Attributes:
        text: YAML of the recipe, or of several that refer to each other, one document each.
        recipes: what it reads as.
        repairs: what was mended, in words; empty if the config was sound.
        choices: lines whose place was not certain, one sentence each.
        dropped: operational keys that were left out.
        place: where in the source it was found, in words.
    """

    text: str
    recipes: tuple[Recipe, ...]
    repairs: tuple[str, ...]
    choices: tuple[str, ...]
    place: str
    dropped: tuple[str, ...] = ()


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
                whole.append(_mended(block, file, name, parameters or {}))
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
    return replace(imported, text=text, recipes=_sound(read_recipes(text, file, name)), dropped=dropped)


def renamed(imported: Imported, name: str, file: Path) -> Imported:
    """The same with another name.

    Raises:
        RecipeError: if it holds several recipes, or its ``name`` stands where it cannot be replaced.
    """
    if len(imported.recipes) > 1:
        names = ", ".join(recipe.name for recipe in imported.recipes)
        raise RecipeError(f"holds {len(imported.recipes)} recipes that have names already ({names})", file=file)
    line = _name_line(name)
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
        texts = [found.text if _has_name(found.text) else f"{_name_line(name)}\n{found.text}" for found in whole]
        text = "---\n".join(texts)
        return Imported(
            text=text,
            recipes=_sound(read_recipes(text, file, name)),
            repairs=tuple(dict.fromkeys(repair for found in whole for repair in found.repairs)),
            choices=tuple(choice for found in whole for choice in found.choices),
            place=f"all {len(whole)} configs, which are made of each other",
        )
    return replace(last, place=f"{last.place}, the last of {count}; --pick takes another")


@dataclass(frozen=True)
class _Read:
    """A config that reads as a recipe, the choices made for that, and what was mended beyond characters."""

    text: str
    recipes: tuple[Recipe, ...]
    choices: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()


def _mended(block: Block, file: Path, name: str, parameters: MethodParameters) -> Imported:
    """The config of a block.

    Raises:
        RecipeError: if it cannot be mended; why it is wrong as it stands, or, if its indentation is lost, at which line.
    """
    place = f"{block.kind} at line {block.line}" if block.line > 1 else block.kind
    # Empty lines in front give errors the line numbers of the source.
    original = "\n" * (block.line - 1) + block.text
    attempts: list[Callable[[str], _Read]] = [
        lambda text: _read(text, file, name),
        lambda text: _without_strangers(text, file, name),
        lambda text: _reindented(text, file, name, parameters),
    ]
    if _is_flat(block.text):
        del attempts[1]
    errors: list[RecipeError] = []
    for attempt in attempts:
        try:
            found, repairs = _least_changed(original, attempt)
        except RecipeError as error:
            errors.append(error)
        else:
            return Imported(found.text, found.recipes, (*repairs, *found.repairs), found.choices, place)
    raise errors[-1] if _is_flat(block.text) or "not YAML" in errors[0].message else errors[0]


def _least_changed(original: str, attempt: Callable[[str], _Read]) -> tuple[_Read, tuple[str, ...]]:
    """What the cleaned text reads as, with what was cleaned; or the original, if that says the same.

    Raises:
        RecipeError: of the cleaned text, if neither reads as a recipe.
    """
    cleaned, repairs = clean(original)
    found: dict[str, _Read] = {}
    errors: list[RecipeError] = []
    for text in dict.fromkeys((cleaned, original)):
        try:
            found[text] = attempt(text)
        except RecipeError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if original in found and (cleaned not in found or _meaning(found[cleaned]) == _meaning(found[original])):
        return found[original], ()
    return found[cleaned], repairs


def _read(text: str, file: Path, name: str) -> _Read:
    """The config as a file holds it.

    Raises:
        RecipeError: if it is none.
    """
    text = _HEAD.sub(r"\1", _with_a_name(text, file, name))
    return _Read(text.strip("\n") + "\n", _sound(read_recipes(text, file, name)))


def _without_strangers(text: str, file: Path, name: str) -> _Read:
    """The config with those keys of its top level as comments that no recipe has and that are no slip of one.

    mergekit reads past such keys, and published configs have them: ``int8_mask`` outside ``parameters``, for one.

    Raises:
        RecipeError: if there are none, or it is no recipe without them.
    """
    known = list(recipe_shape().keys)
    lines = text.split("\n")
    gone: dict[str, None] = {}
    for document in parse_documents(text, file):
        keys = document.data if isinstance(document.data, dict) else {}
        starts = sorted((document.lines[(key,)], key) for key in keys if (key,) in document.lines)
        for place, (start, key) in enumerate(starts):
            if key in known or key in LATER or is_free(key) or get_close_matches(key, known, cutoff=_SLIP):
                continue
            gone[key] = None
            end = starts[place + 1][0] - 1 if place + 1 < len(starts) else len(lines)
            for number in range(start - 1, end):
                if _SEPARATOR.fullmatch(lines[number]):
                    break
                lines[number] = f"# {lines[number]}" if lines[number].strip() else ""
    if not gone:
        raise RecipeError("has no keys of other tools", file=file)
    read = _read("\n".join(lines), file, name)
    return replace(read, repairs=(f"keys that no recipe has, now comments ({', '.join(gone)})",))


def _reindented(text: str, file: Path, name: str, parameters: MethodParameters) -> _Read:
    """The config with its indentation made anew.

    Raises:
        RecipeError: if that gives no recipe.
    """
    documents: list[tuple[int, list[str]]] = [(1, [])]
    for number, line in enumerate(text.split("\n"), 1):
        if _SEPARATOR.fullmatch(line.strip()):
            documents.append((number + 1, []))
        else:
            documents[-1][1].append(line)
    filled = [(first, "\n".join(lines)) for first, lines in documents if any(line.strip() for line in lines)]
    chosen = [_first_sound(document, first, file, name, parameters) for first, document in filled]
    read = _read("---\n".join(found.text.strip("\n") + "\n" for found in chosen), file, name)
    choices = tuple(choice for found in chosen for choice in found.choices)
    return replace(read, choices=choices, repairs=("lost or wrong indentation",))


def _first_sound(document: str, first: int, file: Path, name: str, parameters: MethodParameters) -> _Read:
    """The likeliest reading that is a recipe.

    Raises:
        RecipeError: of the likeliest one, if none is.
    """

    def read(reading: Reading) -> _Read:
        return _read("\n" * (first - 1) + reading.text, file, name)

    errors: list[RecipeError] = []
    for reading in islice(readings(document, first, parameters, file), _MOST_READINGS):
        try:
            found = read(reading)
        except RecipeError as error:
            errors.append(error)
            continue

        def differs(other: Reading, found: _Read = found) -> bool:
            try:
                return _meaning(read(other)) != _meaning(found)
            except RecipeError:
                return False

        return replace(found, text=reading.text, choices=reading.choices(differs))
    raise errors[0]


def _with_a_name(text: str, file: Path, name: str) -> str:
    """``text`` with a name for the one of several documents that has none, as the last one of mergekit-multi may."""
    documents = parse_documents(text, file)
    nameless = [document for document in documents if isinstance(document.data, dict) and "name" not in document.data]
    if len(documents) < 2 or len(nameless) != 1:
        return text
    lines = text.split("\n")
    lines.insert(nameless[0].line - 1, _name_line(name))
    return "\n".join(lines)


def _sound(entries: Sequence[Recipe | BrokenRecipe]) -> tuple[Recipe, ...]:
    recipes: list[Recipe] = []
    for entry in entries:
        if isinstance(entry, BrokenRecipe):
            raise entry.error
        recipes.append(entry)
    return tuple(recipes)


def _meaning(found: _Read) -> list[dict[str, Any]]:
    """What recipes say, apart from prose, in which copied characters do no harm."""
    return [recipe.model_dump(mode="json", exclude=_PROSE) for recipe in found.recipes]


def _name_line(name: str) -> str:
    return yaml.safe_dump({"name": name}).strip()


def _has_name(text: str) -> bool:
    return _NAME_LINE.search(text) is not None


def _is_flat(text: str) -> bool:
    """Whether all lines start at the same column, as they do where copying took the indentation."""
    return len({len(line) - len(line.lstrip()) for line in text.split("\n") if line.strip()}) <= 1
