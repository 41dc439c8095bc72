"""The names that lm-eval itself knows: read from its files once for each of its versions, then kept.

Reading its 14 000 files takes twenty seconds. Those of the version that this project is tested with come with it
(``python -m tests.tables``). With what is kept, a suite is checked without lm-eval, and no process that loads tasks reads them
all.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import astuple
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from merge_assets.evaluation.declared import Declared
from merge_assets.evaluation.suite import Suite
from merge_assets.model_worker import Limits, ask
from merge_assets.sealed import seal, unseal
from merge_assets.work import UNATTENDED, Work

_FORMAT = 2
_VERB = "merge_assets.evaluation.indexing"

Names = Mapping[str, Declared]
"""What is declared, by name."""


def shipped_folder() -> Path | None:
    """The folder of lm-eval's own tasks; ``None`` where it is not installed. lm-eval is not imported."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def ships(suite: Suite, task: str) -> bool:
    """Whether lm-eval's own tasks are needed; suites whose folder has all that they ask for do without."""
    local = suite.local_task(task)
    return not (local and local.own)


def index_file(folder: Path) -> Path:
    """Where the names of the lm-eval that is installed are kept: with this project, or below a folder."""
    return index_that_comes() or folder / _file_name()


def index_that_comes() -> Path | None:
    """The file with the names of the lm-eval that is installed that comes with this project; ``None`` for other versions."""
    file = Path(str(files("merge_assets.evaluation") / "names" / _file_name()))
    return file if file.is_file() else None


def _file_name() -> str:
    try:
        installed = version("lm_eval")
    except PackageNotFoundError:
        installed = "none"
    return f"lm-eval-{installed}-{_FORMAT}.json.gz"


def known_names(folder: Path) -> Names | None:
    """The names that are kept below a folder for the lm-eval that is installed; ``None`` if they are not there, or damaged."""
    try:
        return read_names(index_file(folder))
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError):
        return None


def names_made(folder: Path, limits: Limits, work: Work = UNATTENDED) -> Names:
    """The same, read from lm-eval's files and kept where they are not there.

    Args:
        folder: below which they are kept.
        limits: of the process that reads them.
        work: asked throughout.

    Raises:
        ModelWorkerError: they cannot be read.
    """
    found = known_names(folder)
    if found is not None:
        return found
    told = ask(_VERB, "names", {}, limits, limit="silence", work=work)
    file = index_file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(packed(told))
    partial.replace(file)
    return read_names(file)


def packed(names: Mapping[str, Any]) -> bytes:
    """What a file of names holds; equal names give equal bytes."""
    return gzip.compress(seal({"names": dict(sorted(names.items()))}), mtime=0)


def read_names(file: Path) -> Names:
    """What :func:`names_made` wrote.

    Raises:
        OSError, EOFError, zlib.error, ValueError: there is no such file, or it is not what was written.
    """
    status = file.stat()
    return _read(file, status.st_mtime_ns, status.st_size)


@cache
def _read(file: Path, changed: int, size: int) -> Names:
    fields = unseal(gzip.decompress(file.read_bytes()))
    if fields is None:
        raise ValueError(f"{file}: damaged")
    return {name: Declared(*map(_tuples, values)) for name, values in fields["names"].items()}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plain(declared: Declared) -> list[Any]:
    """As JSON holds it."""
    return [list(value) if isinstance(value, tuple) else value for value in astuple(declared)]
