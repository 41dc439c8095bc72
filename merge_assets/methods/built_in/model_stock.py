"""model_stock: between base and mean, at the ratio given by the angles between fine-tunes (2403.19522)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.elementary import root
from merge_assets.methods.expression import Expression, Tensor, TileFunction
from merge_assets.methods.formula import Combination
from merge_assets.methods.rows import row_sums, total
from merge_assets.methods.span import norms_and_directions, on_base

_OPPOSED = 1e-6
"""Where 1 + (N−1)c is not larger, the task vectors cancel and t has a pole; the base is the result."""


def model_stock(expression: Expression) -> Combination | TileFunction:
    """y = t·mean(x_i) + (1−t) b, t = N c / (1 + (N−1) c), c the mean cosine of all pairs of task vectors d_i = x_i − b.

    With ``filter_wise`` c and t are those of each row; a tensor of one dimension is one row. The cosine with a zero
    task vector is 0.
    """
    if expression.parameters["filter_wise"] and len(expression.shape) > 1:
        return _by_row(expression)
    base = expression.base
    _, cosines = norms_and_directions(expression.gram(centered=True))
    count = len(cosines)
    mean = total(cosines[i][j] for i, j in combinations(range(count), 2)) / math.comb(count, 2)
    below = 1 + (count - 1) * mean
    t = count * mean / below if below > _OPPOSED else 0.0
    return Combination(on_base([t / count] * count, base))


def _by_row(expression: Expression) -> TileFunction:
    arrays, base, width = expression.arrays, expression.base, expression.row
    assert base is not None

    def tile(inputs: Sequence[Tensor], start: int) -> Tensor:
        matrices = [x.view(-1, width).double() for x in inputs]
        b = matrices.pop(base)
        d = [x - b for x in matrices]
        norms = [root(row_sums(v * v)) for v in d]
        cosines = arrays.zeros_like(norms[0])
        for i, j in combinations(range(len(d)), 2):
            below = norms[i] * norms[j]
            cosines += arrays.where(below > 0, row_sums(d[i] * d[j]) / below, 0.0)
        mean = cosines / arrays.full_like(cosines, math.comb(len(d), 2))  # a number would make it a factor on a GPU
        below = 1 + (len(d) - 1) * mean
        t = arrays.where(below > _OPPOSED, mean / below, 0.0)  # times N, which the mean over models takes away again
        summed = d[0]
        for v in d[1:]:
            summed += v
        return summed.mul_(t[:, None]).add_(b).flatten()

    return tile


METHOD = Method(
    name="model_stock",
    summary="Between the base and the mean of its fine-tunes, at the ratio that their angles give.",
    paper="2403.19522",
    parameters=(Parameter("filter_wise", "whether each row has a ratio of its own", default=False, boolean=True),),
    kernel=model_stock,
    needs_base=True,
    least=2,
    passes=1,
    rows=True,
)
