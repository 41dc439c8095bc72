"""sce: select, calculate, erase (2408.07990)."""

from __future__ import annotations

import math

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Band, TaskVectors
from merge_assets.methods.rows import total
from merge_assets.methods.task_vectors import INT8_MASK


def sce(expression: Expression) -> TaskVectors:
    """y = b + Σ w_i m_i d_i / Σ w_i m_i with w_i = mean(d_i²), normalised, and m_i the vote on signs, unweighted.

    With ``select_topk`` below 1 only the int(select_topk·n) positions whose variance over the models is largest change,
    and only they count in w_i. Where all task vectors are zero the base is the result.
    """
    models = expression.count - 1
    share = float(expression.parameters["select_topk"])
    dense = [Band()] * models
    common = None
    if share < 1:
        common = Band(expression.select_variance(int(share * math.prod(expression.shape))))
    squares = [norms.l2_squared for norms in expression.norms(dense, common)]
    whole = total(squares)
    weights = [square / whole if whole else 0.0 for square in squares]
    return TaskVectors(
        sparsifiers=dense,
        weights=weights,
        factors=weights,
        votes=[1.0] * models,
        normalize=True,
        common=common,
    )


METHOD = Method(
    name="sce",
    summary="Task vectors weighted by their mean square, merged where their signs agree.",
    paper="2408.07990",
    parameters=(
        Parameter(
            "select_topk",
            "share of the positions that change: those of the largest variance over the models",
            default=1.0,
            at_least=0.0,
            at_most=1.0,
        ),
        INT8_MASK,
    ),
    kernel=sce,
    needs_base=True,
    passes=4,
)
