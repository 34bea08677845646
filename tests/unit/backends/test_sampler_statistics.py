"""Draws follow the distribution they are drawn from. Seeds are fixed: a test passes or it does not.

A chi-square statistic with d degrees of freedom has mean d and standard deviation sqrt(2 d); the
limit is six of these above the mean.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.backends.base import F32
from tests.unit.backends.sampling_rows import SAMPLERS, Row, Sampler, batch_of, make_sampler

NUM_DRAWS = 20_000
PROBABILITIES = np.array([0.02, 0.3, 0.08, 0.0, 0.25, 0.05, 0.1, 0.2])


@pytest.fixture(scope="module", params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return make_sampler(request.param)


def counts(logits: F32, rows: list[Row], sampler: Sampler) -> np.ndarray:
    """How often each token is drawn when each row draws from the same logits."""
    batch = batch_of(rows, len(logits))
    tokens, _, errors = sampler.sample(np.broadcast_to(logits, (len(rows), len(logits))), batch)
    assert errors == {}
    return np.bincount(tokens, minlength=len(logits))


def excess(observed: np.ndarray, probabilities: np.ndarray) -> float:
    """How many standard deviations the chi-square statistic is above its mean."""
    possible = probabilities > 0
    assert observed[~possible].sum() == 0
    expected = probabilities[possible] / probabilities.sum() * observed.sum()
    statistic = float(((observed[possible] - expected) ** 2 / expected).sum())
    freedom = int(possible.sum()) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def log(probabilities: np.ndarray) -> F32:
    with np.errstate(divide="ignore"):
        return np.log(probabilities).astype(np.float32)


@pytest.mark.parametrize("varies", ["seed", "position"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_plain_draws(varies: str, temperature: float, sampler: Sampler) -> None:
    rows = [Row(temperature=temperature, **{varies: i}) for i in range(NUM_DRAWS)]
    observed = counts(log(PROBABILITIES), rows, sampler)
    assert excess(observed, PROBABILITIES ** (1 / temperature)) < 6


def test_filtered_draws_are_renormalised(sampler: Sampler) -> None:
    # 0.3, 0.25 and 0.2 reach 0.7; the rest is cut.
    rows = [Row(top_p=0.7, position=i) for i in range(NUM_DRAWS // 4)]
    expected = np.where(PROBABILITIES >= 0.2, PROBABILITIES, 0)
    assert excess(counts(log(PROBABILITIES), rows, sampler), expected) < 6


def test_choices_of_one_request_are_independent(sampler: Sampler) -> None:
    rows = [Row(seed=9, choice=i % 2, position=i // 2) for i in range(NUM_DRAWS)]
    logits = log(PROBABILITIES)
    batch = batch_of(rows, len(logits))
    tokens, _, _ = sampler.sample(np.broadcast_to(logits, (NUM_DRAWS, len(logits))), batch)
    pairs = np.bincount(tokens[0::2] * 8 + tokens[1::2], minlength=64)
    assert excess(pairs, np.outer(PROBABILITIES, PROBABILITIES).ravel()) < 6


def test_a_long_row_is_drawn_from_end_to_end(sampler: Sampler) -> None:
    rows = [Row(position=i) for i in range(300)]
    batch = batch_of(rows, 50_000)
    logits = np.zeros((1, 50_000), np.float32)
    tokens, _, _ = sampler.sample(np.broadcast_to(logits, (300, 50_000)), batch)
    tenths = np.bincount(tokens // 5000, minlength=10)
    assert excess(tenths, np.ones(10)) < 6


def test_a_wrong_distribution_is_noticed(sampler: Sampler) -> None:
    observed = counts(log(PROBABILITIES), [Row(position=i) for i in range(NUM_DRAWS)], sampler)
    shifted = PROBABILITIES.copy()
    shifted[[1, 4]] += [0.02, -0.02]
    assert excess(observed, shifted) > 6
