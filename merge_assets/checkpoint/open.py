"""Open a checkpoint from its headers, index and config, wherever its bytes are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    GENERATION_CONFIG,
    MODULES,
    is_adapter,
    is_module_folder,
    matching,
    weight_names,
)
from merge_assets.checkpoint.header import LENGTH_BYTES, header_length, load_json, parse_header
from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.errors import CheckpointError
from merge_assets.regular import is_file, is_folder, open_regular

MAX_INDEX = 100_000_000
"""Upper bound on the index in bytes."""

MAX_CONFIG = 10_000_000
"""Upper bound on ``config.json`` and its like in bytes; read, they can take thirty times as much memory."""

MAX_DEPTH = 50
"""Upper bound on the nesting of ``config.json``, so that walking it needs no guard."""

FIRST_READ = 32 * 1024
"""Bytes of a shard asked for first, less of small shards; holds the whole header of most shards."""

_PICKLED = "pickled weights can run code when they are loaded and are not read"
_ALLOW = (
    "or download it and allow that: --allow-pickle, or `allow_pickle = true` in merge-assets.toml, reads the tensors of local "
    "files once, and nothing else of them"
)
_FOLDERS = ("additional_chat_templates",)


class CheckpointSource(Protocol):
    """A checkpoint's files, local or remote.

    Attributes:
        location: directory or URL, for errors and :attr:`Checkpoint.location`.
        files: relative name -> size in bytes.
        workers: how many shard headers may be read at once.
    """

    @property
    def location(self) -> str: ...
    @property
    def files(self) -> Mapping[str, int]: ...
    @property
    def workers(self) -> int: ...

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes ``begin`` to ``end`` (exclusive, ``None`` for all) of a file."""
        ...


def open_checkpoint(directory: Path, links: Sequence[Path] = ()) -> Checkpoint:
    """Open a local checkpoint without reading a weight.

    Args:
        directory: its folder.
        links: folders elsewhere that links in it may lead to.

    Raises:
        CheckpointError: naming the file and the tensor at fault and what to do.
    """
    return read_checkpoint(DirectorySource(directory, links))


def read_checkpoint(source: CheckpointSource) -> Checkpoint:
    """Open a checkpoint from any source; every header, the index and the config are validated.

    Raises:
        CheckpointError: naming the file and the tensor at fault and what to do.
    """
    with _located(source):
        if is_adapter(source.files):
            raise CheckpointError(_no_weights(source.files))
        index = read_index(source)
        config = _read_object(source, CONFIG)
        generation_config = _read_object(source, GENERATION_CONFIG) if GENERATION_CONFIG in source.files else None
        tensors = _read_tensors(source, find_weight_files(source.files, index), index)
    return Checkpoint(source.location, tensors, config, dict(source.files), generation_config, source.read)


def open_any(directory: Path, links: Sequence[Path] = ()) -> Checkpoint:
    """Open a local checkpoint or adapter, whichever it is."""
    source = DirectorySource(directory, links)
    return read_adapter(source) if is_adapter(source.files) else read_checkpoint(source)


def open_adapter(directory: Path, links: Sequence[Path] = ()) -> Checkpoint:
    """Open a local PEFT adapter without reading a weight; its ``config`` is that of the adapter.

    Raises:
        CheckpointError: naming the file and the tensor at fault and what to do.
    """
    return read_adapter(DirectorySource(directory, links))


def read_adapter(source: CheckpointSource) -> Checkpoint:
    """Open an adapter from any source; see :func:`open_adapter`.

    Raises:
        CheckpointError: naming the file and the tensor at fault and what to do.
    """
    with _located(source):
        if not is_adapter(source.files) and ADAPTER_CONFIG in source.files:
            raise CheckpointError(f"{ADAPTER_CONFIG}: lies beside a model; put the adapter into a folder of its own")
        if ADAPTER_CONFIG not in source.files:
            raise CheckpointError(
                f"{ADAPTER_CONFIG}: missing; is this a PEFT adapter, as what stands after a + must be?"
            )
        config = _read_object(source, ADAPTER_CONFIG)
        tensors = _read_tensors(source, adapter_files(source.files), None)
    return Checkpoint(source.location, tensors, config, dict(source.files), None, source.read)


@contextmanager
def _located(source: CheckpointSource) -> Iterator[None]:
    """Errors that start with a file's name get the name of the place it is in."""
    try:
        yield
    except CheckpointError as error:
        error.prefix(f"{source.location}/")
        raise


