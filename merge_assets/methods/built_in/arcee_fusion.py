"""arcee_fusion: the base, with the elements of the other input whose change is most important."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from merge_assets.methods.declaration import Method
from merge_assets.methods.elementary import exponential, logarithm, polynomial
from merge_assets.methods.expression import Expression, Tensor, TileFunction
from merge_assets.methods.rows import row_sums

_SMALL = 0.25
"""Below this |z| a divergence is a series, whose terms these are."""

_SERIES = [(k - 1) / math.factorial(k) for k in range(2, 15)]


def arcee_fusion(expression: Expression) -> TileFunction:
    """y = x where importance ≥ median + 1.5 (q3 − q1) of the tensor's importances, else b.

    The importance of an element is |x − b| · KL(softmax(x) ‖ softmax(b)), with the softmax over its row (the last
    dimension), in float64, rounded to float32. The quartiles are exact: of n importances in order those of index ⌊q·(n-1)⌋.
    """
    base, width = expression.base, expression.row
    assert base is not None
    arrays = expression.arrays
    divergences = arrays.empty(math.prod(expression.shape) // width, dtype=arrays.float64)

    def importances(inputs: Sequence[Tensor], start: int) -> Tensor:
        b, x = (inputs[place].view(-1, width).double() for place in (base, 1 - base))
        row = start // width
        scale = divergences[row : row + len(x)].to(x.device)
        return (x - b).abs_().mul_(scale[:, None]).float().flatten()

    def stream() -> Iterator[Tensor]:
        for start, block in expression.blocks(rows=True):
            yield importances(block, start)

    for start, block in expression.blocks(rows=True):
        b, x = (block[place].view(-1, width).double() for place in (base, 1 - base))
        divergences[start // width : start // width + len(x)] = _divergence(expression, x, b)
    q1, median, q3 = expression.quantiles(stream, (0.25, 0.5, 0.75))
    threshold = median + 1.5 * (q3 - q1)

    def tile(inputs: Sequence[Tensor], start: int) -> Tensor:
        # The other way round than in the formula, so that a NaN comes through and is reported.
        less = importances(inputs, start).double() < threshold
        return inputs[base].where(less, inputs[1 - base])

    return tile


def _divergence(expression: Expression, x: Tensor, b: Tensor) -> Tensor:
    """KL(softmax(x) ‖ softmax(b)) of each row, float64.

    Σ p log(p/q) of nearly equal rows is a small difference of large terms. As p and q both sum to 1, it is also
    Σ p z − p + q with z = log(p/q): terms that are all ≥ 0 and, written as q Σ zᵏ (k−1)/k! from k = 2 on, exact for small z.
    """
    arrays = expression.arrays
    p, normaliser = _softmax(arrays, x)
    q, other = _softmax(arrays, b)
    z = (x - b) - (normaliser - other)
    near = (z * z).mul_(q).mul_(polynomial(_SERIES, z))
    return row_sums(arrays.where(z.abs() < _SMALL, near, p * z - p + q))


def _softmax(arrays: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of each row, and log Σ exp of it as a column."""
    largest = x.amax(1, keepdim=True)
    powers = exponential(x - largest, arrays.int64)
    sums = row_sums(powers)[:, None].contiguous()
    return powers.div_(sums), largest + logarithm(sums, arrays.int64)


METHOD = Method(
    name="arcee_fusion",
    summary="The base, with the elements of the other input whose change is most important.",
    parameters=(),
    kernel=arcee_fusion,
    in_torch=True,
    needs_base=True,
    most=1,
    passes=3,
    rows=True,
)
