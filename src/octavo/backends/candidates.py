"""Which tokens of one row may be drawn: temperature, top_k, top_p, min_p and typical_p.

Every sum here is a sum of integers: weights are float32 numbers in [0, 1] rounded to multiples of
2**-40. Such a sum is exact, so its value does not depend on the order, the blocks or the width in
which anybody adds; a sort, a histogram and a vector unit all come to the same set of tokens.
What happens to the logits before, and the draw after, are in ``sampler.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.backends.base import F32

I64 = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

WEIGHT_ONE = 2**40
"""The integer weight of a token with weight 1. Sums of up to 2**23 of them fit into int64."""

_HEAD_SIZES = (256, 8192)
"""How many of the best tokens are sorted first; all of them only where these are not enough."""


class Kernels(Protocol):
    """The canonical elementwise functions that sampling needs (``octavo._native.Kernels``)."""

    def exp(self, x: F32, out: F32) -> None: ...

    def log(self, x: F32, out: F32) -> None: ...


@dataclass(frozen=True, slots=True)
class Filters:
    """What narrows down the tokens of one row. The defaults keep all of them."""

    temperature: float = 1.0
    """> 0, a float32 number"""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that may be drawn, and how likely each is."""

    ids: I64  # (candidates,) ascending
    weights: I64  # (candidates,) in units of 1 / WEIGHT_ONE of the most likely token; may be 0

    @property
    def total(self) -> int:
        """The sum of the weights, > 0."""
        return int(self.weights.sum())


def exponentials(log_weights: F32, kernels: Kernels) -> F32:
    """e to the power of each element, of the same shape; elements are at most 0."""
    out = np.empty_like(log_weights, order="C")
    kernels.exp(np.ascontiguousarray(log_weights), out)
    return out


def integer_weights(weights: F32) -> I64:
    """Weights in [0, 1], rounded half to even to multiples of 1 / WEIGHT_ONE; of any shape."""
    scaled = weights * np.float32(WEIGHT_ONE)  # a power of two: exact
    rounded: F32 = np.rint(scaled, out=scaled)
    return rounded.astype(np.int64)


def find_candidates(logits: F32, filters: Filters, kernels: Kernels) -> Candidates:
    """The tokens that the filters keep, each filter working on what the one before it kept.

    Equal to the warpers of Hugging Face transformers, except that where several equal tokens stand
    at a border the lower ids are kept, and no more than needed.

    Args:
        logits: (vocab,) processed logits; the highest is finite.

    Returns:
        At least one token with a weight above 0.
    """
    peak = logits.max()
    if 0 < filters.top_k < len(logits):
        ids = best(logits, filters.top_k)
        logits = logits[ids]
    else:
        ids = np.arange(len(logits))
    log_weights = (logits - peak) / filters.temperature
    fractions = exponentials(log_weights, kernels)
    weights = integer_weights(fractions)
    if filters.top_p < 1.0:
        kept = _first_to_reach(filters.top_p, weights, logits)
        ids, log_weights = ids[kept], log_weights[kept]
        fractions, weights = fractions[kept], weights[kept]
    if filters.min_p > 0.0:  # the most likely token is still there: its fraction is 1
        kept = np.flatnonzero(fractions >= filters.min_p)
        ids, log_weights = ids[kept], log_weights[kept]
        fractions, weights = fractions[kept], weights[kept]
    if filters.typical_p < 1.0:
        kept = np.flatnonzero(weights)
        ids, weights = ids[kept], weights[kept]
        closeness = _closeness_to_entropy(log_weights[kept], fractions[kept], weights)
        kept = _first_to_reach(filters.typical_p, weights, closeness)
        ids, weights = ids[kept], weights[kept]
    return Candidates(ids, weights)


def best(keys: Floats, count: int) -> I64:
    """The indices of the highest keys, ascending; among equal keys the lower indices go first.

    Args:
        keys: (keys,) without NaN
        count: >= 1; more than there are means all.
    """
    if count >= len(keys):
        return np.arange(len(keys))
    border = np.partition(keys, len(keys) - count)[len(keys) - count]
    indices = np.flatnonzero(keys >= border)
    if len(indices) > count:
        above = indices[keys[indices] > border]
        at = indices[keys[indices] == border][: count - len(above)]
        indices = np.sort(np.concatenate([above, at]))
    return indices


def best_first(keys: Floats, count: int) -> I64:
    """The same indices as ``best``, the highest key first, the lower index first in a tie."""
    indices = best(keys, count)
    return indices[np.argsort(-keys[indices], kind="stable")]


def _first_to_reach(share: float, weights: I64, keys: Floats) -> I64:
    """Going from the highest key down, the fewest tokens whose weight reaches share of the total.

    Args:
        share: in (0, 1)
        weights: (tokens,)
        keys: (tokens,)

    Returns:
        Indices of the tokens, ascending.
    """
    needed = math.ceil(share * int(weights.sum()))
    for size in (*_HEAD_SIZES, len(keys)):
        order = best_first(keys, size)
        reached = np.cumsum(weights[order])
        if reached[-1] >= needed:
            break
    return np.sort(order[: np.searchsorted(reached, needed) + 1])


def _closeness_to_entropy(log_weights: F32, fractions: F32, weights: I64) -> NDArray[np.float64]:
    """How near each token's surprise is to the entropy: 0 is at it, further is below 0.

    The surprise is log(total) - log_weight and the entropy log(total) minus the mean of the log
    weights, so that their difference is how far a log weight is from that mean. Source: Meister,
    Pimentel, Wiher, Cotterell, "Locally typical sampling", TACL 2023.
    """
    exact = log_weights.astype(np.float64)
    # A product of two float32 is exact in float64; in integers the sum of them is exact, too.
    products = np.rint(exact * fractions * WEIGHT_ONE).astype(np.int64)
    mean = float(products.sum()) / float(weights.sum())
    closeness: NDArray[np.float64] = -np.abs(exact - mean)
    return closeness
