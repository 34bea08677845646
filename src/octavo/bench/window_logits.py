"""Windows through an executable, a block of rows a step, without a scheduler.

Logits leave it whole, which is what the engine itself never does; at most HEAD_BLOCK rows of them
exist at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from octavo.backends.base import F32, HEAD_BLOCK, I32, Batch, Executable, SamplingBatch
from octavo.core.kv_layout import pages_for


def blocks_of(window: tuple[int, ...]) -> Iterator[slice]:
    """The positions of a window whose next token is in it, HEAD_BLOCK at a time."""
    last = len(window) - 1
    for start in range(0, last, HEAD_BLOCK):
        yield slice(start, min(start + HEAD_BLOCK, last))


class WindowReader:
    """Reads one window after the other, always in the same pages, from page 1 on.

    Args:
        executable: with pages for a sequence of ``context`` tokens beside page 0; nobody else
            uses it.
        context: tokens of the longest window.
    """

    def __init__(self, executable: Executable, context: int) -> None:
        self._executable = executable
        self._pages = np.arange(1, 1 + pages_for(context), dtype=np.int32)

    def logits(self, window: tuple[int, ...], block: slice) -> F32:
        """The logits of these positions: (positions, vocab). Blocks of a window come in order."""
        positions = np.arange(block.start, block.stop, dtype=np.int32)
        table = self._pages[None, : pages_for(block.stop)]
        batch = Batch(
            token_ids=np.array(window[block], np.int32),
            positions=positions,
            row_starts=np.array([0, len(positions)], np.int32),
            context_lens=np.array([block.start], np.int32),
            page_tables=[table] * len(self._executable.kv_groups),
            page_copies=np.zeros((0, 3), np.int32),
            sample_rows=_NO_ROWS,
            sampling=_no_sampling(),
            score_rows=_NO_ROWS,
            score_targets=_NO_ROWS,
            score_num_top=_NO_ROWS,
        )
        return self._executable.logits(batch, np.arange(len(positions), dtype=np.int32))


_NO_ROWS: I32 = np.zeros(0, np.int32)


def _no_sampling() -> SamplingBatch:
    """For no rows at all."""
    numbers: F32 = np.zeros(0, np.float32)
    return SamplingBatch(
        seeds=np.zeros(0, np.uint64),
        choices=np.zeros(0, np.uint32),
        positions=np.zeros(0, np.uint32),
        temperature=numbers,
        top_k=_NO_ROWS,
        top_p=numbers,
        min_p=numbers,
        typical_p=numbers,
        repetition_penalty=numbers,
        presence_penalty=numbers,
        frequency_penalty=numbers,
        num_logprobs=_NO_ROWS,
        seen_starts=np.zeros(1, np.int32),
        seen_ids=_NO_ROWS,
        seen_counts=_NO_ROWS,
        bias_starts=np.zeros(1, np.int32),
        bias_ids=_NO_ROWS,
        bias_values=numbers,
        mask_of_row=_NO_ROWS,
        masks=np.zeros((0, 1), np.uint32),
    )
