"""Fused projections: matrices that hold several, and which rows or columns belong to each.

Query, key and value are stored in one, or gate and up. Names say what is fused; how it is laid out is said by the family and
the sizes in the config, or by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from merge_assets.architecture.sizes import Sizes

_ATTENTION = frozenset(("qkv_proj", "query_key_value", "Wqkv", "wqkv", "W_pack", "c_attn", "qkv", "in_proj_weight"))
_GATED = frozenset(("gate_up_proj", "input_linear", "dense_h_to_4h"))
_BY_GROUP = ("gpt_neox", "bloom", "persimmon", "RefinedWeb", "falcon")
"""Families whose ``query_key_value`` is stored by group: some heads of the query, then the key and value they share."""
_COLUMNS_OUT = ("llama4", "gpt_oss")
"""Families whose experts' matrices have a column for every output."""
_EITHER_WAY = ("qwen3_vl_moe",)
"""Families whose files have experts' matrices with a column for every output, or a row, as they were written."""
_INTERLEAVED = ("gpt_oss",)
"""Families in which the rows of gate and up alternate."""

PROJECTIONS = {"query, key and value": ("q_proj", "k_proj", "v_proj"), "gate and up": ("gate_proj", "up_proj")}
"""What a fused matrix holds, in words, and what its projections are called alone."""

Span = tuple[int, int, int]
"""Start, stop, step of rows or columns."""

Cuts = dict[str, tuple[int, tuple[Span, ...]]]
"""Name of each projection -> axis and, along it, the spans that belong to the projection, in order."""


@dataclass(frozen=True)
class Fused:
    """A matrix that holds several.

    Attributes:
        what: the projections, in words.
        cuts: where each of them lies; ``None`` if the config does not say.
    """

    what: str
    cuts: Cuts | None


def fused(leaf: str, block: tuple[int, int], sizes: Sizes) -> Fused | None:
    """What a stored matrix is made of, ``None`` if it is not fused.

    Args:
        leaf: last word of its name, without ``.weight``.
        block: its rows and columns.
        sizes: of the layers that it is of.
    """
    if leaf in _ATTENTION:
        return Fused("query, key and value", _attention(leaf, block, sizes))
    gated = sizes.model_type == "chatglm" and block[0] == 2 * sizes.inner
    if leaf in _GATED and (leaf != "dense_h_to_4h" or gated):
        return Fused("gate and up", _gated(block, sizes))
    return None


def _attention(leaf: str, block: tuple[int, int], sizes: Sizes) -> Cuts | None:
    by_group, heads = _by_group(leaf, sizes), sizes.heads
    if by_group is None or not heads:
        return None
    groups, width = sizes.key_heads, sizes.head_size
    total = (heads + 2 * groups) * width
    if total not in block or heads % groups:
        return None
    axis = block.index(total)
    count = groups if by_group else 1
    q, k = heads // count * width, groups // count * width
    cuts = {"q_proj": (0, q), "k_proj": (q, q + k), "v_proj": (q + k, q + 2 * k)}
    starts = range(0, total, q + 2 * k)
    return {
        name: (axis, tuple((start + begin, start + end, 1) for start in starts)) for name, (begin, end) in cuts.items()
    }


def _by_group(leaf: str, sizes: Sizes) -> bool | None:
    """Whether each group of query heads is followed by its key and value, or all of the query by all of the key."""
    family = sizes.model_type
    if family == "codegen":
        return None
    if leaf == "wqkv":
        return True if family.startswith("internlm") else None  # Kimi's tower has pairs of rows in another order
    if leaf != "query_key_value":
        return family == "gpt_bigcode"
    if family == "chatglm":
        return not sizes.flag("multi_query_attention")
    return True if family.startswith(_BY_GROUP) else False if family == "glm" else None


def has_columns_out(block: tuple[int, int], sizes: Sizes, *, inwards: bool) -> bool | None:
    """Whether a stacked expert's matrix has a column for every output, as none alone has; ``None`` if that cannot be told.

    Args:
        block: its rows and columns.
        sizes: of the layers that it is of.
        inwards: whether its outputs are the model's width (down), not its inputs (gate, up).
    """
    if sizes.hidden not in block:
        return None
    if block[0] != block[1]:
        return block.index(sizes.hidden) == (1 if inwards else 0)
    return None if sizes.model_type.startswith(_EITHER_WAY) else sizes.model_type.startswith(_COLUMNS_OUT)


def alternate(sizes: Sizes) -> bool:
    """Whether the rows of gate and up alternate where both are in one matrix."""
    return sizes.model_type in _INTERLEAVED


def _gated(block: tuple[int, int], sizes: Sizes) -> Cuts | None:
    if sizes.hidden not in block:
        return None
    axis = 1 if sizes.model_type.startswith(_COLUMNS_OUT) or block[1] != sizes.hidden else 0
    size = block[axis]
    if alternate(sizes):
        return {"gate_proj": (axis, ((0, size, 2),)), "up_proj": (axis, ((1, size, 2),))}
    return {"gate_proj": (axis, ((0, size // 2, 1),)), "up_proj": (axis, ((size // 2, size, 1),))}
