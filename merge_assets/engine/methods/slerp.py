"""slerp: spherical linear interpolation of whole tensors (Shoemake 1985)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from merge_assets.engine.kernel import Expression, TileFunction

_PARALLEL = 0.9995
"""Above this |cosine| the arc is so flat that sin θ loses precision and the straight line is taken."""

_ZERO = 1e-8
"""A tensor of a smaller norm has no direction."""


def slerp(expression: Expression) -> TileFunction:
    """y = sin((1−t)θ)/sinθ · b + sin(tθ)/sinθ · x, with θ the angle between base b and x as flat vectors.

    Where |cos θ| > 0.9995 or a norm is below 1e-8: y = (1−t) b + t x. Neither input is normalised.
    """
    base = expression.base
    assert base is not None
    t = float(expression.parameters["t"])
    products = torch.zeros(3, dtype=torch.float64)
    for _, block in expression.blocks():
        b, x = block[base].double(), block[1 - base].double()
        products += torch.stack((b.dot(b), x.dot(x), b.dot(x))).cpu()
    from_base, to_other = _coefficients(t, *products.tolist())

    def tile(inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        return inputs[base].mul_(from_base).add_(inputs[1 - base], alpha=to_other)

    return tile


def _coefficients(t: float, bb: float, xx: float, bx: float) -> tuple[float, float]:
    norms = math.sqrt(bb), math.sqrt(xx)
    if min(norms) < _ZERO:
        return 1 - t, t
    cosine = bx / (norms[0] * norms[1])
    if abs(cosine) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
