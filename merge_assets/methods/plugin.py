"""Which code a method from outside this package is, told from its files: its distribution and a digest of its source.

Nothing is imported for it. Files are labelled as they are called below the folder that they are imported from, so that the same
package has the same version wherever it is installed.
"""

from __future__ import annotations

import hashlib
import marshal
import struct
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec
from importlib.metadata import Distribution
from importlib.util import MAGIC_NUMBER, cache_from_source, find_spec
from pathlib import Path

from merge_assets.errors import PlanError

_CACHE = "__pycache__"
_RACY_SECONDS = 2
"""Python takes bytecode for that of a source file of the same size and second. If it was written so soon after the file, the
file may have been changed since."""


def source_files(module: str, distribution: Distribution | None) -> dict[str, Path]:
    """The files that make a plugin, by label: those of its packages, and others that its distribution installed.

    Args:
        module: dotted name of the module that the method is in.
        distribution: that which registers it, if one does.
    """
    found = dict(_installed(distribution)) if distribution else {}
    top_level = (distribution.read_text("top_level.txt") or "").split() if distribution else []
    for name in dict.fromkeys([module, *top_level]):
        found |= _package_files(name)
    return found


def source_digest(entry: str, files: Mapping[str, Path]) -> str:
    """SHA-256, in hex, of which object of a plugin is the method, and of the labels and contents of its files.

    Raises:
        PlanError: if a file cannot be read.
    """
    whole = hashlib.sha256(f"{entry}\n".encode())
    for label, path in sorted(files.items()):
        whole.update(f"{label}\n{hashlib.sha256(_read(path)).hexdigest()}\n".encode())
    return whole.hexdigest()


def drop_stale_bytecode(files: Iterable[Path]) -> None:
    """Remove cached bytecode that Python would run although it is of an earlier state of the source.

    Raises:
        PlanError: if it cannot be removed.
    """
    for path in files:
        if path.suffix not in SOURCE_SUFFIXES:
            continue
        cached = Path(cache_from_source(str(path)))
        if cached.is_file() and _is_stale(path, cached):
            try:
                cached.unlink()
            except OSError as error:
                raise PlanError(
                    f"{cached}: is not the bytecode of {path.name} as it is now, and Python would run it; remove it "
                    f"({error.strerror})"
                ) from None


def _installed(distribution: Distribution) -> Iterator[tuple[str, Path]]:
    """What a distribution's record lists, but for what pip makes: metadata, scripts, bytecode, the links of an editable one."""
    for file in distribution.files or ():
        made = any(part.endswith((".dist-info", ".egg-info", ".pth")) or part == _CACHE for part in file.parts)
        path = Path(str(file.locate()))
        if not made and ".." not in file.parts and not file.name.startswith("__editable__") and path.is_file():
            yield file.as_posix(), path


def _package_files(module: str) -> dict[str, Path]:
    """The outermost regular package that a module is in, or the module's own file."""
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        spec = _spec(".".join(names[:depth]))
        if (
            spec is None or spec.origin is None or not spec.has_location
        ):  # nothing, or a folder that several packages share
            continue
        file, label = Path(spec.origin), "/".join(names[:depth])
        if spec.submodule_search_locations is None:
            return {f"{label}{file.suffix}": file}
        inside = (path for path in sorted(file.parent.rglob("*")) if path.is_file() and _CACHE not in path.parts)
        return {f"{label}/{path.relative_to(file.parent).as_posix()}": path for path in inside}
    return {}


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        return None


def _is_stale(source: Path, cached: Path) -> bool:
    try:
        raw, told, compiled = cached.read_bytes(), source.stat(), cached.stat()
        if len(raw) < 16 or raw[:4] != MAGIC_NUMBER:
            return False
        flags, seconds, size = struct.unpack("<III", raw[4:16])
        if flags == 0:
            if (seconds, size) != (int(told.st_mtime) & 0xFFFFFFFF, told.st_size & 0xFFFFFFFF):
                return False
            if compiled.st_mtime - told.st_mtime > _RACY_SECONDS:
                return False
        return bool(marshal.loads(raw[16:]) != compile(_read(source), str(source), "exec", dont_inherit=True))
    except (OSError, EOFError, ValueError, TypeError, SyntaxError):
        return False  # Python does not run it, or says itself what is wrong


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path}: a file of a merge method's plugin cannot be read: {error.strerror}") from None
