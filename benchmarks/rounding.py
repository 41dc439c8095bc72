"""How many elements of a linear combination are not the nearest number of the output's dtype, and what an element costs.

    python -m benchmarks.rounding

Inputs are random, and half of them lie so that the sum comes close to the middle between two numbers of the output's dtype,
where rounding twice goes wrong. The oracle is the float64 formula, rounded once by integer arithmetic.
"""

from __future__ import annotations

import time
from ctypes import byref, c_double, c_void_p

import numpy as np

from merge_assets.engine.native import DTYPES, InputArrays, call

ELEMENTS = 1 << 22
BITS = {"BF16": 7, "F16": 10, "F32": 23}
"""Bits of the fraction."""
ROUNDS = 5


def nearest(values: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest numbers of a dtype, ties to even; float64, of values whose exponents the dtype has as normal numbers."""
    drop = 52 - BITS[dtype]
    bits = values.view(np.int64)
    bits = bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)
    return (bits >> drop << drop).view(np.float64)


def main() -> None:
    """Print the table."""
    random = np.random.default_rng(1)
    for dtype, bits in BITS.items():
        one = random.uniform(1, 2, ELEMENTS)
        step = 2.0 ** -(bits + 1)
        middle = np.round(one / step) * step
        two = random.uniform(-1, 1, ELEMENTS) * 2.0**-30
        one[::2] = middle[::2]
        out = np.zeros(ELEMENTS, {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[dtype])
        addresses = (c_void_p * 2)(one.ctypes.data, two.ctypes.data)
        inputs, weights = InputArrays(addresses, ["F64", "F64"], None), (c_double * 2)(1, 1)
        best = float("inf")
        for _ in range(ROUNDS):
            began = time.perf_counter()
            call("combine", byref(inputs), weights, ELEMENTS, out.ctypes.data, DTYPES[dtype])
            best = min(best, time.perf_counter() - began)
        got = (out.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else out
        wrong = int((got.astype(np.float64) != nearest(one + two, dtype)).sum())
        print(f"{dtype}: {wrong} of {ELEMENTS} not the nearest, {best / ELEMENTS * 1e9:.3f} ns an element", flush=True)


if __name__ == "__main__":
    main()
