"""Which matrices of a checkpoint are scored, and where each lies in the stored tensors.

A stored tensor is one matrix, a fused one (query, key and value in one; gate and up in one), a stack of one
matrix per expert, or both. The config says how a fused tensor is laid out; where it does not, the tensor is
scored whole and a note says so. No weight is read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from merge_assets.architecture import LayerStack
from merge_assets.checkpoint import Checkpoint, TensorHeader
from merge_assets.errors import AnalysisError

READABLE = ("BF16", "F16", "F32", "F64")
"""Storage types that hold a weight's values without a separate scale."""

_ATTENTION = frozenset(("qkv_proj", "query_key_value", "Wqkv", "wqkv", "W_pack", "c_attn", "qkv", "in_proj_weight"))
_GATED = frozenset(("gate_up_proj", "input_linear", "dense_h_to_4h"))
_BY_GROUP = ("gpt_neox", "bloom", "persimmon", "RefinedWeb", "falcon")
"""Families whose ``query_key_value`` is stored by group: some heads of the query, then the key and value they share."""
_COLUMNS_OUT = ("llama4", "gpt_oss")
_EXPERT = re.compile(r"(?:(?<=\.)|^)([a-z_]*experts)\.(\d+)\.")

Span = tuple[int, int, int]
"""Start, stop, step of rows or columns."""


