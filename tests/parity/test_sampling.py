"""The filters against the logits warpers of Hugging Face transformers: the same tokens are kept.

transformers works in float64 here, so that what is compared is the rule, not the rounding. Where
equal tokens stand at a border, transformers keeps all of them or whichever its sort puts first;
the sampler keeps the lower ids, and exactly as many as needed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from octavo.backends.base import F32
from octavo.backends.candidates import Filters, find_candidates
from octavo.backends.sampler import sample, score
from tests.unit.backends.sampling_rows import Row, batch_of, make_kernels

torch = pytest.importorskip("torch", reason="needs the extra `parity`")
generation = pytest.importorskip("transformers.generation", reason="needs the extra `parity`")

pytestmark = pytest.mark.parity

KERNELS = make_kernels()
VOCAB_SIZES = (3, 50, 513, 32_000)


def ours(logits: F32, filters: Filters) -> list[int]:
    """Kept tokens that are possible at all."""
    ids = find_candidates(logits, filters, KERNELS).ids
    return ids[np.isfinite(logits[ids])].tolist()


def theirs(logits: F32, filters: Filters) -> list[int]:
    """The warpers in the order in which transformers' `generate` applies them."""
    warpers = [generation.TemperatureLogitsWarper(filters.temperature)]
    if filters.top_k > 0:
        warpers.append(generation.TopKLogitsWarper(filters.top_k))
    if filters.top_p < 1:
        warpers.append(generation.TopPLogitsWarper(filters.top_p))
    if filters.min_p > 0:
        warpers.append(generation.MinPLogitsWarper(filters.min_p))
    if filters.typical_p < 1:
        warpers.append(generation.TypicalLogitsWarper(filters.typical_p))
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    for warper in warpers:
        scores = warper(None, scores)
    return torch.isfinite(scores[0]).nonzero()[:, 0].tolist()


def as_float32(filters: Filters) -> Filters:
    """The numbers as a batch carries them."""
    names = ("temperature", "top_p", "min_p", "typical_p")
    rounded = {name: float(np.float32(getattr(filters, name))) for name in names}
    return dataclasses.replace(filters, **rounded)


def random_filters(rng: np.random.Generator, vocab_size: int) -> Filters:
    return as_float32(
        Filters(
            temperature=rng.choice([0.3, 1.0, 1.0, 2.5]),
            top_k=int(rng.choice([0, 0, 1, 5, rng.integers(1, vocab_size + 1)])),
            top_p=rng.choice([1.0, rng.uniform(0.05, 0.999)]),
            min_p=rng.choice([0.0, rng.uniform(0.0, 0.5), 0.01]),
            typical_p=rng.choice([1.0, rng.uniform(0.05, 0.999)]),
        )
    )


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_random_logits_and_any_mix_of_filters(vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    narrowed = 0
    for _ in range(40 if vocab_size > 1000 else 200):
        logits = rng.normal(0, rng.choice([0.5, 2.0, 5.0]), vocab_size).astype(np.float32)
        logits[rng.random(vocab_size) < rng.choice([0.0, 0.3])] = -np.inf
        if not np.isfinite(logits).any():
            continue
        filters = random_filters(rng, vocab_size)
        kept = theirs(logits, filters)
        assert ours(logits, filters) == kept, filters
        narrowed += 1 < len(kept) < np.isfinite(logits).sum()
    assert narrowed > 10 or vocab_size == 3


def tied_logits(rng: np.random.Generator) -> F32:
    """Few values, so that nearly every border runs through equal tokens."""
    return (rng.integers(-4, 3, 60) / 2).astype(np.float32)


@pytest.mark.parametrize("seed", range(30))
def test_tied_logits_and_top_k(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = tied_logits(rng)
    filters = Filters(top_k=int(rng.integers(1, 60)))
    kept, all_tied = ours(logits, filters), theirs(logits, filters)
    assert len(kept) == filters.top_k
    assert_lower_ids_of_the_border(kept, all_tied, logits)


@pytest.mark.parametrize("seed", range(30))
def test_tied_logits_and_top_p(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = tied_logits(rng)
    filters = as_float32(Filters(top_p=rng.uniform(0.05, 0.95)))
    kept, other = ours(logits, filters), theirs(logits, filters)
    assert sorted(logits[kept]) == sorted(logits[other])
    with_border = np.flatnonzero(logits >= logits[kept].min()).tolist()
    assert_lower_ids_of_the_border(kept, with_border, logits)


@pytest.mark.parametrize("seed", range(30))
def test_tied_logits_and_min_p(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = tied_logits(rng)
    filters = as_float32(Filters(min_p=rng.uniform(0.01, 0.9)))
    assert ours(logits, filters) == theirs(logits, filters)


@pytest.mark.parametrize("seed", range(30))
def test_tied_logits_and_typical_p(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = tied_logits(rng)
    filters = as_float32(Filters(typical_p=rng.uniform(0.05, 0.95)))
    kept, all_tied = ours(logits, filters), theirs(logits, filters)
    assert_lower_ids_of_the_border(kept, all_tied, logits)


def assert_lower_ids_of_the_border(kept: list[int], all_tied: list[int], logits: F32) -> None:
    """kept is all_tied without the higher ids of one value."""
    dropped = sorted(set(all_tied) - set(kept))
    assert set(kept) <= set(all_tied)
    if dropped:
        assert len(set(logits[dropped].tolist())) == 1
        at_border = [token for token in kept if logits[token] == logits[dropped[0]]]
        assert at_border
        assert max(at_border) < dropped[0]


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_penalty(penalty: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 80).astype(np.float32)
    seen = rng.choice(80, 30, replace=False)
    processor = generation.RepetitionPenaltyLogitsProcessor(float(np.float32(penalty)))
    expected = processor(torch.from_numpy(seen)[None], torch.from_numpy(logits)[None])[0].numpy()
    # Whatever is banned next, the highest of the rest is the same token.
    order = np.argsort(-expected, kind="stable").tolist()
    rows = [
        Row(
            temperature=0,
            repetition_penalty=penalty,
            seen=dict.fromkeys(seen.tolist(), 0),
            bias=dict.fromkeys(order[:banned], -np.inf),
        )
        for banned in range(80)
    ]
    tokens, _, errors = sample(np.tile(logits, (80, 1)), batch_of(rows, 80), KERNELS)
    assert errors == {}
    assert tokens.tolist() == order


def test_logprobs() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 4, (20, 5000)).astype(np.float32)
    targets = rng.integers(0, 5000, 20).astype(np.int32)
    expected = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
    scores, _ = score(logits, targets, np.full(20, 5, np.int32), KERNELS)
    np.testing.assert_allclose(scores.logprobs, expected[np.arange(20), targets], atol=5e-6)
    for row in range(20):
        best = torch.topk(torch.from_numpy(expected[row]), 5)
        assert scores.top_ids[row].tolist() == best.indices.tolist()
        np.testing.assert_allclose(scores.top_logprobs[row], best.values, atol=5e-6)
