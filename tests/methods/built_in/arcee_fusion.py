"""arcee_fusion: x where |x−b| · KL(softmax(x) ‖ softmax(b)) is at least median + 1.5 (q3−q1), else b."""

from __future__ import annotations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs


def formula(x: Inputs, b: Array) -> Array:
    log_p, log_q = log_softmax(x[0]), log_softmax(b)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1, keepdims=True)
    importance = np.abs(x[0] - b) * np.maximum(divergence, 0)
    q1, median, q3 = np.quantile(importance, [0.25, 0.5, 0.75], method="lower")
    return np.where(importance >= median + 1.5 * (q3 - q1), x[0], b)


def log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


CASES = {"arcee_fusion": Case("arcee_fusion", "a", base="base")}
TYPICAL = CASES
