"""nearswap: the other input where it is near the base, the base, moved a little, where it is far."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.expression import Expression, Tensor, TileFunction


def nearswap(expression: Expression) -> TileFunction:
    """y = k x + (1−k) b with k = clamp(t/|b−x|, 0, 1) in each element, and 1 where they are equal.

    As k |x−b| is t or, where that is less, |x−b|, this is b moved towards x by at most t: x within b ± t.
    """
    base = expression.base
    assert base is not None
    t = float(expression.parameters["t"])

    def tile(inputs: Sequence[Tensor], start: int) -> Tensor:
        b, x = inputs[base].double(), inputs[1 - base].double()
        low, high = b - t, b + t
        # Not clamp, which gives one device 0 and another −0. What is not finite comes through and is reported.
        near = x.where(x >= low, low)
        return near.where(near <= high, high).where(x.isfinite(), x)

    return tile


METHOD = Method(
    name="nearswap",
    summary="The other input where it is near the base, the base where it is far.",
    parameters=(Parameter("t", "the farthest that an element of the base is moved", required=True, at_least=0.0),),
    kernel=nearswap,
    in_torch=True,
    needs_base=True,
    most=1,
)
