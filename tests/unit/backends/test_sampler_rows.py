"""Any mix of rows: each equals a plain Python oracle, and itself alone, bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.backends.base import F32
from octavo.backends.philox import random_u64
from octavo.backends.sampler import rows_between
from tests.unit.backends.sampling_rows import (
    SAMPLERS,
    Row,
    Sampler,
    batch_of,
    make_kernels,
    make_sampler,
)

KERNELS = make_kernels()
MAX_VOCAB = 70


@pytest.fixture(scope="module", params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return make_sampler(request.param)


share = st.one_of(st.just(1.0), st.integers(1, 999).map(lambda i: i / 1000))
ids = st.integers(0, MAX_VOCAB - 1)
mixed_rows = st.builds(
    Row,
    seed=st.integers(0, 2**63 - 1),
    choice=st.integers(0, 7),
    position=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 1e-30, 0.1, 0.7, 1.0, 1.5, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 30, 1000]),
    top_p=share,
    min_p=st.sampled_from([0.0, 0.0, 0.001, 0.1, 0.6, 1.0]),
    typical_p=share,
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.2, 3.0]),
    presence_penalty=st.sampled_from([0.0, -1.0, 0.3]),
    frequency_penalty=st.sampled_from([0.0, -0.2, 0.7]),
    num_logprobs=st.integers(-1, 6),
    seen=st.dictionaries(ids, st.integers(0, 4), max_size=10),
    bias=st.dictionaries(ids, st.sampled_from([-math.inf, -100.0, -0.5, 2.0, 100.0]), max_size=5),
    allowed=st.none() | st.sets(ids, min_size=1, max_size=MAX_VOCAB),
)
plain_rows = st.builds(
    Row,
    seed=st.integers(0, 2**63 - 1),
    position=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    num_logprobs=st.integers(-1, 3),
)
any_rows = st.lists(st.one_of(mixed_rows, plain_rows), min_size=1, max_size=8)


def logits_for(num_rows: int, vocab_size: int, seed: int) -> F32:
    """Rows of several kinds: smooth, full of ties, with holes, huge, and some unusable."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (num_rows, vocab_size)).astype(np.float32)
    for row in logits:
        kind = rng.integers(8)
        if kind < 3:
            np.round(row, out=row)
        if kind == 3:
            row[rng.random(vocab_size) < 0.5] = -np.inf
        if kind == 4:
            row *= np.float32(3e38 / 30)
        if kind == 5 and rng.random() < 0.5:
            row[rng.integers(vocab_size)] = rng.choice([np.nan, np.inf])
    logits.flags.writeable = False
    return logits


def within(row: Row, vocab_size: int) -> Row:
    """The same row without ids outside the vocabulary."""
    allowed = row.allowed
    return dataclasses.replace(
        row,
        seen={token: count for token, count in row.seen.items() if token < vocab_size},
        bias={token: bias for token, bias in row.bias.items() if token < vocab_size},
        allowed=None if allowed is None else [token for token in allowed if token < vocab_size],
    )


@settings(max_examples=80)
@given(any_rows, st.integers(1, MAX_VOCAB), st.integers(0, 2**32))
def test_a_row_alone_and_among_others(
    sampler: Sampler, rows: list[Row], vocab_size: int, seed: int
) -> None:
    rows = [within(row, vocab_size) for row in rows]
    logits = logits_for(len(rows), vocab_size, seed)
    batch = batch_of(rows, vocab_size)
    tokens, scores, errors = sampler.sample(logits, batch)
    for index in range(len(rows)):
        part = rows_between(batch, index, index + 1)
        own_tokens, own, own_errors = sampler.sample(logits[index : index + 1], part)
        assert own_tokens[0] == tokens[index]
        assert own.logprobs[0].tobytes() == scores.logprobs[index].tobytes()
        assert own.top_ids[0].tobytes() == scores.top_ids[index].tobytes()
        assert own.top_logprobs[0].tobytes() == scores.top_logprobs[index].tobytes()
        assert own_errors.get(0) == errors.get(index)


@given(st.lists(plain_rows, min_size=1, max_size=40), st.integers(0, 2**32))
def test_plain_rows_take_a_shorter_way_to_the_same_tokens(
    sampler: Sampler, rows: list[Row], seed: int
) -> None:
    vocab_size = 1500  # more than one chunk of rows
    logits = logits_for(len(rows), vocab_size, seed)
    tokens, scores, errors = sampler.sample(logits, batch_of(rows, vocab_size))
    long_way = [dataclasses.replace(row, bias={0: 0.0}) for row in rows]
    long_tokens, long_scores, long_errors = sampler.sample(logits, batch_of(long_way, vocab_size))
    assert tokens.tolist() == long_tokens.tolist()
    assert scores.logprobs.tobytes() == long_scores.logprobs.tobytes()
    assert errors == long_errors


