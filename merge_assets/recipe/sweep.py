"""The points of a sweep: their values, what they are called, and each as a recipe of its own in plain data."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_assets.errors import RecipeError
from merge_assets.recipe.parameters import Misfit
from merge_assets.recipe.places import parse_path, placed
from merge_assets.recipe.schema_sweep import MAX_POINTS, Interval, RandomPoints, Sweep, values_of
from merge_assets.yamlfile import Path_, parse_documents

Tables = Callable[[Path], str]
"""The text of a table that lies beside a recipe; raises RecipeError."""

_LONGEST = 100
_UNSHOWN = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class SweepPoint:
    """One recipe of a sweep.

    Attributes:
        name: of the variant: the sweep's, and the values; or a digest of them where that would be too long.
        values: by key path, in the sweep's order.
        content: the recipe, without the sweep.
    """

    name: str
    values: Mapping[str, Any]
    content: Mapping[str, Any]


def points(name: str, content: Mapping[str, Any], sweep: Sweep, file: Path, tables: Tables) -> list[SweepPoint]:
    """Every point of a sweep, in order: of a grid, the last place changes fastest.

    Args:
        name: of the sweep.
        content: the recipe's keys, without those of this module.
        sweep: what varies.
        file: of the recipe.
        tables: reads the sweep's table.

    Raises:
        Misfit: a path leads nowhere, two lists name one, or there are too many points.
        RecipeError: the table cannot be read.
    """
    groups = [[{path: value} for value in values_of(values)] for path, values in (sweep.grid or {}).items()]
    if sweep.zip:
        columns = [values_of(values) for values in sweep.zip.values()]
        groups.append([dict(zip(sweep.zip, row, strict=True)) for row in zip(*columns, strict=True)])
    if sweep.random:
        groups.append(_drawn(sweep.random))
    if sweep.table:
        groups.append(_read_table(sweep.table, file, tables))
    paths = [path for group in groups for path in group[0]]
    for path, count in Counter(paths).items():
        if count > 1:
            raise Misfit(f"{path} is given values twice; keep one", ("sweep",))
    total = 1
    for group in groups:
        total *= len(group)
    if total > MAX_POINTS:
        raise Misfit(f"has {total} points; at most {MAX_POINTS} are made of one recipe", ("sweep",))
    parsed = {path: parse_path(path) for path in paths}
    labels = labels_of(paths)
    found = []
    for parts in itertools.product(*groups):
        values = {path: value for part in parts for path, value in part.items()}
        made: Any = content
        for path, value in values.items():
            made = placed(made, parsed[path], value)
        found.append(SweepPoint(_named(name, labels, values), values, made))
    return found


def _drawn(drawn: RandomPoints) -> list[dict[str, Any]]:
    """Each value from a generator of its own, so that neither more points nor more places change those that are there; what is
    drawn again is left out."""
    found: list[dict[str, Any]] = []
    for number in range(drawn.points):
        point = {path: _draw(choices, f"{drawn.seed}/{number}/{path}") for path, choices in drawn.space.items()}
        if point not in found:
            found.append(point)
    return found


def _draw(choices: tuple[Any, ...] | Interval, seed: str) -> Any:
    share = random.Random(seed).random()
    return choices.at(share) if isinstance(choices, Interval) else choices[int(share * len(choices))]


def _read_table(table: str, file: Path, tables: Tables) -> list[dict[str, Any]]:
    path = file.parent / table
    if Path(table).name != table or path.suffix != ".csv":
        raise Misfit(f"{table} is not the name of a .csv file that lies beside the recipe", ("sweep", "table"))
    try:
        rows = [row for row in csv.reader(io.StringIO(tables(path)), strict=True) if row]
    except csv.Error as error:
        raise RecipeError(f"is not CSV: {error}", file=path) from None
    if len(rows) < 2:
        raise RecipeError("holds no points: key paths in the first line, then a line for each point", file=path)
    head = [cell.strip() for cell in rows[0]]
    found = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise RecipeError(f"has {len(row)} cells, and the first line {len(head)}", file=f"{path}:{number}")
        found.append({column: _cell(cell, f"{path}:{number}", column) for column, cell in zip(head, row, strict=True)})
    return found


def _cell(cell: str, where: str, column: str) -> Any:
    """What a cell would be in a recipe: a number, a word, a list."""
    documents = parse_documents(cell, Path(where))
    if not documents:
        raise RecipeError("the cell is empty; write a value", file=where, key=column)
    return documents[0].data


def labels_of(paths: Sequence[str]) -> dict[str, str]:
    """What each key path is called in the names of points: its last word that says anything, with the numbers on the way where
    other paths have that word, too."""
    parsed = {path: parse_path(path) for path in paths}
    words = {path: _word(parts) for path, parts in parsed.items()}
    counts = Counter(words.values())
    labels = {}
    for path, word in words.items():
        numbers = [str(part) for part in parsed[path] if isinstance(part, int)]
        labels[path] = word if counts[word] == 1 else "_".join([word, *numbers, ""])
    return labels


def _word(path: Path_) -> str:
    words = [part for part in path if isinstance(part, str)]
    return next((word for word in reversed(words) if word != "value"), words[-1])


def _named(name: str, labels: Mapping[str, str], values: Mapping[str, Any]) -> str:
    text = "-".join([name, *(f"{labels[path]}{_shown(value)}" for path, value in values.items())])
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
    return f"{name[: _LONGEST - 9]}-{digest[:8]}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.12g}".replace("+", "")
    if isinstance(value, list | tuple):
        return "_".join(_shown(one) for one in value)
    return _UNSHOWN.sub("_", str(value).rsplit("/", 1)[-1]).strip("_")
