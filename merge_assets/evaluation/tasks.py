"""lm-eval task files of a suite's folder, read without lm-eval: which exist and which bytes define them.

The index follows lm-eval's own rules (every ``*.yaml`` below the folder, in path order, the first file that
names a task wins, ``include`` merged with local keys on top), but resolves no ``!function``: nothing of the
folder is executed.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_PACKAGED_BUILDERS = frozenset({"json", "csv", "text", "parquet", "arrow", "xml"})
_SKIPPED_FOLDERS = frozenset({"__pycache__", ".ipynb_checkpoints"})


@dataclass(frozen=True)
class LocalTask:
    """One task, group or tag of a task folder.

    Attributes:
        name: the name lm-eval knows it by.
        files: every file whose bytes can change its result, sorted.
        local: whether all of its data lies in local files, so that no Hub is asked for it.
        digest: sha256 over the names and bytes of ``files``.
    """

    name: str
    files: tuple[Path, ...]
    local: bool
    digest: str


class _Function(str):
    """The dotted name behind a ``!function`` tag."""


class _Loader(yaml.SafeLoader):
    pass


def _construct_function(loader: yaml.SafeLoader, node: yaml.Node) -> _Function:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "!function takes a dotted name", node.start_mark)
    return _Function(node.value)


_Loader.add_constructor("!function", _construct_function)


class TaskFolder:
    """The task files below one folder.

    Attributes:
        root: the folder, absolute.
        broken: files that are not readable as a task, with the reason; lm-eval skips them silently.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.broken: dict[Path, str] = {}
        self._configs: dict[str, tuple[dict[str, Any], tuple[Path, ...]]] = {}
        self._tags: dict[str, list[str]] = {}
        for path in sorted(self.root.rglob("*.yaml"), key=lambda p: p.as_posix()):
            if not _SKIPPED_FOLDERS.intersection(path.parts):
                self._index(path)

    def names(self) -> list[str]:
        """Names of all tasks, groups and tags in the folder."""
        return sorted({*self._configs, *self._tags})

    def find(self, name: str) -> LocalTask | None:
        """The task, group or tag of that name, or None when the folder does not define it."""
        if name not in self._configs and name not in self._tags:
            return None
        files: set[Path] = set()
        local = self._collect(name, files, set())
        return LocalTask(name, tuple(sorted(files)), local, self._digest(name, files))

    def _index(self, path: Path) -> None:
        chain: list[Path] = []
        try:
            config = _read(path, chain)
        except (OSError, ValueError, yaml.YAMLError) as error:
            self.broken[path] = " ".join(str(error).split())
            return
        name = config.get("group") if isinstance(config.get("task"), list) else config.get("task")
        if not isinstance(name, str):
            return
        if name in self._configs:
            return
        self._configs[name] = (config, tuple(chain))
        tags = config.get("tag") or []
        for tag in [tags] if isinstance(tags, str) else tags:
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
        return self._collect_data(member, chain, files)

    def _collect_data(self, config: Mapping[str, Any], chain: tuple[Path, ...], files: set[Path]) -> bool:
        kwargs = config.get("dataset_kwargs") or {}
        data = list(self._data_files(kwargs.get("data_files"), chain[0].parent)) if isinstance(kwargs, Mapping) else []
        files.update(data)
        if any(isinstance(value, _Function) for value in _leaves(config)):
            # A function may read anything that lies beside it.
            for folder in {path.parent for path in chain}:
                files.update(_plain_files(folder))
        if isinstance(config.get("custom_dataset"), _Function):
            return True
        return config.get("dataset_path") in _PACKAGED_BUILDERS and bool(data)

    def _data_files(self, value: Any, folder: Path) -> Iterator[Path]:
        for pattern in (leaf for leaf in _leaves(value) if isinstance(leaf, str)):
            for base in (folder, self.root, *self.root.parents):
                found = glob.glob(str(base / pattern), recursive=True)  # noqa: PTH207 - Path.glob refuses absolute patterns
                if found:
                    yield from (Path(name).resolve() for name in found)
                    break

    def _digest(self, name: str, files: set[Path]) -> str:
        entries: dict[str, list[str]] = {}
        for path in files:
            label = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name
            entries.setdefault(label, []).append(hashlib.sha256(path.read_bytes()).hexdigest())
        content = {"task": name, "files": {label: sorted(digests) for label, digests in entries.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path, chain: list[Path]) -> dict[str, Any]:
    path = path.resolve()
    if path in chain:
        raise ValueError(f"include cycle at {path}")
    chain.append(path)
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping")
    includes = config.pop("include", None) or []
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        inherited = _read(path.parent / str(include), chain)
        inherited.pop("task_list", None)
        merged.update(inherited)
    return {**merged, **config}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _plain_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        skipped = hidden or _SKIPPED_FOLDERS.intersection(path.parts) or path.suffix in {".yaml", ".yml", ".pyc"}
        if not skipped and path.is_file():
            yield path.resolve()
