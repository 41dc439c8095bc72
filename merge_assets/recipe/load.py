"""Recipe files -> recipes. Every failure is a :class:`RecipeError` with file, line and key path."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from merge_assets.errors import RecipeError, in_one_line
from merge_assets.recipe.problems import HIDDEN_KEYS, explain
from merge_assets.recipe.schema import Recipe, RecipeSource
from merge_assets.shown import without_credentials
from merge_assets.yamlfile import Document, is_free, parse_documents, read_text


@dataclass(frozen=True)
class BrokenRecipe:
    """A recipe that cannot be used.

    Attributes:
        name: its ``name:`` where that could be read, else the file's stem.
        file: the file it stands in.
        error: why.
    """

    name: str
    file: Path
    error: RecipeError


def load_recipe(path: Path | str, name: str | None = None) -> Recipe:
    """Read one recipe.

    Args:
        path: the file.
        name: which recipe of a file with several documents; may be left out if there is one.

    Raises:
        RecipeError: the recipe is wrong, the file holds several and ``name`` is not given, or it has none of
            that name.
    """
    entries = read_file(Path(path))
    if name is not None:
        entries = [entry for entry in entries if entry.name == name] or _no_such(Path(path), name, entries)
    if len(entries) > 1:
        names = ", ".join(entry.name for entry in entries)
        raise RecipeError(f"holds {len(entries)} recipes ({names}); say which one", file=path)
    return _sound(entries[0])


def load_recipes(path: Path | str) -> list[Recipe]:
    """Read every recipe of a file, in order.

    Raises:
        RecipeError: for the first recipe that is wrong.
    """
    return [_sound(entry) for entry in read_file(Path(path))]


def read_file(path: Path) -> list[Recipe | BrokenRecipe]:
    """Read every document of a file; each is a recipe or broken on its own. Never empty; raises nothing, whatever it holds."""
    try:
        text = read_text(path)
    except RecipeError as error:
        return [BrokenRecipe(path.stem, path, error)]
    return read_recipes(text, path, path.stem)


def read_recipes(text: str, path: Path, name: str) -> list[Recipe | BrokenRecipe]:
    """Read every document of the text of a file, as :func:`read_file` does.

    Args:
        text: the file.
        path: named in errors; need not exist.
        name: name of a recipe that has none.
    """
    try:
        documents = parse_documents(text, path)
        if not documents:
            raise RecipeError("holds no recipe; a recipe needs at least merge_method and models", file=path)
    except RecipeError as error:
        return [BrokenRecipe(name, path, error)]
    entries = [
        _read(document, index, path, name, text, alone=len(documents) == 1) for index, document in enumerate(documents)
    ]
    return _without_twins(entries, path)


def _read(
    document: Document, index: int, path: Path, default: str, whole: str, *, alone: bool
) -> Recipe | BrokenRecipe:
    name = default
    try:
        data = document.data
        where = f"{path}:{document.line}"
        if not isinstance(data, dict):
            raise RecipeError("a recipe is a mapping of keys such as merge_method and models", file=where)
        content: dict[str, Any] = {key: value for key, value in data.items() if not is_free(key)}
        if isinstance(content.get("name"), str):
            name = content["name"]
        elif "name" not in content and not alone:
            raise RecipeError(
                f"recipe {index + 1} of a file with several documents has no name; give each one",
                file=where,
                key="name",
            )
        for key in HIDDEN_KEYS & content.keys():
            raise RecipeError("unknown key", file=f"{path}:{document.lines[(key,)]}", key=key)
        text = without_credentials(document.text)  # it is shown, and kept beside the variant
        source = RecipeSource(file=path, document=document.index, line=document.line, text=text, whole=whole)
        try:
            return Recipe.model_validate({"name": default, **content, "source": source})
        except ValidationError as error:
            raise explain(error, Recipe, document, path) from None
    except RecipeError as error:
        return BrokenRecipe(name, path, error)
    except Exception as error:  # whatever one recipe does to the reader, the others are read
        return BrokenRecipe(
            name, path, RecipeError(f"cannot be read ({in_one_line(error)})", file=f"{path}:{document.line}")
        )


def _without_twins(entries: list[Recipe | BrokenRecipe], path: Path) -> list[Recipe | BrokenRecipe]:
    names = Counter(entry.name for entry in entries if isinstance(entry, Recipe))
    return [
        BrokenRecipe(
            entry.name,
            path,
            RecipeError(
                f"{entry.name!r} is the name of {names[entry.name]} recipes of this file; rename all but one",
                file=f"{path}:{entry.source.line}",
                key="name",
            ),
        )
        if isinstance(entry, Recipe) and names[entry.name] > 1
        else entry
        for entry in entries
    ]


def _no_such(path: Path, name: str, entries: list[Recipe | BrokenRecipe]) -> list[Recipe | BrokenRecipe]:
    raise RecipeError(
        f"has no recipe {name!r}, only {', '.join(entry.name for entry in entries)}", file=path, key="name"
    )


def _sound(entry: Recipe | BrokenRecipe) -> Recipe:
    if isinstance(entry, BrokenRecipe):
        raise entry.error
    return entry
