"""The contract between programs and what computes them. Nothing here computes.

A backend compiles a program once; the executable then runs batches. It owns the pools of keys and
values and does the sampling; token ids and a few logprobs are all that leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import Misuse
from octavo.core.kv_layout import KVGroup
from octavo.program.ir import Program, Weight
from octavo.weights.identity import Identity

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]

HEAD_BLOCK = 64
"""Rows of logits that exist at once at the most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an executable must be able to hold; its workspace is sized from this, once."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_pages: int
    """In each KV group. Page 0 belongs to nobody: padding is written there."""


@dataclass(slots=True)
class SamplingBatch:
    """How each sampling row draws. Ragged lists are (starts, values) pairs, starts one longer."""

    seeds: U64  # (rows,)
    choices: U32  # (rows,)
    positions: U32  # (rows,) position of the token that is drawn
    temperature: F32  # (rows,) 0 is greedy
    top_k: I32  # (rows,) 0 keeps all
    top_p: F32  # (rows,)
    min_p: F32  # (rows,)
    typical_p: F32  # (rows,)
    repetition_penalty: F32  # (rows,)
    presence_penalty: F32  # (rows,)
    frequency_penalty: F32  # (rows,)
    num_logprobs: I32  # (rows,) -1 for none, else 0..20 most likely beside the chosen one
    seen_starts: I32  # (rows + 1,) tokens of prompt and output, for rows with penalties
    seen_ids: I32  # (seen,) each id once a row
    seen_counts: I32  # (seen,) occurrences in the output; 0 for prompt tokens only
    bias_starts: I32  # (rows + 1,)
    bias_ids: I32  # (biases,)
    bias_values: F32  # (biases,) added to the logit; -inf bans the token
    mask_of_row: I32  # (rows,) index into masks, -1 for none
    masks: U32  # (masks, ceil(vocab / 32)) bit i % 32 of word i // 32 allows token i


@dataclass(slots=True)
class Batch:
    """The ragged arrays of one step. Sequence s owns rows [row_starts[s], row_starts[s + 1])."""

    token_ids: I32  # (tokens,)
    positions: I32  # (tokens,)
    row_starts: I32  # (seqs + 1,)
    context_lens: I32  # (seqs,) tokens of the sequence stored before this step
    page_tables: Sequence[I32]  # a KV group each: (seqs, pages of the longest sequence)
    page_copies: I32  # (copies, 3): KV group, from page, to page; done first
    sample_rows: I32  # (samples,) rows whose next token is drawn, ascending
    sampling: SamplingBatch  # of the sample_rows
    score_rows: I32  # (scores,) rows whose next token is known and wants logprobs, ascending
    score_targets: I32  # (scores,) that next token
    score_num_top: I32  # (scores,) 0..20


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Logprobs of given tokens under raw logits; the k best first, lower id first in a tie.

    Frozen are the fields, not the numbers in them: those belong to whoever was given the scores.
    """

    logprobs: F32  # (rows,)
    top_ids: Sequence[I32]  # a row each: (k,)
    top_logprobs: Sequence[F32]  # a row each: (k,)

    @classmethod
    def joined(cls, blocks: Sequence[ScoredRows]) -> ScoredRows:
        """The scores of blocks of rows, one after the other."""
        if not blocks:
            return NO_SCORES
        return cls(
            np.concatenate([block.logprobs for block in blocks]),
            [ids for block in blocks for ids in block.top_ids],
            [logprobs for block in blocks for logprobs in block.top_logprobs],
        )


NO_SCORES = ScoredRows(np.frombuffer(b"", np.float32), (), ())
"""Shared by all who have none: nobody can change it."""


@dataclass(slots=True)
class Rows:
    """What a batch gives back."""

    token_ids: I32  # (samples,) -1 where the row failed
    scores: ScoredRows
    """(samples,) of the drawn tokens; 0 and empty where none are wanted, or (0,) if no row does."""
    prompt_scores: ScoredRows  # (scores,)
    errors: dict[int, str] = field(default_factory=dict)
    """Why a sample row failed, by its index in sample_rows; its neighbours are unaffected."""
    prompt_errors: dict[int, str] = field(default_factory=dict)
    """The same for score rows."""


class WeightSource(Protocol):
    """Where a backend takes the numbers of a program's weights from."""

    @property
    def fingerprint(self) -> str:
        """Names the content: equal fingerprints mean equal numbers. May read it all, once."""

    def identity(self) -> Identity | None:
        """Names the content at no cost; None: nothing may be kept of it.

        Asked for again later, it is another one if the content may have changed.
        """

    def load_rows(self, weight: Weight, begin: int, end: int) -> NDArray[Any]:
        """Rows [begin, end) of a matrix as they are stored: f32, f16 or, as u16, bf16.

        C-contiguous, aligned, and to be dropped soon.

        Raises:
            ModelError: as for :meth:`load`.
        """

    def load(self, weight: Weight) -> F32:
        """The weight as a C-contiguous float32 array of ``weight.shape``.

        Raises:
            ModelError: the tensor is missing, misshapen or truncated.
        """


class Executable(Protocol):
    """A compiled program with its weights and its pools of keys and values.

    Every method but :meth:`close` raises Misuse once it is closed.
    """

    kv_groups: tuple[KVGroup, ...]
    weight_bytes: int
    """Of the weights in memory, in the form that it computes with."""

    def numerics(self) -> dict[str, str]:
        """What decides the bits of keys and values on the backend's side (hashing.numerics_id).

        Asks for the weights' fingerprint, which may have to read them all.
        """

    def run(self, batch: Batch) -> Rows:
        """Copy pages, compute every token of the batch, store its keys and values, sample."""

    def logits(self, batch: Batch, rows: I32) -> F32:
        """As :meth:`run`, but instead of sampling the logits of these rows: (rows, vocab).

        All of them exist at once. For measurements and tests.
        """

    def seconds(self) -> dict[str, float]:
        """Spent so far, by kind of work; empty unless the backend was made to measure it."""

    def page(self, group: int, page: int) -> NDArray[np.uint8]:
        """One page's bytes, a writable view: (layers * 2 * kv heads * bytes,).

        For tiers, hand-over, and tests that poison what is free.
        """

    def close(self) -> None:
        """Let go of weights and pages, once no step is running. Closing again does nothing."""


def closed() -> Misuse:
    """What an executable raises that is run after its end."""
    return Misuse("the model was closed", hint="make a new one")


class Backend(Protocol):
    """Turns programs into executables."""

    name: str

    def weight_bytes(self, program: Program) -> int:
        """Of the program's weights in memory, before anything is loaded."""

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> Executable: ...
