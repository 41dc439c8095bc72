"""Where every output tensor lies: shards, headers and byte offsets, fixed before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_assets.checkpoint import DTYPES
from merge_assets.checkpoint.files import INDEX_SUFFIX, STEMS
from merge_assets.plan.model import Shard

_LENGTH_PREFIX = 8
_ALIGNMENT = 8


@dataclass(frozen=True)
class ByteRange:
    """Byte range of one tensor: ``begin`` to ``end`` (exclusive) in shard number ``shard``."""

    shard: int
    begin: int
    end: int


def lay_out(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    shard_size: int,
    stem: str = STEMS[0],
    together: Mapping[str, int] | None = None,
) -> tuple[tuple[Shard, ...], dict[str, ByteRange]]:
    """Distribute tensors over shards in the order given.

    A shard is closed before it would exceed ``shard_size``; a tensor that alone is larger has a shard to itself.
    Within a shard, wider dtypes come first, so that every tensor starts at a multiple of its element size.

    Args:
        tensors: (name, safetensors dtype code, shape) of every output.
        shard_size: largest size of a shard's data in bytes.
        stem: what the files are called, without number and ending.
        together: number of the group that a tensor is of, 0 where it is not named; no shard holds tensors of two groups.

    Returns:
        The shards and the byte range of every tensor by name.
    """
    group_of = together or {}
    groups: list[list[tuple[str, str, tuple[int, ...], int]]] = [[]]
    filled, current = 0, 0
    for name, dtype, shape in sorted(tensors, key=lambda item: group_of.get(item[0], 0)):
        size = DTYPES[dtype]
        for extent in shape:
            size *= extent
        group = group_of.get(name, 0)
        if groups[-1] and (group != current or filled + size > shard_size):
            groups.append([])
            filled = 0
        current = group
        groups[-1].append((name, dtype, shape, size))
        filled += size
    shards, ranges = [], {}
    for number, shard in enumerate(groups):
        shard.sort(key=lambda item: -DTYPES[item[1]])
        header, spans = _header(shard)
        data = _LENGTH_PREFIX + len(header)
        for name, (begin, end) in spans.items():
            ranges[name] = ByteRange(number, data + begin, data + end)
        part = "" if len(groups) == 1 else f"-{number + 1:05}-of-{len(groups):05}"
        file = f"{stem}{part}.safetensors"
        shards.append(Shard(file, header, data + sum(item[3] for item in shard)))
    return tuple(shards), ranges


def _header(group: Sequence[tuple[str, str, tuple[int, ...], int]]) -> tuple[str, dict[str, tuple[int, int]]]:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    spans = {}
    offset = 0
    for name, dtype, shape, size in group:
        spans[name] = (offset, offset + size)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":"))
    return text + " " * (-len(text) % _ALIGNMENT), spans


def index_name(shards: Sequence[Shard]) -> str:
    """Name of the index of several shards."""
    return shards[0].file.rpartition("-00001-of-")[0] + INDEX_SUFFIX


def index_json(shards: Sequence[Shard], places: dict[str, int], total: int) -> str:
    """Text of the index of several shards.

    Args:
        shards: output files.
        places: tensor name to shard number.
        total: bytes of all tensors.
    """
    weight_map = {name: shards[number].file for name, number in sorted(places.items())}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"