def adapter_files(files: Mapping[str, int]) -> list[str]:
    """The weight files of an adapter.

    Raises:
        CheckpointError: starting with a file's name, if there is none.
    """
    if ADAPTER_WEIGHTS in files:
        return [ADAPTER_WEIGHTS]
    if "adapter_model.bin" in files:
        raise CheckpointError(
            f"adapter_model.bin: {_PICKLED}; save the adapter with PEFT again, which writes {ADAPTER_WEIGHTS}, {_ALLOW}"
        )
    raise CheckpointError(f"{ADAPTER_WEIGHTS}: missing; fetch the adapter again")


def read_index(source: CheckpointSource) -> dict[str, str] | None:
    """Tensor name -> shard from the index, ``None`` if the checkpoint has no index.

    Raises:
        CheckpointError: starting with the index's name.
    """
    _, name = weight_names(source.files)
    if name not in source.files:
        return None
    weight_map = _read_object(source, name, MAX_INDEX, constants=False).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{name}: weight_map is not an object with tensor names; fetch the file again")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{name}: tensor {tensor!r} lies in {shard!r}, which is not the name of a safetensors file "
                "beside the index; do not use this checkpoint unless you trust where it comes from, and fix the index"
            )
        if shard not in source.files:
            raise CheckpointError(f"{name}: tensor {tensor!r} lies in {shard}, which is missing; fetch that shard")
    return weight_map


def find_weight_files(files: Mapping[str, int], index: Mapping[str, str] | None) -> list[str]:
    """The shards that make up a checkpoint, sorted.

    Args:
        files: the checkpoint's files.
        index: tensor name -> shard, from :func:`read_index`.

    Raises:
        CheckpointError: starting with a file's name, if there are none or it is not clear which.
    """
    whole, listing = weight_names(files)
    if index is not None:
        shards = sorted(set(index.values()))
        if whole in files and shards != [whole]:
            raise CheckpointError(
                f"{listing}: names shards, but {whole} is there too and would be loaded instead by others; "
                "remove the one that is stale"
            )
        return shards
    if whole in files:
        return [whole]
    raise CheckpointError(_no_weights(files))


def _no_weights(files: Mapping[str, int]) -> str:
    whole, index = weight_names(())
    found = matching(files, ("*.safetensors",))
    pickled = matching(files, ("*.bin", "*.pt", "*.pth", "*.ckpt"))
    if is_adapter(files):
        return f"{ADAPTER_CONFIG}: this is a LoRA adapter, not a model; name it after the model that it adapts: MODEL+ADAPTER"
    if found:
        return f"{found[0]}: there is no {index} that lists it; fetch the index, or rename a single file to {whole}"
    if pickled:
        return f"{pickled[0]}: {_PICKLED}; use a revision that has safetensors, {_ALLOW}"
    if gguf := matching(files, ("*.gguf",)):
        return f"{gguf[0]}: GGUF files are not read; use the safetensors checkpoint that it was made from"
    return f"{whole}: missing, and {index} too; is this the directory of a model?"


def _read_tensors(
    source: CheckpointSource, shards: list[str], index: Mapping[str, str] | None
) -> dict[str, TensorHeader]:
    _, listing = weight_names(source.files)
    with ThreadPoolExecutor(max_workers=source.workers) as pool:
        headers = list(pool.map(lambda shard: _read_header(source, shard), shards))
        _refuse_copies(shards, headers, index, listing)
        tensors: dict[str, TensorHeader] = {}
        for shard, found in zip(shards, headers, strict=True):
            for tensor in found:
                if index is not None and index.get(tensor.name) != shard:
                    raise CheckpointError(
                        f"{shard}: tensor {tensor.name!r} is not listed for this shard in {listing}; "
                        "the index and the shards are of different versions, fetch them again"
                    )
                tensors[tensor.name] = tensor
    for name in index or ():
        if name not in tensors:
            raise CheckpointError(
                f"{listing}: tensor {name!r} is not in its shard {(index or {})[name]}; "
                "the index and the shards are of different versions, fetch them again"
            )
    if not tensors:
        raise CheckpointError(f"{shards[0]}: holds no tensors; fetch it again")
    return tensors


def _refuse_copies(
    shards: list[str], headers: list[list[TensorHeader]], index: Mapping[str, str] | None, listing: str
) -> None:
    """Programs differ in which of two copies they load."""
    holding: dict[str, str] = {}
    for shard, found in zip(shards, headers, strict=True):
        for tensor in found:
            if tensor.name in holding:
                pair, listed = (holding[tensor.name], shard), (index or {}).get(tensor.name)
                says = f"{listing} lists it in {listed}" if listed in pair else f"{listing} lists it in neither"
                sizes = {name: len(own) for name, own in zip(shards, headers, strict=True)}
                raise CheckpointError(
                    f"{shard}: tensor {tensor.name!r} is in {pair[0]} too; {says}, and programs differ in which they load; "
                    f"load it and save it again, so that it is there once ({pair[0]} holds {sizes[pair[0]]} tensors and "
                    f"{shard} {sizes[shard]}, so neither can just be removed)"
                )
            holding[tensor.name] = shard


