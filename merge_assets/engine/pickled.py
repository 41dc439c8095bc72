"""Pickled checkpoints (``pytorch_model.bin``) as safetensors, converted once; used only where the settings allow it.

``torch.load(weights_only=True)`` reads tensors and plain containers and refuses everything else, so no code of the file runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.checkpoint import CODES
from merge_assets.checkpoint.files import ADAPTER_WEIGHTS, CONFIG, INDEX_SUFFIX, STEMS, is_adapter
from merge_assets.errors import CheckpointError
from merge_assets.filestate import FileState, settled
from merge_assets.sealed import seal, unseal

if TYPE_CHECKING:
    import torch

_WHOLE = "pytorch_model.bin"
_ADAPTER = "adapter_model.bin"
_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_RECORD = ".conversion.json"
"""What was written, as it was when it was; no file of the checkpoint, since its name begins with a dot."""

_SMALL = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")


def converted(directory: Path, cache: Path) -> Path:
    """The folder to open: the directory itself, or its conversion in the cache where its weights are pickled.

    Args:
        directory: a local checkpoint.
        cache: folder of conversions; one is made again when a file has changed.

    Raises:
        CheckpointError: if a file holds anything but tensors, or cannot be read or written.
    """
    try:
        names = sorted(path.name for path in directory.iterdir() if path.is_file())
        found = pickled_files(directory, names)
        if not found:
            return directory
        target = cache / _key(directory, names)
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            _convert(directory, names, found, target)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or directory}: {error.strerror}; make room for its conversion"
        ) from None
    return target


def pickled_files(directory: Path, names: list[str]) -> list[str]:
    """The pickled files that make up the checkpoint or adapter: the whole one, or those that the index names; none where its
    weights are no pickles.

    Raises:
        CheckpointError: if the index is none, or a file that it names is missing.
    """
    if is_adapter(names):
        return [] if ADAPTER_WEIGHTS in names or _ADAPTER not in names else [_ADAPTER]
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if (
        not shards
        or CONFIG not in names
        or any(s + end in names for s in STEMS for end in (".safetensors", INDEX_SUFFIX))
    ):
        return []
    if _WHOLE in names:
        return [_WHOLE]
    if _INDEX not in names:
        raise CheckpointError(f"{directory}/{shards[0]}: there is no {_INDEX} that lists it; fetch the index")
    try:
        weight_map = json.loads((directory / _INDEX).read_bytes())["weight_map"]
        listed = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{directory}/{_INDEX}: is no index of shards; fetch the file again") from None
    for name in listed:
        if name not in shards:
            raise CheckpointError(f"{directory}/{_INDEX}: names {name!r}, which is missing; fetch that shard")
    return listed


def _key(directory: Path, names: list[str]) -> str:
    states = [(name, astuple(FileState.of((directory / name).stat()))) for name in names]
    return hashlib.sha256(json.dumps([str(directory.resolve()), states]).encode()).hexdigest()


def _is_whole(target: Path) -> bool:
    """Whether a conversion is there as it was made; bytes are read where the state of a file is another."""
    with suppress(OSError):
        record = unseal((target / _RECORD).read_bytes())
        if record is None:
            return False
        for name, (state, sha256) in record["files"].items():
            path = target / name
            if list(astuple(FileState.of(path.stat()))) != state:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        return False
        return True
    return False


def _convert(directory: Path, names: list[str], shards: list[str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        weight_map: dict[str, str] = {}
        for shard in shards:
            file = shard.replace("pytorch_model", STEMS[0]).replace(".bin", ".safetensors")
            tensors = _tensors(directory / shard)
            _write(staging / file, tensors)
            weight_map |= dict.fromkeys(tensors, file)
        if len(shards) > 1:
            (staging / (STEMS[0] + INDEX_SUFFIX)).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        for name in names:
            if name.endswith(_SMALL) and name != _INDEX:
                shutil.copyfile(directory / name, staging / name)
        (staging / _RECORD).write_bytes(seal({"files": {path.name: _recorded(path) for path in staging.iterdir()}}))
        os.rename(staging, target)  # noqa: PTH104
    except OSError:
        if not target.is_dir():  # where it is, another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _recorded(path: Path) -> tuple[tuple[int, ...], str]:
    """State and SHA-256 of a file that was just written."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return astuple(settled(file.fileno())), digest


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    import torch

    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged stack machine ends in
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: is not read, since it is damaged or holds more than tensors ({reason}); convert it where you trust it"
        ) from None
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise CheckpointError(f"{path}: holds more than tensors by name; save the model again with save_pretrained")
    for name, tensor in found.items():
        if (
            not isinstance(name, str)
            or str(tensor.dtype).removeprefix("torch.") not in CODES
            or tensor.layout != torch.strided
        ):
            raise CheckpointError(f"{path}: {name!r} is {tensor.dtype} in {tensor.layout}, which safetensors has not")
    return found


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """A safetensors file, tensor by tensor, so that no more than one is in memory."""
    import torch

    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    for name, tensor in ordered:
        code, size = CODES[str(tensor.dtype).removeprefix("torch.")], tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in ordered:
            if tensor.numel():
                tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tofile(file)
