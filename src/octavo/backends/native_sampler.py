"""The native sampler: what ``sampler.py`` computes, to the bit, in csrc/sampler/.

Each row is an item of work on the thread pool. The memory it works in is allocated once.
"""

from __future__ import annotations

import numpy as np

from octavo._native import NativeSampler as NativeRows
from octavo._native import ThreadPool
from octavo.backends.base import F32, I32, NO_SCORES, SamplingBatch, ScoredRows
from octavo.backends.sampling_failures import BY_CODE


class NativeSampler:
    """The sampler by itself. Several threads may share it; they take turns."""

    def __init__(self, pool: ThreadPool, vocab_size: int, instruction_set: str = "") -> None:
        """Logits have ``vocab_size`` columns; instruction sets are those of ``Kernels``."""
        self._native = NativeRows(pool, vocab_size, instruction_set)
        self._vocab_size = vocab_size

    def sample(
        self, logits: F32, sampling: SamplingBatch
    ) -> tuple[I32, ScoredRows, dict[int, str]]:
        """As ``sampler.sample``. ``logits`` are C-contiguous: (rows, vocab)."""
        rows = SampledRows(len(logits), self._room(sampling.num_logprobs))
        self._native.sample(logits, sampling, rows.tokens, *rows.arrays())
        return rows.tokens, rows.scored(), rows.failures()

    def score(self, logits: F32, targets: I32, num_top: I32) -> tuple[ScoredRows, dict[int, str]]:
        """As ``sampler.score``. ``logits`` are C-contiguous: (rows, vocab)."""
        rows = SampledRows(len(logits), self._room(num_top))
        self._native.score(logits, targets, num_top, *rows.arrays())
        return rows.scored(), rows.failures()

    def _room(self, wanted: I32) -> int:
        return min(max(int(wanted.max(initial=0)), 0), self._vocab_size)


class SampledRows:
    """What the native sampler writes: tokens, unless they are known, and logprobs, if wanted."""

    def __init__(self, num_rows: int, room: int) -> None:
        """``room`` is for the most likely tokens of a row; below 0 nothing is scored."""
        self.tokens = np.empty(num_rows, np.int32)
        self._errors = np.empty(num_rows, np.int32)
        self._scores: tuple[F32, I32, I32, F32] | None = None
        if room >= 0:
            self._scores = (
                np.empty(num_rows, np.float32),
                np.empty(num_rows, np.int32),
                np.empty((num_rows, room), np.int32),
                np.empty((num_rows, room), np.float32),
            )

    def arrays(self) -> tuple[I32, F32 | None, I32 | None, I32 | None, F32 | None]:
        """What a native function takes behind the tokens."""
        return self._errors, *(self._scores or (None, None, None, None))

    def scored(self) -> ScoredRows:
        """The scores of all rows, if there was room."""
        if self._scores is None:
            return NO_SCORES
        logprobs, num_top, top_ids, top_logprobs = self._scores
        counts = num_top.tolist()
        return ScoredRows(
            logprobs,
            [ids[:count] for ids, count in zip(top_ids, counts, strict=True)],
            [values[:count] for values, count in zip(top_logprobs, counts, strict=True)],
        )

    def failures(self) -> dict[int, str]:
        """Why rows failed, by their index."""
        return {row: BY_CODE[self._errors[row]] for row in np.flatnonzero(self._errors).tolist()}
