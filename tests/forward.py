"""Sequences fed to an executable by hand, without a scheduler: logits and greedy tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo.backends.base import Backend, Batch, Executable, Limits, SamplingBatch
from octavo.backends.reference import ReferenceBackend
from octavo.core.kv_layout import PAGE_SIZE, pages_for
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.program.ir import Program
from octavo.weights.checkpoint import Checkpoint

F32 = NDArray[np.float32]


def no_sampling(num_rows: int = 0, vocab_size: int = 1) -> SamplingBatch:
    """Rows that draw greedily and want nothing else."""
    zeros = np.zeros(num_rows, np.float32)
    ones = np.ones(num_rows, np.float32)
    return SamplingBatch(
        seeds=np.zeros(num_rows, np.uint64),
        choices=np.zeros(num_rows, np.uint32),
        positions=np.zeros(num_rows, np.uint32),
        temperature=zeros,
        top_k=np.zeros(num_rows, np.int32),
        top_p=ones,
        min_p=zeros,
        typical_p=ones,
        repetition_penalty=ones,
        presence_penalty=zeros,
        frequency_penalty=zeros,
        num_logprobs=np.full(num_rows, -1, np.int32),
        seen_starts=np.zeros(num_rows + 1, np.int32),
        seen_ids=np.zeros(0, np.int32),
        seen_counts=np.zeros(0, np.int32),
        bias_starts=np.zeros(num_rows + 1, np.int32),
        bias_ids=np.zeros(0, np.int32),
        bias_values=np.zeros(0, np.float32),
        mask_of_row=np.full(num_rows, -1, np.int32),
        masks=np.zeros((0, -(-vocab_size // 32)), np.uint32),
    )


class Sequences:
    """Sequences with pages of their own in one executable; page 0 stays unused.

    A sequence is a number; its tokens are computed in whatever parts a test likes.
    """

    def __init__(self, executable: Executable, limits: Limits) -> None:
        self.executable = executable
        self.lengths: list[int] = []
        # sequence -> pages; the same numbers in every KV group
        self.tables: list[list[int]] = []
        self._limits = limits
        self._free = list(range(limits.num_pages - 1, 0, -1))  # the last one is handed out next

    def add(self) -> int:
        """A new sequence without tokens."""
        self.lengths.append(0)
        self.tables.append([])
        return len(self.lengths) - 1

    def leave(self, seq: int) -> list[int]:
        """Give a sequence's pages back; they are handed out again, first the last one."""
        pages, self.tables[seq] = self.tables[seq], []
        self._free.extend(pages)
        return pages

    def batch(self, parts: list[tuple[int, list[int]]]) -> Batch:
        """The batch that computes these tokens, which follow what their sequences have."""
        seqs = [seq for seq, _ in parts]
        counts = [len(token_ids) for _, token_ids in parts]
        starts = [self.lengths[seq] for seq in seqs]
        for seq, count in zip(seqs, counts, strict=True):
            self.lengths[seq] += count
            while len(self.tables[seq]) * PAGE_SIZE < self.lengths[seq]:
                self.tables[seq].append(self._free.pop())
        width = max(len(self.tables[seq]) for seq in seqs)
        table = np.zeros((len(seqs), width), np.int32)
        for row, seq in enumerate(seqs):
            table[row, : len(self.tables[seq])] = self.tables[seq]
        positions = [np.arange(start, start + n) for start, n in zip(starts, counts, strict=True)]
        return Batch(
            token_ids=np.concatenate([np.array(ids, np.int32) for _, ids in parts]),
            positions=np.concatenate(positions).astype(np.int32),
            row_starts=np.cumsum([0, *counts]).astype(np.int32),
            context_lens=np.array(starts, np.int32),
            page_tables=[table] * len(self.executable.kv_groups),
            page_copies=np.zeros((0, 3), np.int32),
            sample_rows=np.zeros(0, np.int32),
            sampling=no_sampling(),
            score_rows=np.zeros(0, np.int32),
            score_targets=np.zeros(0, np.int32),
            score_num_top=np.zeros(0, np.int32),
        )

    def logits(self, parts: list[tuple[int, list[int]]]) -> list[F32]:
        """Compute tokens in one step; for each part the logits of all its rows."""
        batch = self.batch(parts)
        rows = np.arange(len(batch.token_ids), dtype=np.int32)
        logits = self.executable.logits(batch, rows)
        return np.split(logits, batch.row_starts[1:-1])


class TinyRun:
    """A model folder compiled for a backend; for the reference backend if none is given."""

    def __init__(
        self,
        folder: Path,
        *,
        max_model_len: int | None = None,
        num_pages: int | None = None,
        num_threads: int = 1,
        instruction_set: str = "",
        backend: Backend | None = None,
    ) -> None:
        self.spec = ModelSpec.read(folder)
        length = self.spec.resolve_max_model_len(max_model_len)
        self.program: Program = build(self.spec, length)
        checkpoint = Checkpoint(folder)
        checkpoint.check(self.program.weights())
        self.limits = Limits(
            max_num_seqs=32,
            max_num_batched_tokens=512,
            max_model_len=length,
            num_pages=num_pages or 1 + pages_for(length),
        )
        backend = backend or ReferenceBackend(num_threads, instruction_set)
        self.executable = backend.compile(self.program, checkpoint, self.limits)

    def sequences(self) -> Sequences:
        return Sequences(self.executable, self.limits)

    def prompt_logits(self, token_ids: list[int]) -> F32:
        """The logits of every row of one prompt: (tokens, vocab)."""
        sequences = self.sequences()
        return sequences.logits([(sequences.add(), token_ids)])[0]

    def greedy(self, prompt_ids: list[int], num_tokens: int) -> list[int]:
        """The tokens that follow a prompt, each the one with the highest logit."""
        sequences = self.sequences()
        seq = sequences.add()
        found: list[int] = []
        due = prompt_ids
        for _ in range(num_tokens):
            logits = sequences.logits([(seq, due)])[0]
            found.append(int(logits[-1].argmax()))
            due = [found[-1]]
        return found