@dataclass(frozen=True)
class Part:
    """One matrix to be scored.

    Attributes:
        name: its tensor name; that of the stored tensor unless it was split off.
        module: the name inside its layer, without ``.weight`` and the expert's number: ``mlp.experts.up_proj``.
        stack: prefix of its layer stack, ``None`` for a weight outside the layers.
        layer: index of the layer in its stack, ``None`` outside.
        expert: index of the expert, ``None`` if it belongs to none.
        source: the stored tensor.
        block: rows and columns of the stored matrix that holds it (one expert's, if they are stacked).
        offset: elements of the stored tensor that precede the block.
        axis: 0 if ``spans`` are rows, 1 if they are columns.
        spans: the rows or columns of the block that belong to it, in order.
    """

    name: str
    module: str
    stack: str | None
    layer: int | None
    expert: int | None
    source: TensorHeader
    block: tuple[int, int]
    offset: int
    axis: int
    spans: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of this matrix."""
        count = sum(len(range(*span)) for span in self.spans)
        return (count, self.block[1]) if self.axis == 0 else (self.block[0], count)

    @property
    def nbytes(self) -> int:
        """Bytes of this matrix as stored."""
        return math.prod(self.shape) * (self.source.nbytes // self.source.numel)

    @property
    def whole(self) -> bool:
        """Whether it is the stored tensor itself."""
        return math.prod(self.shape) == self.source.numel


@dataclass(frozen=True)
class Selection:
    """What an analysis will score.

    Attributes:
        parts: the matrices, grouped by stored tensor, in file order.
        notes: tensor name -> why it is not scored, or is scored whole although it is fused.
    """

    parts: tuple[Part, ...]
    notes: Mapping[str, str]


def select(checkpoint: Checkpoint, modules: Sequence[str] | None) -> Selection:
    """The matrices of a checkpoint to be scored.

    Args:
        checkpoint: an opened checkpoint.
        modules: substrings of tensor names that begin a word, such as ``v_proj`` or ``self_attn.v_proj`` (so ``v_proj``
            is not found in ``qkv_proj``); a fused tensor is found under its own name and those of its parts. ``None``:
            every matrix of every layer stack, without embeddings and output head.

    Raises:
        AnalysisError: no weight matches one of ``modules``, or there is no matrix in any layer.
    """
    parts: list[Part] = []
    notes: dict[str, str] = {}
    known: set[str] = set()
    unused = dict.fromkeys(modules or ())
    for header in checkpoint.tensors.values():
        found, note = _parts(checkpoint, header)
        known.update(part.module for part in found)
        chosen = [part for part in found if _is_chosen(part, modules, unused)]
        parts.extend(chosen)
        if note and (chosen or (not found and (modules is None or any(_names(text, header.name) for text in modules)))):
            notes[header.name] = note
    if unused or not parts:
        what = ", ".join(repr(text) for text in unused) or "any layer"
        raise AnalysisError(
            f"{checkpoint.location}: no two-dimensional weight matches {what}; "
            f"weights that can be named: {', '.join(sorted(known)) or 'none'}"
        )
    return Selection(tuple(parts), notes)


def _is_chosen(part: Part, modules: Sequence[str] | None, unused: dict[str, None]) -> bool:
    if modules is None:
        return part.layer is not None
    hits = [text for text in modules if _names(text, part.name) or _names(text, part.source.name)]
    for text in hits:
        unused.pop(text, None)
    return bool(hits)


def _names(text: str, name: str) -> bool:
    """Whether a name has the text where no letter or digit precedes it."""
    start = r"(?<![A-Za-z0-9])" if text[:1].isalnum() else ""
    return re.search(start + re.escape(text), name) is not None


def _parts(checkpoint: Checkpoint, header: TensorHeader) -> tuple[list[Part], str | None]:
    """The matrices in a stored tensor, and why there is none or why it was not split."""
    shape = header.shape
    leaf = header.name.removesuffix(".weight").rpartition(".")[2]
    if len(shape) < 2 or leaf.endswith("bias") or "scale" in leaf:
        return [], None
    stack, layer, suffix = _place(checkpoint.stacks, header.name)
    if min(shape) < 2:
        return [], f"shape {list(shape)} is a vector" if stack else None
    if header.dtype not in READABLE:
        return [], f"stored as {header.dtype}; scores need one of {', '.join(READABLE)}"
    config = _Config(checkpoint.config, stack)
    if len(shape) == 2:
        blocks = _expert_rows(header, config)
    elif len(shape) == 3 and ("expert" in header.name or shape[0] in config.experts):
        blocks = [(expert, (shape[1], shape[2])) for expert in range(shape[0])]
    else:
        return [], f"shape {list(shape)} is neither a matrix nor a stack of experts"
    parts: list[Part] = []
    note: str | None = None
    for index, (expert, block) in enumerate(blocks):
        found = _EXPERT.search(suffix)
        name = header.name if expert is None else _with_expert(header.name, expert)
        module = suffix.removesuffix(".weight")
        if expert is None and found:
            expert, module = int(found[2]), (suffix[: found.start(2)] + suffix[found.end() :]).removesuffix(".weight")
        whole = Part(
            name=name,
            module=module,
            stack=stack.prefix if stack else None,
            layer=layer,
            expert=expert,
            source=header,
            block=block,
            offset=index * math.prod(block),
            axis=0,
            spans=((0, block[0], 1),),
        )
        pieces = _pieces(leaf, block, config)
        if isinstance(pieces, str):
            note = pieces
            pieces = {}
        parts += [
            replace(whole, name=_renamed(name, leaf, new), module=_renamed(module, leaf, new), axis=axis, spans=spans)
            for new, (axis, spans) in pieces.items()
        ] or [whole]
    return parts, note


def _place(stacks: Sequence[LayerStack], name: str) -> tuple[LayerStack | None, int | None, str]:
    for stack in stacks:
        found = stack.split(name)
        if found:
            return stack, found[0], found[1]
    return None, None, name


def _with_expert(name: str, expert: int) -> str:
    """``….mlp.experts.down_proj`` -> ``….mlp.experts.7.down_proj``."""
    stem = name.removesuffix(".weight")
    parent, _, leaf = stem.rpartition(".")
    numbered = f"{parent}.{expert}" if parent.endswith("experts") else f"{parent}.experts.{expert}"
    return f"{numbered}.{leaf}{name[len(stem) :]}"


def _renamed(name: str, leaf: str, new: str) -> str:
    head, _, tail = name.rpartition(leaf)
    return f"{head}{new}{tail}"


Pieces = dict[str, tuple[int, tuple[Span, ...]]]


def _pieces(leaf: str, block: tuple[int, int], config: _Config) -> Pieces | str:
    """How a fused matrix is cut: new leaf name -> axis and spans; empty if not fused; a note if unknown."""
    whole = f"{leaf} of shape {list(block)} is scored whole: the config does not say how"
    if leaf in _ATTENTION:
        return _attention(leaf, block, config) or f"{whole} query, key and value are laid out"
    gated = config.model_type == "chatglm" and block[0] == 2 * config.inner
    if leaf in _GATED and (leaf != "dense_h_to_4h" or gated):
        return _gated(block, config) or f"{whole} gate and up are laid out"
    return {}


def _attention(leaf: str, block: tuple[int, int], config: _Config) -> Pieces | None:
    by_group, heads = _by_group(leaf, config), config.heads
    if by_group is None or not heads:
        return None
    groups, width = config.key_heads, config.head_size
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


def _by_group(leaf: str, config: _Config) -> bool | None:
    """Whether each group of query heads is followed by its key and value, or all of the query by all of the key."""
    family = config.model_type
    if family == "codegen":
        return None
    if leaf != "query_key_value":
        return leaf == "wqkv" or family == "gpt_bigcode"
    if family == "chatglm":
        return not config.flag("multi_query_attention")
    return True if family.startswith(_BY_GROUP) else False if family == "glm" else None


def _gated(block: tuple[int, int], config: _Config) -> Pieces | None:
    if config.hidden not in block:
        return None
    axis = 1 if config.model_type.startswith(_COLUMNS_OUT) or block[1] != config.hidden else 0
    size = block[axis]
    if config.model_type == "gpt_oss":
        return {"gate_proj": (axis, ((0, size, 2),)), "up_proj": (axis, ((1, size, 2),))}
    return {"gate_proj": (axis, ((0, size // 2, 1),)), "up_proj": (axis, ((size // 2, size, 1),))}


def _expert_rows(header: TensorHeader, config: _Config) -> list[tuple[int | None, tuple[int, int]]]:
    """The blocks of a two-dimensional tensor: itself, or one per expert where they are stacked by rows (DBRX)."""
    rows, columns = header.shape
    if re.search(r"experts\.(?!\d)", header.name):
        for count in config.experts:
            if rows == count * config.inner:
                return [(expert, (rows // count, columns)) for expert in range(count)]
    return [(None, (rows, columns))]


class _Config:
    """The sizes that fused layouts need, under the names that published configs give them."""

    def __init__(self, config: Mapping[str, Any], stack: LayerStack | None) -> None:
        path = stack.config_key[:-1] if stack and stack.config_key else ()
        level: Any = config
        for key in path:
            level = level[key]
        nested = [value for value in level.values() if isinstance(value, Mapping)]
        self._levels: list[Mapping[str, Any]] = [level, *nested]

    def _numbers(self, *names: str) -> Iterator[int]:
        for level in self._levels:
            for name in names:
                value = level.get(name)
                if type(value) is int and value > 0:
                    yield value

    def flag(self, name: str) -> bool:
        return self._levels[0].get(name) is True

    @property
    def model_type(self) -> str:
        return next((str(level["model_type"]) for level in self._levels if level.get("model_type")), "")

    @property
    def hidden(self) -> int:
        return next(self._numbers("hidden_size", "n_embd", "d_model"), 0)

    @property
    def heads(self) -> int:
        return next(self._numbers("num_attention_heads", "n_head", "n_heads", "num_heads"), 0)

    @property
    def key_heads(self) -> int:
        multi_query = self.flag("multi_query") and not self.flag("new_decoder_architecture")
        named = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "multi_query_group_num")
        return 1 if multi_query else next(self._numbers(*named), self.heads)

    @property
    def head_size(self) -> int:
        return next(self._numbers("head_dim", "kv_channels"), self.hidden // self.heads)

    @property
    def experts(self) -> set[int]:
        return set(self._numbers("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))

    @property
    def inner(self) -> int:
        return next(self._numbers("ffn_hidden_size"), 0)
