"""ram: what one model alone changed is kept whole, what several changed is averaged."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.expression import Expression, Tensor, TileFunction

EPSILON = Parameter("epsilon", "difference to the base up to which an element is unchanged", default=1e-5, at_least=0.0)


def ram(expression: Expression) -> TileFunction:
    """y = b + Σ nz_i d_i / Σ nz_i, with nz_i = |d_i| > ``epsilon``; b where no model changed it."""
    return merged(expression, [1.0] * (expression.count - 1))


def merged(expression: Expression, scales: Sequence[float]) -> TileFunction:
    """:func:`ram`, with d_i times its scale where model i alone changed the base."""
    arrays, base = expression.arrays, expression.base
    assert base is not None

    def tile(inputs: Sequence[Tensor], start: int) -> Tensor:
        changes = changes_of(expression, inputs)
        touched = touched_by(expression, changes)
        count = count_of(touched)
        result: Tensor = arrays.zeros_like(changes[0])
        for change, own, scale in zip(changes, touched, scales, strict=True):
            result += arrays.where(own, arrays.where(count == 1, change * scale, change), 0.0)
        return result.div_(count.clamp(min=1)).add_(inputs[base])

    return tile


def changes_of(expression: Expression, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Differences to the base: taken in float32, held in float64."""
    base = expression.base
    assert base is not None
    return [(x - inputs[base]).double() for place, x in enumerate(inputs) if place != base]


def touched_by(expression: Expression, changes: Sequence[Tensor]) -> list[Tensor]:
    """nz_i; a NaN is a change, too, so that it comes through and is reported."""
    epsilon = float(expression.parameters["epsilon"])
    return [(change.abs() <= epsilon).logical_not_() for change in changes]


def count_of(masks: Sequence[Tensor]) -> Tensor:
    """Σ nz_i."""
    total = masks[0].int()
    for mask in masks[1:]:
        total += mask
    return total


METHOD = Method(
    name="ram",
    summary="Changes of one model alone as they are, changes of several averaged.",
    parameters=(EPSILON,),
    kernel=ram,
    in_torch=True,
    needs_base=True,
)
