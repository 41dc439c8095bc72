"""Formulas of :mod:`merge_assets.methods.formula` as calls of the kernels in C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import Array, byref, c_double, pointer

from merge_assets.engine.native import DTYPES, CutStruct, InputArrays, MixingStruct, SparsifierStruct, call
from merge_assets.methods.formula import Band, Bernoulli, Combination, Cut, RankedBernoulli, Sparsifier, TaskVectors

RunFormula = Callable[[InputArrays, int, int, int, int, str], int]
"""(inputs, row length, flat index of the first element, elements, address of the output, its dtype) -> number of NaN or
infinite results."""

_BAND, _BERNOULLI, _RANKED = 1, 2, 3


def prepared(formula: Combination | TaskVectors) -> RunFormula:
    """The formula as a function of tiles; its constants are brought into place once."""
    return _combination(formula) if isinstance(formula, Combination) else _task_vectors(formula)


def _doubles(values: Sequence[float]) -> Array[c_double]:
    return (c_double * len(values))(*values)


def sparsifier_structs(sparsifiers: Sequence[Sparsifier]) -> Array[SparsifierStruct]:
    """Sparsifiers as the kernels read them."""
    return (SparsifierStruct * len(sparsifiers))(*map(_struct, sparsifiers))


def _combination(formula: Combination) -> RunFormula:
    coefficients = _doubles(formula.coefficients)

    def run(inputs: InputArrays, row: int, start: int, count: int, address: int, dtype: str) -> int:
        return call("combine", byref(inputs), coefficients, count, address, DTYPES[dtype])

    return run


def _task_vectors(formula: TaskVectors) -> RunFormula:
    each = sparsifier_structs(formula.sparsifiers)
    common = None if formula.common is None else pointer(_struct(formula.common))
    mixing = MixingStruct(
        _doubles(formula.weights),
        _doubles(formula.factors),
        None if formula.votes is None else _doubles(formula.votes),
        formula.normalize,
        formula.factor,
    )

    def run(inputs: InputArrays, row: int, start: int, count: int, address: int, dtype: str) -> int:
        return call("mix", byref(inputs), each, common, byref(mixing), row, start, count, address, DTYPES[dtype])

    return run


def _struct(sparsifier: Sparsifier) -> SparsifierStruct:
    if isinstance(sparsifier, Band):
        if sparsifier == Band():
            return SparsifierStruct()  # kind 0 keeps everything
        return SparsifierStruct(kind=_BAND, inner=_cut(sparsifier.inner), outer=_cut(sparsifier.outer))
    if isinstance(sparsifier, Bernoulli):
        return SparsifierStruct(kind=_BERNOULLI, key=sparsifier.key, probability=sparsifier.probability)
    assert isinstance(sparsifier, RankedBernoulli)
    return SparsifierStruct(
        kind=_RANKED,
        divide=sparsifier.divide,
        key=sparsifier.key,
        probability=sparsifier.probability,
        spread=sparsifier.spread,
    )


def _cut(cut: Cut) -> CutStruct:
    return CutStruct(cut.last_tie, cut.bits)
