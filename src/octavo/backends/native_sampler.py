"""The native sampler: what ``sampler.py`` computes, to the bit, in csrc/sampler/.

Each row is an item of work on the thread pool. The memory it works in is allocated once.
"""

from __future__ import annotations

import numpy as np

from octavo._native import NativeSampler as NativeRows
from octavo._native import ThreadPool
from octavo.backends.base import F32, I32, SamplingBatch, ScoredRows
from octavo.backends.sampling_failures import BY_CODE


class NativeSampler:
    """Draws and scores on one thread pool. Several threads may share it; they take turns."""

    def __init__(self, pool: ThreadPool, vocab_size: int, instruction_set: str = "") -> None:
        """Logits have ``vocab_size`` columns; instruction sets are those of ``Kernels``."""
        self._native = NativeRows(pool, vocab_size, instruction_set)
        self._vocab_size = vocab_size

    def sample(
        self, logits: F32, sampling: SamplingBatch
    ) -> tuple[I32, ScoredRows, dict[int, str]]:
        """As ``sampler.sample``. ``logits`` are C-contiguous: (rows, vocab)."""
        token_ids = np.empty(len(logits), np.int32)
        results = _Results(len(logits), self._room(sampling.num_logprobs))
        self._native.sample(
            logits,
            sampling,
            token_ids,
            results.errors,
            results.logprobs,
            results.num_top,
            results.top_ids,
            results.top_logprobs,
        )
        return token_ids, results.scored_rows(), results.failures()

    def score(self, logits: F32, targets: I32, num_top: I32) -> tuple[ScoredRows, dict[int, str]]:
        """As ``sampler.score``. ``logits`` are C-contiguous: (rows, vocab)."""
        results = _Results(len(logits), self._room(num_top))
        self._native.score(
            logits,
            targets,
            num_top,
            results.errors,
            results.logprobs,
            results.num_top,
            results.top_ids,
            results.top_logprobs,
        )
        return results.scored_rows(), results.failures()

    def _room(self, wanted: I32) -> int:
        """How many of the most likely tokens a row has at the most."""
        return min(max(int(wanted.max(initial=0)), 0), self._vocab_size)


class _Results:
    """What the native sampler writes, but for the tokens."""

    def __init__(self, num_rows: int, room: int) -> None:
        self.errors = np.empty(num_rows, np.int32)
        self.logprobs = np.empty(num_rows, np.float32)
        self.num_top = np.empty(num_rows, np.int32)
        self.top_ids = np.empty((num_rows, room), np.int32)
        self.top_logprobs = np.empty((num_rows, room), np.float32)

    def scored_rows(self) -> ScoredRows:
        counts = self.num_top.tolist()
        return ScoredRows(
            self.logprobs,
            [ids[:count] for ids, count in zip(self.top_ids, counts, strict=True)],
            [values[:count] for values, count in zip(self.top_logprobs, counts, strict=True)],
        )

    def failures(self) -> dict[int, str]:
        return {row: BY_CODE[self.errors[row]] for row in np.flatnonzero(self.errors).tolist()}
