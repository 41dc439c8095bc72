"""Experts: under which names and in which tensors their matrices lie.

Files number them (``mlp.experts.7.up_proj.weight``), or stack those of a layer in one tensor: along a dimension of its own, or
by rows (DBRX). In memory, transformers has one parameter for all of them, the gate and up projections in one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import count

from merge_assets.architecture.sizes import Sizes

_NUMBERED = re.compile(r"(?:(?<=\.)|^)([a-z_]*experts)\.(\d+)\.")

_PARAMETERS = (
    ("down_proj", ("down_proj",)),
    ("down_proj", ("w2",)),
    ("gate_up_proj", ("gate_proj", "up_proj")),
    ("gate_up_proj", ("w1", "w3")),
)
"""Names of parameters in memory, and of what they are made of in files."""

_ELSEWHERE = ((".mlp.experts", ".block_sparse_moe.experts"),)
"""Names of modules in memory that files have under another name."""


def expert_of(name: str) -> tuple[str, int] | None:
    """``mlp.experts.7.up_proj`` -> ``mlp.experts.up_proj`` and 7; ``None`` for a name without an expert's number."""
    found = _NUMBERED.search(name)
    return (name[: found.start(2)] + name[found.end() :], int(found[2])) if found else None


def with_expert(name: str, expert: int) -> str:
    """What an expert's matrix in a stack would be called alone: ``….experts.down_proj`` -> ``….experts.7.down_proj``."""
    stem = name.removesuffix(".weight").removesuffix(".bias")
    parent, _, leaf = stem.rpartition(".")
    numbered = f"{parent}.{expert}" if parent.endswith("experts") else f"{parent}.experts.{expert}"
    return f"{numbered}.{leaf}{name[len(stem) :]}"


def matrices_in(name: str, shape: tuple[int, ...], sizes: Sizes) -> list[tuple[int | None, tuple[int, int]]]:
    """The matrices of a stored tensor in order, each with its expert, ``None`` if the tensor is no stack; empty if neither.

    Args:
        name: of the tensor.
        shape: of the tensor, two dimensions or more.
        sizes: of the layers that it is of.
    """
    if len(shape) == 3 and ("expert" in name or shape[0] in sizes.experts):
        return [(expert, (shape[1], shape[2])) for expert in range(shape[0])]
    if len(shape) != 2:
        return []
    rows, columns = shape
    if re.search(r"experts\.(?!\d)", name):
        for number in sizes.experts:
            if rows == number * sizes.inner:
                return [(expert, (rows // number, columns)) for expert in range(number)]
    return [(None, (rows, columns))]


def matrices_of(module: str, names: Collection[str]) -> Iterator[tuple[str, list[list[str]]]]:
    """Of every parameter that a module of experts may have in memory: its name, and every expert's matrices in the files.

    Args:
        module: name of the module in memory.
        names: the tensors in the files.
    """
    for own in (module, *(module.replace(memory, files) for memory, files in _ELSEWHERE)):
        for parameter, projections in _PARAMETERS:
            yield parameter, list(_numbered(own, projections, names))


def _numbered(module: str, projections: Iterable[str], names: Collection[str]) -> Iterator[list[str]]:
    """Names of every expert's matrices, as long as there are more experts."""
    for number in count():
        found = [f"{module}.{number}.{projection}.weight" for projection in projections]
        if not all(name in names for name in found):
            return
        yield found
