"""Losses and divergences against sums written out in Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.bench.divergence import Comparison, compare, log_softmax, losses


def logits(seed: int, rows: int = 21, vocab: int = 50) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal((rows, vocab))).astype(np.float32)


def targets(rows: int = 21, vocab: int = 50) -> np.ndarray:
    return np.random.default_rng(9).integers(0, vocab, rows).astype(np.int32)


def probabilities(row: np.ndarray) -> list[float]:
    weights = [math.exp(float(value)) for value in row]
    return [weight / math.fsum(weights) for weight in weights]


def test_they_equal_sums_written_out() -> None:
    baseline, candidate, expected = logits(0), logits(1), targets()
    found = compare(baseline, candidate, expected)
    assert np.array_equal(found.losses, losses(candidate, expected))
    assert np.array_equal(found.baseline_losses, losses(baseline, expected))
    for row, target in enumerate(expected):
        p, q = probabilities(baseline[row]), probabilities(candidate[row])
        assert found.losses[row] == pytest.approx(-math.log(q[target]), rel=1e-12)
        kl = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert found.divergences[row] == pytest.approx(kl, rel=1e-12)
        assert found.agreements[row] == (p.index(max(p)) == q.index(max(q)))
    assert not found.agreements.all()
    assert found.divergences.min() > 0


def test_equal_logits_are_no_divergence_at_all() -> None:
    found = compare(logits(0), logits(0), targets())
    assert (found.divergences == 0).all()
    assert found.agreements.all()


def test_a_shift_of_a_row_is_next_to_nothing() -> None:
    shifted = (logits(0).astype(np.float64) + 64).astype(np.float32)
    assert 0 <= compare(logits(0), shifted, targets()).divergences.max() < 1e-10


def test_large_logits_overflow_nowhere() -> None:
    row = np.array([[3e38, -3e38, 3e38]], np.float32)
    assert log_softmax(row)[0, 0] == pytest.approx(-math.log(2))
    found = compare(row, row, np.array([2], np.int32))
    assert (found.divergences[0], found.agreements[0]) == (0, True)


def test_the_lower_token_is_the_likeliest_in_a_tie() -> None:
    tie, first, second = ([[1.0, 1.0]], [[2.0, 1.0]], [[1.0, 2.0]])
    rows = [np.array(row, np.float32) for row in (tie, first, second)]
    target = np.zeros(1, np.int32)
    assert compare(rows[0], rows[1], target).agreements[0]
    assert not compare(rows[0], rows[2], target).agreements[0]


def test_parts_are_put_together_in_their_order() -> None:
    whole = compare(logits(0), logits(1), targets())
    parts = [
        compare(logits(0)[rows], logits(1)[rows], targets()[rows])
        for rows in (slice(0, 3), slice(3, 20), slice(20, 21))
    ]
    together = Comparison.of(parts)
    for name in ("baseline_losses", "losses", "divergences", "agreements"):
        assert np.array_equal(getattr(together, name), getattr(whole, name))
