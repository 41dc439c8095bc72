"""slerp: spherical linear interpolation of whole tensors (Shoemake 1985)."""

from __future__ import annotations

import math

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.elementary import arc_cosine, sine
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Combination

_PARALLEL = 0.9995
"""Above this |cosine| the arc is so flat that sin θ loses precision and the straight line is taken."""

_ZERO = 1e-8
"""A tensor of a smaller norm has no direction."""


def slerp(expression: Expression) -> Combination:
    """y = sin((1-t)θ)/sinθ · b + sin(tθ)/sinθ · x, with θ the angle between base b and x as flat vectors.

    Where |cos θ| > 0.9995 or a norm is below 1e-8: y = (1-t) b + t x. Neither input is normalised.
    """
    base = expression.base
    assert base is not None
    t = float(expression.parameters["t"])
    products = expression.gram()
    other = 1 - base
    coefficients = _coefficients(t, products[base][base], products[other][other], products[base][other])
    return Combination(coefficients if base == 0 else coefficients[::-1])


def _coefficients(t: float, bb: float, xx: float, bx: float) -> tuple[float, float]:
    norms = math.sqrt(bb), math.sqrt(xx)
    if min(norms) < _ZERO:
        return 1 - t, t
    cosine = bx / (norms[0] * norms[1])
    if not abs(cosine) <= _PARALLEL:  # also where an input holds NaN
        return 1 - t, t
    angle = arc_cosine(cosine)
    return sine((1 - t) * angle) / sine(angle), sine(t * angle) / sine(angle)


METHOD = Method(
    name="slerp",
    summary="Spherical interpolation from the base to the other input.",
    parameters=(Parameter("t", "place on the arc, from 0, the base, to 1", required=True),),
    kernel=slerp,
    needs_base=True,
    most=1,
    passes=1,
)
