"""How far one set of logits is from another, in float64.

This measures what an engine computed; it is no part of the engine, and its bits decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_ROWS = 8
"""Computed in float64 at once: at a vocabulary of 150,000 tokens, 10 MB for each array."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside a baseline, row by row."""

    baseline_losses: F64  # (rows,) in nats: -log p(target)
    losses: F64  # (rows,) of the candidate, in nats
    divergences: F64  # (rows,) KL(baseline || candidate), in nats
    agreements: NDArray[np.bool_]  # (rows,) whether the likeliest token is the same

    @classmethod
    def of(cls, parts: Sequence[Comparison]) -> Comparison:
        """One after the other."""
        return cls(
            np.concatenate([part.baseline_losses for part in parts]),
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.divergences for part in parts]),
            np.concatenate([part.agreements for part in parts]),
        )


def losses(logits: F32, targets: NDArray[np.int32]) -> F64:
    """-log p(target) of each row, in nats: (rows,).

    Args:
        logits: (rows, vocab), finite.
        targets: (rows,)
    """
    found = np.empty(len(logits))
    for start in range(0, len(logits), _ROWS):
        rows = slice(start, start + _ROWS)
        found[rows] = -_at(log_softmax(logits[rows]), targets[rows])
    return found


def compare(baseline: F32, candidate: F32, targets: NDArray[np.int32]) -> Comparison:
    """The same rows computed in two ways.

    Where likelihoods are equal, the lower token is the likeliest. KL is never negative; what
    rounding leaves below zero is zero.

    Args:
        baseline, candidate: (rows, vocab), finite.
        targets: (rows,) the tokens that came next.
    """
    count = len(targets)
    lost_before, lost, divergences = np.empty(count), np.empty(count), np.empty(count)
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        p, q = log_softmax(baseline[rows]), log_softmax(candidate[rows])
        lost_before[rows], lost[rows] = -_at(p, targets[rows]), -_at(q, targets[rows])
        divergences[rows] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    agreements = baseline.argmax(axis=1) == candidate.argmax(axis=1)
    return Comparison(lost_before, lost, divergences, agreements)


def log_softmax(logits: F32) -> F64:
    """Log probabilities: (rows, vocab)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _at(values: F64, targets: NDArray[np.int32]) -> F64:
    found: F64 = np.take_along_axis(values, targets[:, None].astype(np.int64), axis=1)[:, 0]
    return found
