"""Recipe files -> recipes. Every failure is a :class:`RecipeError` with file, line and key path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from merge_assets.errors import RecipeError, in_one_line
from merge_assets.recipe.parameters import Misfit, shown
from merge_assets.recipe.places import parse_path, placed
from merge_assets.recipe.problems import HIDDEN_KEYS, explain
from merge_assets.recipe.resolved import plain_yaml
from merge_assets.recipe.schema import Recipe, RecipeSource
from merge_assets.recipe.schema_sweep import Sweep, Swept
from merge_assets.recipe.sweep import SweepPoint, Tables, points
from merge_assets.shown import without_credentials
from merge_assets.yamlfile import Document, is_free, parse_documents, read_text, spell


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
        names = ", ".join([*(entry.name for entry in entries[:5]), *["…"][: len(entries) > 5]])
        raise RecipeError(f"holds {len(entries)} recipes ({names}); say which one", file=path)
    return _sound(entries[0])


def load_recipes(path: Path | str) -> list[Recipe]:
    """Read every recipe of a file, in order.

    Raises:
        RecipeError: for the first recipe that is wrong.
    """
    return [_sound(entry) for entry in read_file(Path(path))]


def read_file(path: Path) -> list[Recipe | BrokenRecipe]:
    """Read every document of a file; each is a recipe, the recipes of a sweep, or broken on its own. Never empty; raises
    nothing, whatever it holds."""
    try:
        text = read_text(path)
    except RecipeError as error:
        return [BrokenRecipe(path.stem, path, error)]
    return read_recipes(text, path, path.stem)


def read_recipes(text: str, path: Path, name: str, tables: Tables = read_text) -> list[Recipe | BrokenRecipe]:
    """Read every document of the text of a file, as :func:`read_file` does.

    Args:
        text: the file.
        path: named in errors; need not exist.
        name: name of a recipe that has none.
        tables: reads the tables of sweeps.
    """
    try:
        documents = parse_documents(text, path)
        if not documents:
            raise RecipeError("holds no recipe; a recipe needs at least merge_method and models", file=path)
    except RecipeError as error:
        return [BrokenRecipe(name, path, error)]
    alone = len(documents) == 1
    entries = [entry for document in documents for entry in _read(document, path, name, text, tables, alone=alone)]
    return _without_twins(entries, path)


def _read(
    document: Document, path: Path, default: str, whole: str, tables: Tables, *, alone: bool
) -> list[Recipe] | list[BrokenRecipe]:
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
                f"recipe {document.index + 1} of a file with several documents has no name; give each one",
                file=where,
                key="name",
            )
        for key in HIDDEN_KEYS & content.keys():
            raise RecipeError("unknown key", file=f"{path}:{document.lines[(key,)]}", key=key)
        text = without_credentials(document.text)  # it is shown, and kept beside the variant
        source = RecipeSource(file=path, document=document.index, line=document.line, text=text, whole=whole)
        if "sweep" in content and "search" in content:
            message = "sweep and search exclude each other; a search tries values of lists, too"
            raise RecipeError(message, file=source.at("search"), key="search")
        if "sweep" in content:
            return _read_sweep({"name": default, **content}, source, document, tables)
        try:
            return [Recipe.model_validate({"name": default, **content, "source": source})]
        except ValidationError as error:
            raise explain(error, Recipe, document, path) from None
    except RecipeError as error:
        return [BrokenRecipe(name, path, error)]
    except Exception as error:  # whatever one recipe does to the reader, the others are read
        return [
            BrokenRecipe(
                name, path, RecipeError(f"cannot be read ({in_one_line(error)})", file=f"{path}:{document.line}")
            )
        ]


class _SweepAlone(BaseModel):
    sweep: Sweep


def _read_sweep(content: dict[str, Any], source: RecipeSource, document: Document, tables: Tables) -> list[Recipe]:
    """The recipes of a sweep, which are as if each had been written by itself."""
    rest = {key: value for key, value in content.items() if key != "sweep"}
    try:
        # The rest of the recipe is looked at with the values of each point, which may be what makes it one.
        sweep = _SweepAlone.model_validate({"sweep": content["sweep"]}).sweep
        found = points(rest["name"], rest, sweep, source.file, tables)
    except ValidationError as error:
        raise explain(error, Recipe, document, source.file) from None
    except Misfit as error:
        raise RecipeError(str(error), file=source.at(spell(error.path)), key=spell(error.path) or "sweep") from None
    return [_read_point(rest["name"], number, point, source, document) for number, point in enumerate(found)]


def candidate(recipe: Recipe, number: int, values: Mapping[str, Any]) -> Recipe:
    """The recipe of a search with values in their places, called ``NAME-trial-NUMBER``.

    Args:
        recipe: with ``search``.
        number: of the trial.
        values: by key path.

    Raises:
        RecipeError: a path leads nowhere, or what comes out is no recipe.
    """
    source = recipe.source
    document = source.parsed()
    made: Any = {key: value for key, value in document.data.items() if not is_free(key) and key != "search"}
    try:
        for path, value in values.items():
            made = placed(made, parse_path(path), value)
    except Misfit as error:
        raise RecipeError(str(error), file=source.at("search.space"), key="search.space") from None
    return _read_point(recipe.name, number, SweepPoint(f"{recipe.name}-trial-{number}", values, made), source, document)


def _read_point(sweep: str, number: int, point: SweepPoint, source: RecipeSource, document: Document) -> Recipe:
    values = ", ".join(f"{path}: {shown(value)}" for path, value in point.values.items())
    content = {**point.content, "name": point.name}
    content.setdefault("group", re.sub(r"\W+", "_", sweep))
    text = f"# A point of {sweep} of {source.file.name}: {values}\n{plain_yaml(content)}"
    own = source.model_copy(update={"text": without_credentials(text)})
    try:
        swept = Swept(sweep=sweep, number=number, values=dict(point.values))
        return Recipe.model_validate({**content, "source": own, "swept": swept})
    except ValidationError as error:
        raise explain(error, Recipe, document, source.file, f"; at the point {values}") from None


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
