"""nuslerp: spherical interpolation of two inputs, or of their differences to a base, by their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from merge_assets.methods.declaration import WEIGHT, Method, Parameter
from merge_assets.methods.elementary import arc_cosine, root, sine
from merge_assets.methods.expression import Expression, Tensor, TileFunction
from merge_assets.methods.formula import Combination
from merge_assets.methods.rows import column_sums, row_sums
from merge_assets.methods.span import norms_and_directions, on_base

_STRAIGHT = 1e-6
"""Up to this sin θ the straight line is taken: towards 0 the arc becomes it, towards π it has no definite plane."""

_NO_WEIGHT = 1e-12

Coefficients = tuple[Tensor, Tensor]


def nuslerp(expression: Expression) -> Combination | TileFunction:
    """y = sin((1−t)θ)/sinθ · v_0 + sin(tθ)/sinθ · v_1, with t = w_1/(w_0 + w_1) and θ the angle between v_0 and v_1.

    v_i is x_i, or x_i − b if there is a base, which is then added. Without ``nuslerp_flatten`` every row
    (``nuslerp_row_wise``) or every column is a vector of its own; a row is the last dimension, a column holds one
    element of each row, and a tensor of one dimension is always one vector. Where sin θ ≈ 0, the straight line is
    taken; where the weights sum to 0, t is 0.5. A zero vector stands at a right angle to all.
    """
    first, second = expression.per_model("weight")
    total = first + second
    t = second / total if abs(total) > _NO_WEIGHT else 0.5
    if expression.parameters["nuslerp_flatten"] or len(expression.shape) < 2:
        _, cosines = norms_and_directions(expression.gram(centered=expression.base is not None))
        return Combination(on_base(_arc(t, cosines[0][1]), expression.base))
    if expression.parameters["nuslerp_row_wise"]:
        return _by_row(expression, t)
    return _by_column(expression, t)


def _arc(t: float, cosine: float) -> tuple[float, float]:
    angle = arc_cosine(max(-1.0, min(1.0, cosine)))
    height = sine(angle)
    if height <= _STRAIGHT:
        return 1 - t, t
    return sine((1 - t) * angle) / height, sine(t * angle) / height


def _arcs(expression: Expression, t: float, squares: Sequence[Tensor]) -> Coefficients:
    """:func:`_arc` for many pairs of vectors, from ⟨v_0, v_0⟩, ⟨v_1, v_1⟩ and ⟨v_0, v_1⟩."""
    where = expression.arrays.where
    norms = root(squares[0]) * root(squares[1])
    angle = arc_cosine(where(norms > 0, squares[2] / norms, 0.0).clamp_(-1, 1))
    height = sine(angle)
    straight = height <= _STRAIGHT
    return (
        where(straight, 1 - t, sine((1 - t) * angle) / height),
        where(straight, t, sine(t * angle) / height),
    )


def _by_row(expression: Expression, t: float) -> TileFunction:
    def coefficients(v: Tensor, w: Tensor) -> Coefficients:
        first, second = _arcs(expression, t, [row_sums(v * v), row_sums(w * w), row_sums(v * w)])
        return first[:, None], second[:, None]

    return _tile(expression, coefficients)


def _by_column(expression: Expression, t: float) -> TileFunction:
    squares: list[Tensor] = []
    for _, block in expression.blocks(rows=True):
        _, v, w = _vectors(expression, block)
        part = [column_sums(v * v), column_sums(w * w), column_sums(v * w)]
        squares = [total + more for total, more in zip(squares, part, strict=True)] if squares else part
    first, second = _arcs(expression, t, squares)
    return _tile(expression, lambda v, w: (first.to(v.device), second.to(v.device)))


def _tile(expression: Expression, coefficients: Callable[[Tensor, Tensor], Coefficients]) -> TileFunction:
    def tile(inputs: Sequence[Tensor], start: int) -> Tensor:
        b, v, w = _vectors(expression, inputs)
        first, second = coefficients(v, w)
        result = v.mul_(first).add_(w.mul_(second))
        return (result if b is None else result.add_(b)).flatten()

    return tile


def _vectors(expression: Expression, inputs: Sequence[Tensor]) -> tuple[Tensor | None, Tensor, Tensor]:
    """The base, if there is one, v_0 and v_1 as matrices of whole rows, float64."""
    matrices = [x.view(-1, expression.row).double() for x in inputs]
    if expression.base is None:
        return None, matrices[0], matrices[1]
    b = matrices.pop(expression.base)
    return b, matrices[0] - b, matrices[1] - b


METHOD = Method(
    name="nuslerp",
    summary="Spherical interpolation of two inputs, or of their differences to a base, by their weights.",
    parameters=(
        WEIGHT,
        Parameter("nuslerp_flatten", "whether a tensor is one vector", default=True, boolean=True),
        Parameter(
            "nuslerp_row_wise",
            "whether rows are the vectors, not columns, where a tensor is not one",
            default=False,
            boolean=True,
        ),
    ),
    kernel=nuslerp,
    takes_base=True,
    least=2,
    most=2,
    passes=1,
    rows=True,
)
