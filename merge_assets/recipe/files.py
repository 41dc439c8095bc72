"""The files under the folders of recipes, found and read; what they say is read elsewhere."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from merge_assets.errors import RecipeError, in_one_line
from merge_assets.regular import is_folder
from merge_assets.yamlfile import read_text

SUFFIXES = (".yaml", ".yml")
TABLE = ".csv"
"""What a sweep's table is called at its end."""
MAX_FOLDERS = 32
"""Levels of folders below a folder of recipes."""


@dataclass(frozen=True)
class RecipeText:
    """A file of recipes, or a table of a sweep, as it was read, or a folder that was not.

    Attributes:
        file: where it lies.
        name: of a recipe in it that has none.
        text: the file.
        problem: why there is no text, with the file; ``None`` if there is.
    """

    file: Path
    name: str
    text: str = ""
    problem: str | None = None


def read_texts(folders: Iterable[Path | str]) -> Iterator[RecipeText]:
    """Read every ``*.yaml`` and ``*.yml`` under ``folders``; tables are read when a sweep names them.

    Files and folders whose name starts with ``_`` or ``.`` are skipped. A folder that does not exist or cannot be listed has a
    problem, and so has what is no file, cannot be read, or has a name that cannot be shown.
    """
    seen: set[str] = set()
    for folder in map(Path, folders):
        if not is_folder(folder):
            message = "the folder of recipes does not exist; create it or change the setting recipes"
            yield _unread(folder, message, folder.name)
            continue
        listed = list(_listed(folder))
        yield from (entry for entry in listed if isinstance(entry, RecipeText))
        # A file that is reached by a link, too, is called as it is called itself.
        for file in sorted((entry for entry in listed if isinstance(entry, Path)), key=Path.is_symlink):
            if file.suffix != TABLE and (real := os.path.realpath(file)) not in seen:
                seen.add(real)
                yield _read(file)


def recipe_files(folders: Iterable[Path]) -> Iterator[Path]:
    """The files that :func:`read_texts` would read, links to others of them included, and the tables beside them."""
    for folder in folders:
        if is_folder(folder):
            yield from (entry for entry in _listed(folder) if isinstance(entry, Path))


def _read(file: Path) -> RecipeText:
    try:
        return RecipeText(file, file.stem, read_text(file))
    except RecipeError as error:
        return RecipeText(file, file.stem, problem=str(error))
    except Exception as error:  # an error of this file alone
        return _unread(file, f"cannot be read ({in_one_line(error)})")


def _listed(top: Path) -> Iterator[Path | RecipeText]:
    """The files of recipes below a folder, in order, and what cannot be looked into; links to folders are not followed."""
    waiting = [(top, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth > MAX_FOLDERS:
            yield _unread(folder, f"lies more than {MAX_FOLDERS} folders deep; move it up", folder.name)
            continue
        try:
            with os.scandir(folder) as listed:
                entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed)
        except OSError as error:
            yield _unread(folder, f"cannot be listed: {error.strerror or error}")
            continue
        below: list[tuple[Path, int]] = []
        for name, opens in entries:
            wanted = opens or (name.endswith((*SUFFIXES, TABLE)) and not is_folder(folder / name))
            if name.startswith(("_", ".")) or not wanted:
                continue
            if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
                yield _unread(folder / name, "its name cannot be shown (not UTF-8, or control characters); rename it")
            elif opens:
                below.append((folder / name, depth + 1))
            else:
                yield folder / name
        waiting += reversed(below)


def _unread(path: Path, message: str, name: str | None = None) -> RecipeText:
    return RecipeText(path, name or path.stem, problem=str(RecipeError(message, file=path)))