def _read_header(source: CheckpointSource, shard: str) -> list[TensorHeader]:
    size = source.files[shard]
    raw = source.read(shard, 0, min(FIRST_READ, max(1024, size // 64)))
    needed = header_length(raw, shard, size)
    if needed > len(raw) >= LENGTH_BYTES:
        raw += source.read(shard, len(raw), needed)
    return parse_header(raw, shard, size)[0]


def _read_object(
    source: CheckpointSource, name: str, limit: int = MAX_CONFIG, *, constants: bool = True
) -> dict[str, Any]:
    if name not in source.files:
        raise CheckpointError(f"{name}: missing; a checkpoint needs it beside its weights")
    if source.files[name] > limit:
        raise CheckpointError(
            f"{name}: {source.files[name]} bytes are more than the {limit} allowed; fetch the file again"
        )
    try:
        content = load_json(source.read(name), constants=constants)
    except ValueError as error:
        raise CheckpointError(f"{name}: not JSON ({error}); fetch the file again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: holds {type(content).__name__}, not an object; fetch the file again")
    if _deeper_than(content, MAX_DEPTH):
        raise CheckpointError(f"{name}: nested deeper than {MAX_DEPTH} levels; no config is, fetch the file again")
    return content


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _deeper_than(content: dict[str, Any], limit: int) -> bool:
    level: list[Any] = [content]
    for _ in range(limit):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True


class DirectorySource:
    """A local directory in Hugging Face layout.

    Files whose names start with a dot and subfolders other than those of chat templates and of sentence-transformers
    modules are not seen. Links that leave the directory are refused, since a checkpoint from elsewhere could point at
    private files, unless they lead into folders that the user names; the Hub cache's own links from ``snapshots/COMMIT/`` to
    its two ``blobs/`` folders are followed.
    """

    workers = 1

    def __init__(self, directory: Path, links: Sequence[Path] = ()) -> None:
        self._links = tuple(path.resolve() for path in links)
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100 - keeps links in the user's own path
        if not is_folder(self.directory):
            raise CheckpointError(f"{self.directory}: not a directory; name the directory that holds config.json")
        try:
            self.files: Mapping[str, int] = self._scan()
        except OSError as error:
            raise CheckpointError(f"{self.directory}: cannot be listed ({error.strerror})") from None

    @property
    def location(self) -> str:
        return str(self.directory)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        try:
            with open_regular(self.directory / name) as file:
                file.seek(begin)
                wanted = self.files[name] - begin if end is None else end - begin
                blocks: list[bytes] = []
                while wanted > 0 and (block := os.read(file.fileno(), wanted)):
                    blocks.append(block)
                    wanted -= len(block)
                return b"".join(blocks)
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be read ({error.strerror})") from None

    def _scan(self) -> dict[str, int]:
        files = {}
        allowed = self._allowed_roots()
        for folder in (self.directory, *(self.directory / name for name in self._folders())):
            if not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                name = path.relative_to(self.directory).as_posix()
                if path.name.startswith(".") or not is_file(path):
                    continue
                if not _is_utf8(name):
                    raise CheckpointError(
                        f"{self.directory}/{name}: the name of this file is not UTF-8; rename or remove it"
                    )
                target = path.resolve()
                if not any(target.is_relative_to(root) for root in allowed):
                    raise CheckpointError(
                        f"{self.directory}/{name}: is a link to {target}, outside the checkpoint; "
                        "if you trust it, replace it by a copy or name the folder where that lies in the setting link_targets; "
                        "remove it otherwise"
                    )
                files[name] = target.stat().st_size
        return files

    def _folders(self) -> list[str]:
        """Subfolders whose files belong to the checkpoint."""
        if not (self.directory / MODULES).is_file():
            return list(_FOLDERS)
        modules = sorted(
            path.name for path in self.directory.iterdir() if path.is_dir() and is_module_folder(path.name)
        )
        return [*_FOLDERS, *modules]

    def _allowed_roots(self) -> tuple[Path, ...]:
        own = self.directory.resolve()
        repository = own.parent.parent
        if own.parent.name == "snapshots" and repository.name.startswith("models--"):
            return own, repository / "blobs", repository.parent / "blobs", *self._links
        return own, *self._links