@settings(max_examples=150)
@given(mixed_rows, st.integers(1, MAX_VOCAB), st.integers(0, 2**32))
def test_a_row_equals_the_oracle(sampler: Sampler, row: Row, vocab_size: int, seed: int) -> None:
    row = within(row, vocab_size)
    logits = logits_for(1, vocab_size, seed)
    tokens, _, errors = sampler.sample(logits, batch_of([row], vocab_size))
    expected = oracle(logits[0].tolist(), row)
    assert tokens[0] == (-1 if expected is None else expected)
    assert (0 in errors) == (expected is None)


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 9000])
def test_the_oracle_agrees_on_long_rows(vocab_size: int, sampler: Sampler) -> None:
    rng = np.random.default_rng(vocab_size)
    logits = np.round(rng.normal(0, 2, (6, vocab_size)) * 8).astype(np.float32) / np.float32(8)
    rows = [
        Row(seed=1),
        Row(seed=2, top_p=0.9),
        Row(seed=3, typical_p=0.97, temperature=1.3),
        Row(seed=4, top_k=300, min_p=0.02),
        Row(seed=5, top_p=0.9999, temperature=3.0),
        Row(seed=6, allowed=range(0, vocab_size, 3), top_p=0.5),
    ]
    tokens, _, errors = sampler.sample(logits, batch_of(rows, vocab_size))
    assert errors == {}
    assert tokens.tolist() == [
        oracle(line.tolist(), row) for line, row in zip(logits, rows, strict=True)
    ]


def oracle(raw: list[float], row: Row) -> int | None:
    """The token of a row by the book, one number at a time; None where there is none.

    Shares with the sampler the canonical exp, the random number and the grid of the weights only.
    """
    f32 = np.float32
    if any(math.isnan(value) for value in raw) or max(raw) in (math.inf, -math.inf):
        return None
    logits: list[float] = []
    with np.errstate(over="ignore"):
        for token, value in enumerate(raw):
            logit = f32(value)
            if token in row.seen:
                penalty = f32(row.repetition_penalty)
                logit = logit * penalty if logit < 0 else logit / penalty
                if row.seen[token] > 0:
                    logit -= f32(row.presence_penalty)
                logit -= f32(row.seen[token]) * f32(row.frequency_penalty)
            if token in row.bias:
                logit += f32(row.bias[token])
            if row.allowed is not None and token not in row.allowed:
                logit = f32(-math.inf)
            logits.append(float(logit))
        peak = max(logits)
        if math.isinf(peak):
            return None
        order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
        if row.temperature == 0:
            return order[0]
        log_weights = [float((f32(logit) - f32(peak)) / f32(row.temperature)) for logit in logits]
    fractions = exp(log_weights)
    weights = [round(Fraction(fraction) * 2**40) for fraction in fractions]

    if row.top_k:
        order = order[: row.top_k]
    if row.top_p < 1:
        order = shortest_prefix(order, weights, row.top_p)
    order = [token for token in order if fractions[token] >= f32(row.min_p)]
    if row.typical_p < 1:
        total = sum(weights[token] for token in order)
        order = [token for token in order if weights[token]]
        surprise = {token: math.log(total) - log_weights[token] for token in order}
        entropy = math.fsum(fractions[token] * 2**40 / total * surprise[token] for token in order)
        # Equal logits must tie, whatever the last bit of a distance; no others come this near.
        order.sort(key=lambda token: (round(abs(surprise[token] - entropy), 9), token))
        order = shortest_prefix(order, weights, row.typical_p)

    key = [
        np.array([value], dtype)
        for value, dtype in [
            (row.seed, np.uint64),
            (row.choice, np.uint32),
            (row.position, np.uint32),
        ]
    ]
    total = sum(weights[token] for token in order)
    target = int(random_u64(*key)[0]) * total // 2**64
    for token in sorted(order):
        if target < weights[token]:
            return token
        target -= weights[token]
    raise AssertionError("a draw lies below the total")


def shortest_prefix(order: Sequence[int], weights: Sequence[int], share: float) -> list[int]:
    needed = Fraction(float(np.float32(share))) * sum(weights[token] for token in order)
    kept, reached = [], 0
    for token in order:
        if reached >= needed:
            break
        kept.append(token)
        reached += weights[token]
    return kept


def exp(values: list[float]) -> list[float]:
    x = np.array(values, np.float32)
    KERNELS.exp(x, x)
    return x.tolist()


def test_the_oracle_can_disagree() -> None:
    """A positive control: other parameters give other tokens."""
    logits = logits_for(1, 50, 1)[0].tolist()
    rows = [Row(seed=seed, top_p=0.8) for seed in range(50)]
    other = [dataclasses.replace(row, top_p=0.4) for row in rows]
    assert [oracle(logits, row) for row in rows] != [oracle(logits, row) for row in other]
