"""lm-eval task files of a suite's folder, read without lm-eval: which exist and which bytes define them.

The index follows lm-eval's own rules (every ``*.yaml`` below the folder, in path order, the first file that
names a task wins, ``include`` merged with local keys on top), but resolves no ``!function``: nothing of the
folder is executed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_assets.errors import EvaluationError, RecipeError, in_one_line
from merge_assets.evaluation.declared import Declared, declared_of
from merge_assets.regular import is_file, open_regular
from merge_assets.yamlfile import parse_documents, read_text

MAX_FILES = 20_000
"""Files and folders below a suite's folder of tasks."""

MAX_FOLDERS = 32
"""Levels of folders below it."""

MAX_YAML = 16 << 20
"""Bytes of all task files of a folder."""

MAX_INCLUDES = 100
"""Files that one task file includes, directly or through each other."""

MAX_DATA = 2 << 30
"""Bytes of the files that make one task; they are read whenever suites are."""

_PACKAGED_BUILDERS = frozenset({"json", "csv", "text", "parquet", "arrow", "xml"})
_SKIPPED_FOLDERS = frozenset({"__pycache__", ".ipynb_checkpoints"})


@dataclass(frozen=True)
class LocalTask:
    """One task, group or tag of a task folder.

    Attributes:
        name: the name lm-eval knows it by.
        files: every file whose bytes can change its result, sorted.
        local: whether all of its data lies in local files, so that no Hub is asked for it.
        own: whether the folder defines all that it is made of, so that lm-eval's own tasks need not be indexed.
        digest: sha256 over the names and bytes of ``files``.
    """

    name: str
    files: tuple[Path, ...]
    local: bool
    own: bool
    digest: str


class _Function(str):
    """The dotted name behind a ``!function`` tag."""


