"""The checkpoint that a plan describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from merge_assets.checkpoint import Checkpoint, TensorHeader
from merge_assets.errors import CheckpointError
from merge_assets.plan.model import Plan


def planned_checkpoint(plan: Plan, read_file: Callable[[str, str], bytes]) -> Checkpoint:
    """The checkpoint that a plan describes, before it is built.

    Args:
        plan: the plan.
        read_file: gives a small file of a model, by the model's location and the file's name.
    """
    tensors: Mapping[str, TensorHeader] = {
        tensor.name: TensorHeader(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            file=plan.shards[tensor.shard].file,
            begin=tensor.begin,
            end=tensor.end,
        )
        for tensor in plan.tensors
    }
    files = {shard.file: shard.size for shard in plan.shards} | {c.file: c.size for c in plan.carried}
    texts = {written.file: written.text.encode() for written in plan.written}
    places = {c.file: plan.models[c.model].location for c in plan.carried}

    def read(name: str) -> bytes:
        if name in texts:
            return texts[name]
        try:
            return read_file(places[name], name)
        except (KeyError, OSError):  # of a recipe whose inputs were not downloaded yet
            raise CheckpointError(f"{name}: is not there yet; run `merge-assets build {plan.recipe}`") from None

    files |= {name: len(text) for name, text in texts.items()}
    return Checkpoint(f"recipe:{plan.recipe}", tensors, plan.config, files, reader=read)
