"""Sums whose result does not depend on tile, thread or device, nor on the version of Python."""

from __future__ import annotations

from collections.abc import Iterable

from merge_assets.methods.expression import Tensor


def total(values: Iterable[float]) -> float:
    """Sum of numbers, one after the other; the built-in ``sum`` adds floats in another way from Python 3.12 on."""
    result = 0.0
    for value in values:
        result += value
    return result


def row_sums(values: Tensor) -> Tensor:
    """Sum of each row of a float64 matrix (rows, width) -> (rows,).

    Halves are added until one column is left, so the order of the additions depends on the width alone; torch's own
    sum may choose another order for another number of rows, or on another device.
    """
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        odd = values[:, 2 * half :]
        values = values[:, :half] + values[:, half : 2 * half]
        if odd.shape[1]:
            values[:, :1] += odd
    return values[:, 0]


def column_sums(values: Tensor) -> Tensor:
    """Sum of each column of a float64 matrix (rows, width) -> (width,), in an order that the number of rows fixes."""
    while values.shape[0] > 1:
        half = values.shape[0] // 2
        odd = values[2 * half :]
        values = values[:half] + values[half : 2 * half]
        if odd.shape[0]:
            values[:1] += odd
    return values[0]