class TaskFolder:
    """The task files below one folder.

    Attributes:
        root: the folder, absolute.
        broken: files that are not readable as a task, with the reason; lm-eval skips them silently.

    Raises:
        EvaluationError: if the folder holds more than any folder of tasks does, or cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.broken: dict[Path, str] = {}
        self._configs: dict[str, tuple[dict[str, Any], tuple[Path, ...]]] = {}
        self._tags: dict[str, list[str]] = {}
        self._bytes = 0
        for path in sorted(_walk(self.root), key=lambda p: p.as_posix()):
            if path.suffix == ".yaml" and not _SKIPPED_FOLDERS.intersection(path.parts):
                self._index(path)

    def names(self) -> list[str]:
        """Names of all tasks, groups and tags in the folder."""
        return sorted({*self._configs, *self._tags})

    def find(self, name: str) -> LocalTask | None:
        """The task, group or tag of that name, or None when the folder does not define it."""
        if name not in self._configs and name not in self._tags:
            return None
        files: set[Path] = set()
        seen: set[str] = set()
        local = self._collect(name, files, seen)
        own = local or seen <= {*self._configs, *self._tags}
        return LocalTask(name, tuple(sorted(files)), local, own, self._digest(name, files))

    def declared(self) -> dict[str, Declared]:
        """What the files of the folder declare, by name."""
        found = {name: _declared(config, chain) for name, (config, chain) in self._configs.items()}
        tags = {tag: Declared("tag", members=tuple(sorted(names))) for tag, names in self._tags.items()}
        return tags | found

    def _index(self, path: Path) -> None:
        chain: list[Path] = []
        try:
            config = self._read(path, chain)
        except Exception as error:  # one task file never takes the others down
            self.broken[path] = in_one_line(error)
            return
        name = config.get("group") if isinstance(config.get("task"), list) else config.get("task")
        if not isinstance(name, str):
            return
        if name in self._configs:
            return
        self._configs[name] = (config, tuple(chain))
        tags = config.get("tag") or []
        for tag in tags if isinstance(tags, list) else [tags]:
            self._tags.setdefault(str(tag), []).append(name)

    def _collect(self, name: str, files: set[Path], seen: set[str]) -> bool:
        """Adds the files of ``name`` to ``files``; returns whether all data is local."""
        if name in seen:
            return True
        seen.add(name)
        if name in self._tags and name not in self._configs:
            found = [self._collect(member, files, seen) for member in self._tags[name]]
            return all(found)
        if name not in self._configs:
            return False
        config, chain = self._configs[name]
        files.update(chain)
        members = config.get("task")
        if isinstance(members, list):
            found = [self._collect_member(member, chain, files, seen) for member in members]
            return all(found)
        return self._collect_data(config, chain, files)

    def _collect_member(self, member: Any, chain: tuple[Path, ...], files: set[Path], seen: set[str]) -> bool:
        if isinstance(member, str):
            return self._collect(member, files, seen)
        if not isinstance(member, Mapping):
            return False
        name = member.get("task", member.get("group"))
        if isinstance(name, list):
            found = [self._collect_member(inner, chain, files, seen) for inner in name]
            return all(found)
        if isinstance(name, str) and (name in self._configs or name in self._tags):
            return self._collect(name, files, seen)
        seen.add(str(name))  # it may add to a task of lm-eval
        return self._collect_data(member, chain, files)

    def _collect_data(self, config: Mapping[str, Any], chain: tuple[Path, ...], files: set[Path]) -> bool:
        kwargs = config.get("dataset_kwargs") or {}
        data = list(self._data_files(kwargs.get("data_files"), chain[0].parent)) if isinstance(kwargs, Mapping) else []
        files.update(data)
        if any(isinstance(value, _Function) for value in values_in(config)):
            # A function may read anything that lies beside it.
            for folder in {path.parent for path in chain}:
                files.update(_plain_files(folder))
        if isinstance(config.get("custom_dataset"), _Function):
            return True
        return config.get("dataset_path") in _PACKAGED_BUILDERS and bool(data)

    def _data_files(self, value: Any, folder: Path) -> Iterator[Path]:
        for pattern in (leaf for leaf in values_in(value) if isinstance(leaf, str) and "\0" not in leaf):
            # Looking through folders outside the suite's own would not end.
            inside = any(glob.has_magic(part) for part in Path(pattern).parts[:-1]) or "**" in pattern
            if inside and (Path(pattern).is_absolute() or ".." in Path(pattern).parts):
                raise EvaluationError(
                    f"data_files: {pattern!r} looks through folders outside the suite's; name the files"
                )
            for base in (folder, self.root, *(() if inside else self.root.parents)):
                found = glob.glob(str(base / pattern), recursive=True)  # noqa: PTH207 - Path.glob refuses absolute patterns
                if found:
                    yield from (Path(os.path.realpath(name)) for name in found)
                    break

    def _digest(self, name: str, files: set[Path]) -> str:
        entries: dict[str, list[str]] = {}
        left = MAX_DATA
        for path in sorted(files):
            label = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name
            digest, size = _digest_of(path, left)
            left -= size
            entries.setdefault(label, []).append(digest)
        content = {"task": name, "files": {label: sorted(digests) for label, digests in entries.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _read(self, path: Path, chain: list[Path]) -> dict[str, Any]:
        path = Path(os.path.realpath(path))
        if path in chain:
            raise EvaluationError(f"include cycle at {path}")
        if len(chain) > MAX_INCLUDES:
            raise EvaluationError(f"includes more than {MAX_INCLUDES} files")
        chain.append(path)
        try:
            text = read_text(path)
            documents = parse_documents(text, path, tags={"!function": _Function})
        except RecipeError as error:
            raise EvaluationError(str(error)) from None
        self._bytes += len(text)
        if self._bytes > MAX_YAML:
            raise EvaluationError(f"the task files of {self.root} are larger than {MAX_YAML >> 20} MiB")
        config = dict(documents[0].data) if len(documents) == 1 and isinstance(documents[0].data, dict) else None
        if config is None:
            raise EvaluationError(f"{path} holds no mapping")
        includes = config.pop("include", None) or []
        merged: dict[str, Any] = {}
        for include in includes if isinstance(includes, list) else [includes]:
            inherited = self._read(path.parent / str(include), chain)
            inherited.pop("task_list", None)
            merged.update(inherited)
        return {**merged, **config}


def _declared(config: Mapping[str, Any], chain: tuple[Path, ...]) -> Declared:
    functions = {str(leaf) for leaf in values_in(config) if isinstance(leaf, _Function)}
    modules = {f"{function.rpartition('.')[0].replace('.', '/')}.py" for function in functions}
    files = {str(path.parent / module) for path in chain for module in modules}
    return declared_of(config, str(chain[0]), tuple(sorted(files)), functions)


def _digest_of(path: Path, limit: int) -> tuple[str, int]:
    """sha256 of a file, and its bytes.

    Raises:
        EvaluationError: if it cannot be read or has more than ``limit`` bytes.
    """
    whole, size = hashlib.sha256(), 0
    try:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                whole.update(block)
                size += len(block)
                if size > limit:
                    raise EvaluationError(f"{path}: the files of one task are larger than {MAX_DATA >> 30} GiB")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}") from None
    return whole.hexdigest(), size


def _walk(root: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder; links to folders are not followed.

    Raises:
        EvaluationError: see :class:`TaskFolder`.
    """
    waiting, seen = [(root, 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        try:
            with os.scandir(folder) as listed:
                for entry in listed:
                    seen += 1
                    if seen > MAX_FILES or depth > MAX_FOLDERS:
                        raise EvaluationError(
                            f"{root}: holds more than {MAX_FILES} files or {MAX_FOLDERS} levels of folders; "
                            "name a folder with the tasks alone as include_path"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((folder / entry.name, depth + 1))
                    else:
                        yield folder / entry.name
        except OSError as error:
            raise EvaluationError(f"{folder}: cannot be listed: {error.strerror or error}") from None


def values_in(value: Any) -> Iterator[Any]:
    """What mappings and lists hold in the end, at any depth."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from values_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from values_in(inner)
    else:
        yield value


def _plain_files(folder: Path) -> Iterator[Path]:
    for path in _walk(folder):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        skipped = hidden or _SKIPPED_FOLDERS.intersection(path.parts) or path.suffix in {".yaml", ".yml", ".pyc"}
        if not skipped and is_file(path):
            yield Path(os.path.realpath(path))
