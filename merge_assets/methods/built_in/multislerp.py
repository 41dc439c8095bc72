"""multislerp: weighted mean of directions, for any number of inputs."""

from __future__ import annotations

from merge_assets.methods.built_in.linear import weights
from merge_assets.methods.declaration import WEIGHT, Method, Parameter
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Combination
from merge_assets.methods.rows import total
from merge_assets.methods.span import length, norms_and_directions, on_base


def multislerp(expression: Expression) -> Combination:
    """y = m · Σ w_i ‖x_i‖ with the mean direction m = Σ w_i u_i / ‖Σ w_i u_i‖ of u_i = x_i/‖x_i‖.

    With a base, of the task vectors x_i − b, and y is added to it. The formula goes on to walk from m along the mean of
    the u_i in the tangent space at m; as m is parallel to Σ w_i u_i, that mean is zero for all inputs, and the walk ends
    where it starts. Vectors of a norm up to ``eps`` have no direction and count as zero; where the mean direction
    itself is no longer than ``eps``, y is the straight sum Σ w_i x_i.
    """
    given = weights(expression, normalize="normalize_weights")
    eps = float(expression.parameters["eps"])
    norms, directions = norms_and_directions(expression.gram(centered=expression.base is not None))
    pointing = [weight if norm > eps else 0.0 for weight, norm in zip(given, norms, strict=True)]
    resultant = length(directions, pointing)
    if resultant > eps:
        scale = total(weight * norm for weight, norm in zip(given, norms, strict=True)) / resultant
        given = [scale * p / norm if p else 0.0 for p, norm in zip(pointing, norms, strict=True)]
    return Combination(on_base(given, expression.base))


METHOD = Method(
    name="multislerp",
    summary="Weighted mean of directions in the tangent space at their mean, for any number of inputs.",
    parameters=(
        WEIGHT,
        Parameter("normalize_weights", "whether the weights are divided by their sum", default=True, boolean=True),
        Parameter("eps", "norm up to which a vector has no direction", default=1e-8, at_least=0.0),
    ),
    kernel=multislerp,
    divides="normalize_weights",
    takes_base=True,
    passes=1,
)
