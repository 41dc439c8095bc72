"""Whether one planned checkpoint becomes another by rewriting tensors in their places, and which."""

from __future__ import annotations

from merge_assets.plan.model import Plan


def why_not_rewritten(loaded: Plan, wanted: Plan) -> str:
    """Why a checkpoint is not another one with other bytes in some tensors, in a few words; empty if it is.

    Args:
        loaded: its plan.
        wanted: the plan of the other one.
    """
    if loaded.config != wanted.config:
        return "its config is another"
    if _beside(loaded) != _beside(wanted):
        return "its tokenizer, or another file beside the weights, is another"
    if loaded.shards != wanted.shards or _places(loaded) != _places(wanted):
        return "its tensors have other names, shapes, dtypes or places"
    return ""


def rewritten(loaded: Plan, wanted: Plan) -> frozenset[str]:
    """Names of the tensors that are not known to have the same bytes; plans as :func:`why_not_rewritten` accepts them."""
    keys = {tensor.name: tensor.key for tensor in loaded.tensors}
    return frozenset(tensor.name for tensor in wanted.tensors if keys.get(tensor.name) != tensor.key)


def _beside(plan: Plan) -> list[tuple[str, str]]:
    carried = [(one.file, one.digest or f"in {plan.models[one.model].location}") for one in plan.carried]
    return sorted([*carried, *((one.file, one.digest) for one in plan.written)])


def _places(plan: Plan) -> list[tuple[object, ...]]:
    return [(one.name, one.dtype, one.shape, one.shard, one.begin, one.end) for one in plan.tensors]
