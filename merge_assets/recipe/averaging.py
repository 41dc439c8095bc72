"""The template ``average_checkpoints``, written out as models with weights.

A decay of the learning rate can be had after training at a constant one, by a weighted mean of its checkpoints
(Warmup-Stable and Merge, 2507.17634). Let there be k + 1 checkpoints, 0 the oldest, and let 1 >= w_1 >= … >= w_k >= 0 be what
the steps from checkpoint j - 1 to j are to count; then the weights are

    c_0 = 1 - w_1    c_j = w_j - w_(j+1)    c_k = w_k

which are not negative and sum to 1, and c_j + … + c_k = w_j. The curves, with n = k + 1:

| decay | w_j | weights |
|---|---|---|
| ``linear`` | 1 - j/n | 1/n each: a straight line to zero is the mean |
| ``constant`` | the same | the mean of the last checkpoints (2209.14981), called by its weights |
| ``cosine`` | (1 + cos(pi j/n)) / 2 | the most in the middle, the least at both ends, where they are equal |
| ``{exponential: r}`` | r^j | c_0 = 1 - r, each r times the one before, but c_k = r^k, all that is left |

The formula is that paper's, which has linear, cosine and inverse square root decays. Both ends of the curve, w_0 = 1 and
w_n = 0, are chosen here: a decay that begins at the oldest checkpoint and would be over one step behind the newest, so that
every checkpoint has a weight. An exponential decay never reaches zero, so the newest has what is left. It is no moving average
of the weights, whose newest would have 1 - r.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from itertools import pairwise

from merge_assets.recipe.schema import ModelEntry, Recipe
from merge_assets.recipe.schema_averaging import AverageCheckpoints, Curve, Exponential

_DIGITS = 50
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def checkpoint_weights(decay: Curve | Exponential, count: int) -> tuple[float, ...]:
    """The weights of checkpoints, oldest first.

    They are computed to 50 digits and rounded once, so that they are the same on every machine: no library's cosine is asked.

    Args:
        decay: the curve.
        count: number of checkpoints, at least 1.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        curve = [Decimal(1), *(_height(decay, j, count) for j in range(1, count)), Decimal(0)]
        return tuple(float(high - low) for high, low in pairwise(curve))


def weighted_models(template: AverageCheckpoints) -> tuple[ModelEntry, ...]:
    """The checkpoints that a template takes, oldest first, each with its ``weight``."""
    models = [model for _, model in template.mentions()]
    weights = checkpoint_weights(template.decay, len(models)) if models else ()
    return tuple(
        ModelEntry(model=model, parameters={"weight": weight}) for model, weight in zip(models, weights, strict=True)
    )


def written_out(recipe: Recipe) -> Recipe:
    """A recipe with ``models`` and their weights in place of its ``average_checkpoints``; another one as it is."""
    template = recipe.average_checkpoints
    if template is None:
        return recipe
    plain = {"models": weighted_models(template), "parameters": {"normalize": False}, "average_checkpoints": None}
    return recipe.model_copy(update=plain)


def _height(decay: Curve | Exponential, j: int, count: int) -> Decimal:
    """w_j of the curve, 0 < j < count."""
    if isinstance(decay, Exponential):
        return Decimal(repr(decay.exponential)) ** j
    if decay == "cosine":
        return (1 + _cosine(_PI * j / count)) / 2
    return 1 - Decimal(j) / count


def _cosine(angle: Decimal) -> Decimal:
    """The sum of the series 1 - x²/2! + x⁴/4! - …, from 0 to pi, until nothing is added."""
    term = total = Decimal(1)
    step, before = 0, Decimal(0)
    while total != before:
        step += 2
        before = total
        term = -term * angle * angle / (step * (step - 1))
        total += term
    return total
