"""Vectors in the span of the inputs, held as their coefficients: a whole-tensor method then needs only inner products.

``gram[i][j]`` is the inner product of the vectors v_i and v_j, in float64; a vector Σ c_i v_i is the list of its c_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from merge_assets.methods.rows import total

Gram = Sequence[Sequence[float]]


def product(gram: Gram, a: Sequence[float], b: Sequence[float]) -> float:
    """⟨Σ a_i v_i, Σ b_j v_j⟩."""
    return total(ai * bj * gram[i][j] for i, ai in enumerate(a) for j, bj in enumerate(b))


def length(gram: Gram, a: Sequence[float]) -> float:
    """‖Σ a_i v_i‖; 0 where rounding makes the square negative."""
    return math.sqrt(max(0.0, product(gram, a, a)))


def norms_and_directions(gram: Gram) -> tuple[list[float], list[list[float]]]:
    """Norm of every v_i, and the Gram matrix of the directions u_i = v_i/‖v_i‖; a zero vector's direction is zero."""
    norms = [math.sqrt(row[i]) for i, row in enumerate(gram)]
    directions = [
        [gram[i][j] / (ni * nj) if ni and nj else 0.0 for j, nj in enumerate(norms)] for i, ni in enumerate(norms)
    ]
    return norms, directions


def on_base(coefficients: Sequence[float], base: int | None) -> list[float]:
    """Coefficients on all inputs of b + Σ c_i (x_i − b); without a base of Σ c_i x_i."""
    result = list(coefficients)
    if base is not None:
        result.insert(base, 1 - total(coefficients))
    return result
