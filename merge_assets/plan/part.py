"""Some tensors of a plan alone, in one file."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace

from merge_assets.plan.layout import lay_out
from merge_assets.plan.model import Plan


def only(plan: Plan, names: Collection[str], stem: str) -> Plan:
    """The plan of a single file ``stem.safetensors`` with the tensors of these names, for the engine; its key is empty."""
    chosen = [tensor for tensor in plan.tensors if tensor.name in names]
    shards, ranges = lay_out([(tensor.name, tensor.dtype, tensor.shape) for tensor in chosen], sys.maxsize, stem)
    placed = [
        replace(tensor, shard=0, begin=ranges[tensor.name].begin, end=ranges[tensor.name].end) for tensor in chosen
    ]
    return replace(plan, tensors=tuple(sorted(placed, key=lambda tensor: tensor.begin)), shards=shards, key="")
