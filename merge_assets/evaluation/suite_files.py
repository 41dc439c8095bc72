"""The files of suites, found and read; what they say is read elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_assets.errors import EvaluationError, RecipeError, in_one_line
from merge_assets.regular import is_folder
from merge_assets.yamlfile import read_text

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class SuiteText:
    """The file of a suite as it was read.

    Attributes:
        file: where it is found.
        real: where it lies, all links followed.
        text: the file.
        problem: why there is no text, with the file; ``None`` if there is.
        task_digests: digest of what defines each task, at that time; ``None`` if they are still to be read.
    """

    file: Path
    real: Path
    text: str = ""
    problem: str | None = None
    task_digests: Mapping[str, str] | None = None


def read_texts(folders: Sequence[Path]) -> Iterator[SuiteText]:
    """Reads every ``*.yaml`` and ``*.yml`` directly in the folders; a folder that does not exist holds none.

    Files whose name starts with ``_`` or ``.`` are skipped. What cannot be read has a problem.
    """
    return map(_read, _listed(folders))


def suite_files(folders: Sequence[Path]) -> list[Path]:
    """The files that :func:`read_texts` would read."""
    return [entry for entry in _listed(folders) if isinstance(entry, Path)]


def _listed(folders: Sequence[Path]) -> list[Path | SuiteText]:
    """The files that should be suites, sorted, after the folders and files that cannot be used."""
    problems: list[SuiteText] = []
    found: dict[str, Path] = {}
    for folder in folders:
        if not is_folder(folder):
            continue
        try:
            names = [path.name for path in folder.iterdir()]
        except OSError as error:
            problems.append(_unread(folder, f"cannot be listed: {error.strerror or error}"))
            continue
        for path in (folder / name for name in names if name.endswith(_SUFFIXES) and not name.startswith(("_", "."))):
            if not path.name.isprintable():
                problems.append(_unread(path, "its name cannot be shown (not UTF-8, or control characters); rename it"))
            elif not is_folder(path) and (not path.is_symlink() or os.path.realpath(path) not in found):
                found[os.path.realpath(path)] = path
    return [*problems, *sorted(found.values())]


def _read(path: Path | SuiteText) -> SuiteText:
    """The text of a file; what reading it raises is its problem."""
    if isinstance(path, SuiteText):
        return path
    try:
        return read_suite(path)
    except EvaluationError as error:
        return SuiteText(path, path, problem=str(error))
    except Exception as error:
        return _unread(path, f"cannot be read ({in_one_line(error)})")


def read_suite(path: Path) -> SuiteText:
    """Reads one file.

    Raises:
        EvaluationError: it is missing, cannot be read, is too large, or is no text.
    """
    try:
        return SuiteText(path, Path(os.path.realpath(path)), read_text(path))
    except RecipeError as error:
        raise EvaluationError(str(error)) from None


def _unread(path: Path, message: str) -> SuiteText:
    return SuiteText(path, path, problem=f"{path}: {message}")
