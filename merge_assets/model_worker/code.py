"""Code that comes with a checkpoint: run in a model worker only, and only where a recipe or a suite names the model.

What is run is the code that the checkpoint's fingerprint covers: its own files, beside its ``config.json``. Code of other
repositories, or of other folders, is not.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@contextlib.contextmanager
def code_folder(trusted: bool) -> Iterator[str | None]:
    """An empty folder for the code of one checkpoint; ``None`` if its code must not be run."""
    if not trusted:
        yield None
        return
    with TemporaryDirectory(prefix="merge-assets-code-") as folder:
        yield folder


def run_code_of(directory: Path, folder: str) -> None:
    """Have transformers run the code of one checkpoint, in this process, from now on.

    The library runs copies. They lie in a folder for this process, so that none is run that was left of another time, and none
    is left.

    Args:
        directory: the checkpoint.
        folder: where the copies go.
    """
    library: Any = importlib.import_module("transformers.dynamic_module_utils")
    fetch = library.get_cached_module_file

    def own(name: Any, module_file: str, *arguments: Any, **options: Any) -> Any:
        if not Path(name).is_dir() or not Path(name).samefile(directory):
            raise ValueError(f"it needs code of another repository, {name}, which is not executed")
        needed = [Path(file) for file in library.get_relative_import_files(directory / module_file)]
        for file in (directory / module_file, *needed):
            if file.parent != directory:
                raise ValueError(
                    f"it needs code that does not lie beside its config.json, {file}, which is not executed"
                )
        return fetch(name, module_file, *arguments, **options)

    library.HF_MODULES_CACHE = folder
    library.get_cached_module_file = own
