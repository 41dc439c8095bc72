"""karcher: Riemannian mean of directions on the sphere (Karcher 1977)."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.elementary import PI, arc_cosine, sine
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Combination
from merge_assets.methods.rows import total
from merge_assets.methods.span import Gram, length, norms_and_directions, product

_NO_ANGLE = 1e-7
"""Below this sin θ a direction is the mean itself, or its opposite, from which no way is the shortest."""


def karcher(expression: Expression) -> Combination:
    """y = (Σ α_i ‖x_i‖) u, with α_i = 1/N and u the mean of the directions u_i = x_i/‖x_i‖ along great circles.

    From the normalised straight mean, u ← exp_u(T) with T = Σ α_i θ_i/sinθ_i (u_i − cosθ_i u) and θ_i the angle from u to
    u_i, until ‖T‖ < ``tol``, at most ``max_iter`` times. A zero tensor has no direction but its norm counts; where the
    straight mean is zero (opposite tensors), the first direction is the start.
    """
    norms, directions = norms_and_directions(expression.gram())
    pointing = sum(norm > 0 for norm in norms)
    if not pointing:
        return Combination([0.0] * len(norms))
    alphas = [1 / pointing if norm > 0 else 0.0 for norm in norms]
    mean = _start(directions, alphas)
    tol = float(expression.parameters["tol"])
    for _ in range(int(expression.parameters["max_iter"])):
        tangent = _tangent(directions, alphas, mean)
        step = length(directions, tangent)
        if step > 0:
            along = sine(step) / step
            mean = [sine(PI / 2 - step) * c + along * t for c, t in zip(mean, tangent, strict=True)]
        if step < tol:
            break
    scale = total(norms) / len(norms)
    return Combination([scale * c / norm if norm > 0 else 0.0 for c, norm in zip(mean, norms, strict=True)])


def _start(directions: Gram, alphas: Sequence[float]) -> list[float]:
    """Coefficients of the normalised straight mean."""
    straight = length(directions, alphas)
    if straight > _NO_ANGLE:
        return [alpha / straight for alpha in alphas]
    first = next(place for place, alpha in enumerate(alphas) if alpha)
    return [float(place == first) for place in range(len(alphas))]


def _tangent(directions: Gram, alphas: Sequence[float], mean: Sequence[float]) -> list[float]:
    """T = Σ α_i θ_i/sinθ_i (u_i − cosθ_i u). Only θ/sinθ needs the angle, which is flat where acos loses digits."""
    result = [0.0] * len(alphas)
    toward_mean = 0.0
    for place, alpha in enumerate(alphas):
        unit = [float(place == other) for other in range(len(alphas))]
        cosine = max(-1.0, min(1.0, product(directions, unit, mean)))
        angle = arc_cosine(cosine)
        if alpha and sine(angle) > _NO_ANGLE:
            pull = alpha * angle / sine(angle)
            result[place] = pull
            toward_mean += pull * cosine
    return [t - toward_mean * c for t, c in zip(result, mean, strict=True)]


METHOD = Method(
    name="karcher",
    summary="Riemannian (Karcher) mean of the directions of the inputs.",
    parameters=(
        Parameter("max_iter", "most steps", default=10.0, at_least=0.0),
        Parameter("tol", "length of a step that is the last", default=1e-5, at_least=0.0),
    ),
    kernel=karcher,
    passes=1,
)
