"""A block of text that may be a merge config -> its recipes, with what copying broke mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from merge_assets.errors import RecipeError, nearest
from merge_assets.importing.adapting import SLIP, adapted
from merge_assets.importing.cleaning import clean
from merge_assets.importing.fences import Block
from merge_assets.importing.indentation import MethodParameters, Reading, readings
from merge_assets.importing.shapes import recipe_shape
from merge_assets.recipe.load import BrokenRecipe, read_recipes
from merge_assets.recipe.schema import Recipe
from merge_assets.yamlfile import is_free, parse_documents

_SEPARATOR = re.compile(r"---[ \t]*(?:#.*)?")
_HEAD = re.compile(r"\A((?:[ \t]*(?:#.*)?\n)*)---[ \t]*(?=\n)")
_MOST_READINGS = 100
_DASH = re.compile(r"[ \t]*-(?:[ \t]|$)")
_ITEM = re.compile(r"([ \t]*)(sources|model|filter|value)[ \t]*:")
"""The first keys of items."""
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
        notices: what was written otherwise so that it means here what it meant there, one sentence each.
        unread: configs of the source that cannot be read, one sentence each.
    """

    text: str
    recipes: tuple[Recipe, ...]
    repairs: tuple[str, ...]
    choices: tuple[str, ...]
    place: str
    dropped: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Read:
    """A config that reads as a recipe, the choices made for that, and what was mended beyond characters."""

    text: str
    recipes: tuple[Recipe, ...]
    choices: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def mended(block: Block, file: Path, name: str, parameters: MethodParameters) -> Imported:
    """The config of a block.

    Raises:
        RecipeError: if it cannot be mended; why it is wrong as it stands, or, if its indentation is lost, at which line.
    """
    place = f"{block.kind} at line {block.line}" if block.line > 1 else block.kind
    # Empty lines in front give errors the line numbers of the source.
    original = "\n" * (block.line - 1) + block.text
    attempts: list[Callable[[str], _Read]] = [
        lambda text: _read(text, file, name, parameters),
        lambda text: _without_strangers(text, file, name, parameters),
        lambda text: _reindented(text, file, name, parameters),
        lambda text: _with_dashes(text, file, name, parameters),
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
            repairs = (*repairs, *found.repairs)
            return Imported(found.text, found.recipes, repairs, found.choices, place, notices=found.notices)
    is_lost = _is_flat(block.text) or "not YAML" in errors[0].message
    raise errors[-2] if is_lost else errors[0]  # of the reading without new dashes


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


def _read(text: str, file: Path, name: str, parameters: MethodParameters) -> _Read:
    """The config as a file holds it, with what has to be written otherwise here.

    Raises:
        RecipeError: if it is none.
    """
    text, notices = adapted(_HEAD.sub(r"\1", _with_a_name(text, file, name)), file, parameters)
    return _Read(text.strip("\n") + "\n", sound_recipes(text, file, name), notices=notices)


def _without_strangers(text: str, file: Path, name: str, parameters: MethodParameters) -> _Read:
    """The config with those keys of its top level as comments that no recipe has and that are no slip of one.

    mergekit reads past such keys, and published configs have them: ``int8_mask`` outside ``parameters``, for one.

    Raises:
        RecipeError: if there are none, or it is no recipe without them.
    """
    text, notices = adapted(text, file, parameters)
    known = list(recipe_shape().keys)
    lines = text.split("\n")
    gone: dict[str, None] = {}
    for document in parse_documents(text, file):
        keys = document.data if isinstance(document.data, dict) else {}
        starts = sorted((document.lines[(key,)], key) for key in keys if (key,) in document.lines)
        for place, (start, key) in enumerate(starts):
            if key in known or is_free(key) or nearest(key, known, alike=SLIP):
                continue
            gone[key] = None
            end = starts[place + 1][0] - 1 if place + 1 < len(starts) else len(lines)
            for number in range(start - 1, end):
                if _SEPARATOR.fullmatch(lines[number]):
                    break
                lines[number] = f"# {lines[number]}" if lines[number].strip() else ""
    if not gone:
        raise RecipeError("has no keys of other tools", file=file)
    read = _read("\n".join(lines), file, name, parameters)
    notices = tuple(dict.fromkeys((*notices, *read.notices)))
    return replace(read, notices=notices, repairs=(f"keys that no recipe has, now comments ({', '.join(gone)})",))


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
    read = _read("---\n".join(found.text.strip("\n") + "\n" for found in chosen), file, name, parameters)
    choices = tuple(choice for found in chosen for choice in found.choices)
    return replace(read, choices=choices, repairs=("lost or wrong indentation",))


def _with_dashes(text: str, file: Path, name: str, parameters: MethodParameters) -> _Read:
    """The config with the dashes before its items, where all of them are lost.

    Raises:
        RecipeError: if there are dashes, or it is no recipe with more of them.
    """
    lines = text.split("\n")
    if any(_DASH.match(line) for line in lines):
        raise RecipeError("has dashes", file=file)
    before = ""
    for number, line in enumerate(lines):
        found = _ITEM.match(line)
        if found and not (found[2] == "value" and before == "filter"):
            lines[number] = f"{found[1]}- {line[len(found[1]) :]}"
        before = found[2] if found else before if not line.strip() else ""
    read = _reindented("\n".join(lines), file, name, parameters)
    return replace(read, repairs=("lost dashes", *read.repairs))


def _first_sound(document: str, first: int, file: Path, name: str, parameters: MethodParameters) -> _Read:
    """The likeliest reading that is a recipe.

    Raises:
        RecipeError: of the likeliest one, if none is.
    """

    def read(reading: Reading) -> _Read:
        return _read("\n" * (first - 1) + reading.text, file, name, parameters)

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
    lines.insert(nameless[0].line - 1, name_line(name))
    return "\n".join(lines)


def sound_recipes(text: str, file: Path, name: str) -> tuple[Recipe, ...]:
    """The recipes of a text, as :func:`read_recipes` reads them.

    Raises:
        RecipeError: for the first that is wrong.
    """
    recipes: list[Recipe] = []
    for entry in read_recipes(text, file, name):
        if isinstance(entry, BrokenRecipe):
            raise entry.error
        recipes.append(entry)
    return tuple(recipes)


def _meaning(found: _Read) -> list[dict[str, Any]]:
    """What recipes say, apart from prose, in which copied characters do no harm."""
    return [recipe.model_dump(mode="json", exclude=_PROSE) for recipe in found.recipes]


def name_line(name: str) -> str:
    """The line that gives a recipe its name."""
    return yaml.safe_dump({"name": name}).strip()


def _is_flat(text: str) -> bool:
    """Whether all lines start at the same column, as they do where copying took the indentation."""
    return len({len(line) - len(line.lstrip()) for line in text.split("\n") if line.strip()}) <= 1
