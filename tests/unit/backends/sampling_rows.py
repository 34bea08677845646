"""What the samplers' tests share: both samplers, and rows of a batch written one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from octavo._native import Kernels, ThreadPool
from octavo.backends import sampler as twin
from octavo.backends.base import F32, I32, Rows, SamplingBatch, ScoredRows
from octavo.backends.native_sampler import NativeSampler

SAMPLERS = ("twin", "native")


class Sampler(Protocol):
    """What the functions of ``octavo.backends.sampler`` do, for rows of any vocabulary."""

    def sample(
        self, logits: F32, sampling: SamplingBatch
    ) -> tuple[I32, ScoredRows, dict[int, str]]: ...

    def score(
        self, logits: F32, targets: I32, num_top: I32
    ) -> tuple[ScoredRows, dict[int, str]]: ...


def make_kernels() -> Kernels:
    return Kernels(ThreadPool(1))


def make_sampler(name: str) -> Sampler:
    """One of SAMPLERS."""
    return TwinSampler() if name == "twin" else AnyNativeSampler()


class TwinSampler:
    def __init__(self) -> None:
        self._kernels = make_kernels()

    def sample(
        self, logits: F32, sampling: SamplingBatch
    ) -> tuple[I32, ScoredRows, dict[int, str]]:
        return twin.sample(logits, sampling, self._kernels)

    def score(self, logits: F32, targets: I32, num_top: I32) -> tuple[ScoredRows, dict[int, str]]:
        return twin.score(logits, targets, num_top, self._kernels)


class AnyNativeSampler:
    """A native sampler for each vocabulary that comes."""

    def __init__(self) -> None:
        self._pool = ThreadPool(2)
        self._by_size: dict[int, NativeSampler] = {}

    def sample(
        self, logits: F32, sampling: SamplingBatch
    ) -> tuple[I32, ScoredRows, dict[int, str]]:
        return self._for(logits).sample(np.ascontiguousarray(logits), sampling)

    def score(self, logits: F32, targets: I32, num_top: I32) -> tuple[ScoredRows, dict[int, str]]:
        return self._for(logits).score(np.ascontiguousarray(logits), targets, num_top)

    def _for(self, logits: F32) -> NativeSampler:
        size = logits.shape[1]
        if size not in self._by_size:
            self._by_size[size] = NativeSampler(self._pool, size)
        return self._by_size[size]


@dataclass(frozen=True)
class Row:
    """One row of a SamplingBatch; the defaults are a plain draw."""

    seed: int = 0
    choice: int = 0
    position: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_logprobs: int = -1
    seen: Mapping[int, int] = field(default_factory=dict)
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: Collection[int] | None = None


def batch_of(rows: Sequence[Row], vocab_size: int) -> SamplingBatch:
    masked = [row for row in rows if row.allowed is not None]
    masks = np.zeros((len(masked), -(-vocab_size // 32)), np.uint32)
    for mask, row in zip(masks, masked, strict=True):
        for token in row.allowed or ():
            mask[token // 32] |= np.uint32(1 << token % 32)
    mask_of_row = [-1 if row.allowed is None else masked.index(row) for row in rows]

    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype)

    def starts(name: str) -> np.ndarray:
        lengths = [len(getattr(row, name)) for row in rows]
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)

    return SamplingBatch(
        seeds=column("seed", np.uint64),
        choices=column("choice", np.uint32),
        positions=column("position", np.uint32),
        temperature=column("temperature", np.float32),
        top_k=column("top_k", np.int32),
        top_p=column("top_p", np.float32),
        min_p=column("min_p", np.float32),
        typical_p=column("typical_p", np.float32),
        repetition_penalty=column("repetition_penalty", np.float32),
        presence_penalty=column("presence_penalty", np.float32),
        frequency_penalty=column("frequency_penalty", np.float32),
        num_logprobs=column("num_logprobs", np.int32),
        seen_starts=starts("seen"),
        seen_ids=np.array([token for row in rows for token in row.seen], np.int32),
        seen_counts=np.array([count for row in rows for count in row.seen.values()], np.int32),
        bias_starts=starts("bias"),
        bias_ids=np.array([token for row in rows for token in row.bias], np.int32),
        bias_values=np.array([bias for row in rows for bias in row.bias.values()], np.float32),
        mask_of_row=np.array(mask_of_row, np.int32),
        masks=masks,
    )


def bits(scores: ScoredRows) -> list[bytes]:
    each = zip(scores.logprobs, scores.top_ids, scores.top_logprobs, strict=True)
    return [b"".join(part.tobytes() for part in row) for row in each]


def assert_same(rows: Rows, others: Rows) -> None:
    assert rows.token_ids.tolist() == others.token_ids.tolist()
    assert bits(rows.scores) == bits(others.scores)
    assert bits(rows.prompt_scores) == bits(others.prompt_scores)
    assert (rows.errors, rows.prompt_errors) == (others.errors, others.prompt_errors)
