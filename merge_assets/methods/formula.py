"""What a kernel may return: a formula that the engine has fast, exact code for on every device.

A method whose result is one of these needs no tile function of its own. All arithmetic over models is float64, rounded
once to the output dtype; task vectors d_i = x_i - base are float32, of inputs that are rounded to it if they are float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Combination:
    """y = Σ c_i x_i over all inputs in recipe order, the base included."""

    coefficients: Sequence[float]


@dataclass(frozen=True)
class Cut:
    """The k elements of largest magnitude of a tensor, equal ones by position.

    Attributes:
        bits: float32 bits, without the sign, of the smallest of them; all larger ones are among them.
        last_tie: flat index of the last one among those with exactly these bits.
    """

    bits: int
    last_tie: int


ALL = Cut(0, (1 << 63) - 1)
NONE = Cut((1 << 32) - 1, -1)


@dataclass(frozen=True)
class Band:
    """Keeps the elements within ``inner`` that are not within ``outer``."""

    inner: Cut = ALL
    outer: Cut = NONE


def mask_key(seed: int, tensor: str, position: int) -> tuple[int, int]:
    """The key of one random mask: two words of 32 bits, from which the engine draws the same for every element everywhere.

    Args:
        seed: the recipe's.
        tensor: name of the output tensor.
        position: of the model among the inputs without the base, from 0.
    """
    digest = hashlib.blake2b(f"{seed}\0{tensor}\0{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@dataclass(frozen=True)
class Bernoulli:
    """Keeps every element with one probability; ``key`` is that of :func:`mask_key`."""

    key: tuple[int, int]
    probability: float


@dataclass(frozen=True)
class RankedBernoulli:
    """Keeps elements with a probability that rises linearly with the rank of the magnitude in its row.

    Attributes:
        key: that of :func:`mask_key`.
        probability: in the middle of a row.
        spread: the largest element's less that in the middle.
        divide: whether what is kept is divided by its probability.
    """

    key: tuple[int, int]
    probability: float
    spread: float
    divide: bool = False


Sparsifier = Band | Bernoulli | RankedBernoulli


@dataclass(frozen=True)
class TaskVectors:
    """y = b + λ Σ f_i D_i m_i / Σ w_i m_i with D_i the sparsified task vectors.

    Attributes:
        sparsifiers: how each task vector becomes D_i.
        weights: w_i, of the divisor.
        factors: f_i.
        votes: v_i: the elected sign of a position is that of Σ v_j D_j (≥ 0 is +), and m_i = 1 where the sign of f_i D_i
            is the elected one. Without: m_i = 1.
        normalize: whether to divide, which is left out where the divisor is 0.
        factor: λ.
        common: positions kept in all task vectors, by the variance over the models, before the sparsifiers.
    """

    sparsifiers: Sequence[Sparsifier]
    weights: Sequence[float]
    factors: Sequence[float]
    votes: Sequence[float] | None
    normalize: bool
    factor: float = 1.0
    common: Band | None = None


@dataclass(frozen=True)
class Norms:
    """Norms of one task vector: L1 of the dense one, L1 and squared L2 of the sparsified one."""

    dense_l1: float
    l1: float
    l2_squared: float
