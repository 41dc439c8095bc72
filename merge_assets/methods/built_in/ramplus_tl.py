"""ramplus_tl: ram, with the changes of one model alone enlarged by how many it shares."""

from __future__ import annotations

from merge_assets.methods.built_in.ram import EPSILON, changes_of, count_of, merged, touched_by
from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.expression import Expression, TileFunction


def ramplus_tl(expression: Expression) -> TileFunction:
    """Like :func:`~merge_assets.methods.built_in.ram.ram`, with d_i times 1 + r·clamp(ρ_i, 0, α) where model i alone
    changed the base.

    ρ_i is the number of elements that it changed together with others over the number it changed alone.
    """
    r, alpha = float(expression.parameters["r"]), float(expression.parameters["alpha"])
    unique, overlapping = [0] * (expression.count - 1), [0] * (expression.count - 1)
    for _, block in expression.blocks():
        touched = touched_by(expression, changes_of(expression, block))
        count = count_of(touched)
        for place, own in enumerate(touched):
            alone = int((own & (count == 1)).sum())
            unique[place] += alone
            overlapping[place] += int(own.sum()) - alone
    ratios = [shared / alone if alone else 0.0 for shared, alone in zip(overlapping, unique, strict=True)]
    return merged(expression, [1 + r * min(ratio, alpha) for ratio in ratios])


METHOD = Method(
    name="ramplus_tl",
    summary="ram, with the changes of one model alone enlarged by how many it shares.",
    parameters=(
        EPSILON,
        Parameter(
            "r", "changes of one model alone are enlarged by this times the ratio of shared ones to them", default=0.1
        ),
        Parameter("alpha", "largest ratio of shared changes that counts in `r`", default=0.2, at_least=0.0),
    ),
    kernel=ramplus_tl,
    in_torch=True,
    needs_base=True,
    passes=1,
)
