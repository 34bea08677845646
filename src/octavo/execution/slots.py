"""What the runner keeps for each sequence while it is being served: tokens, pages, parameters.

A plan names tokens by (slot, position); their values live only here. Scalars of all slots stand
in arrays, so that the batch of a step is picked out by index instead of being built row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from octavo.core.kv_layout import pages_for
from octavo.core.request import SamplingParams
from octavo.core.step import SlotEntry

BANNED = float("-inf")
SCALARS: tuple[tuple[str, type[np.generic]], ...] = (
    ("temperature", np.float32),
    ("top_k", np.int32),
    ("top_p", np.float32),
    ("min_p", np.float32),
    ("typical_p", np.float32),
    ("repetition_penalty", np.float32),
    ("presence_penalty", np.float32),
    ("frequency_penalty", np.float32),
)
"""Sampling parameters that are one number a row."""


class SeenTokens:
    """The tokens of prompt and output of one sequence, each once, for its penalties."""

    __slots__ = ("_counts", "_ids", "_index")

    def __init__(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> None:
        self._index = {token: index for index, token in enumerate(dict.fromkeys(prompt_ids))}
        room = len(self._index) + 64
        self._ids = np.zeros(room, np.int32)
        self._counts = np.zeros(room, np.int32)
        self._ids[: len(self._index)] = list(self._index)
        for token in output_ids:
            self.count(token)

    @property
    def ids(self) -> NDArray[np.int32]:  # (tokens,) a view
        return self._ids[: len(self._index)]

    @property
    def counts(self) -> NDArray[np.int32]:  # (tokens,) a view: occurrences in the output
        return self._counts[: len(self._index)]

    def count(self, token: int) -> None:
        """The output has this token once more."""
        index = self._index.setdefault(token, len(self._index))
        if index == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[index] = token
        self._counts[index] += 1


@dataclass(slots=True)
class Extras:
    """The ragged, rarely used side of one sequence's sampling parameters."""

    bias: dict[int, float]
    end_ids: tuple[int, ...]  # banned while the output is shorter than min_tokens
    min_tokens: int
    bad_words: tuple[tuple[int, ...], ...]
    mask: NDArray[np.uint32] | None  # (ceil(vocab / 32),) allowed tokens
    seen: SeenTokens | None  # None without penalties

    @property
    def is_plain(self) -> bool:
        """Whether a row of this sequence needs nothing but the scalars."""
        return (
            not (self.bias or self.min_tokens or self.bad_words or self.mask is not None)
            and self.seen is None
        )


@dataclass(slots=True)
class SlotTable:
    """All slots of a runner. Rows of every array are slots."""

    max_num_seqs: int
    max_model_len: int
    vocab_size: int
    num_groups: int
    end_token_ids: tuple[int, ...]
    tokens: NDArray[np.int32] = field(init=False)  # (slots, max_model_len)
    num_tokens: list[int] = field(init=False)  # (slots,) known tokens
    num_prompt_tokens: list[int] = field(init=False)  # (slots,)
    seeds: NDArray[np.uint64] = field(init=False)  # (slots,)
    choices: NDArray[np.uint32] = field(init=False)  # (slots,)
    num_logprobs: NDArray[np.int32] = field(init=False)  # (slots,) -1 for none
    num_prompt_logprobs: NDArray[np.int32] = field(init=False)  # (slots,) -1 for none
    scalars: dict[str, NDArray[np.generic]] = field(init=False)  # name -> (slots,)
    pages: list[NDArray[np.int32]] = field(init=False)  # a KV group each: (slots, pages)
    extras: list[Extras | None] = field(init=False)  # None for plain rows
    failures: dict[int, str] = field(init=False)  # slot -> why its sequence cannot go on

    def __post_init__(self) -> None:
        slots = self.max_num_seqs
        self.tokens = np.zeros((slots, self.max_model_len), np.int32)
        self.num_tokens = [0] * slots
        self.num_prompt_tokens = [0] * slots
        self.seeds = np.zeros(slots, np.uint64)
        self.choices = np.zeros(slots, np.uint32)
        self.num_logprobs = np.full(slots, -1, np.int32)
        self.num_prompt_logprobs = np.full(slots, -1, np.int32)
        self.scalars = {name: np.zeros(slots, dtype) for name, dtype in SCALARS}
        pages = pages_for(self.max_model_len)
        self.pages = [np.zeros((slots, pages), np.int32) for _ in range(self.num_groups)]
        self.extras = [None] * slots
        self.failures = {}

    def enter(self, entry: SlotEntry) -> None:
        """A sequence takes a slot, with every token known so far."""
        slot, params = entry.slot, entry.request.params
        self.failures.pop(slot, None)
        known = len(entry.token_ids)
        self.tokens[slot, :known] = entry.token_ids
        self.num_tokens[slot] = known
        self.num_prompt_tokens[slot] = entry.num_prompt_tokens
        self.seeds[slot] = entry.request.seed
        self.choices[slot] = entry.choice
        self.num_logprobs[slot] = -1 if params.logprobs is None else params.logprobs
        self.num_prompt_logprobs[slot] = (
            -1 if params.prompt_logprobs is None else params.prompt_logprobs
        )
        for name, values in self.scalars.items():
            values[slot] = getattr(params, name)
        for table in self.pages:
            table[slot] = 0
        self.extras[slot] = None
        extras = self._extras(params, entry)
        if not extras.is_plain:
            self.extras[slot] = extras

    def _extras(self, params: SamplingParams, entry: SlotEntry) -> Extras:
        penalised = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        seen: SeenTokens | None = None
        if penalised:
            output_ids = entry.token_ids[entry.num_prompt_tokens :]
            seen = SeenTokens(entry.request.prompt_ids, output_ids)
        ends = params.stop_token_ids
        if not params.ignore_eos:
            ends = (*self.end_token_ids, *ends)
        return Extras(
            bias=dict(params.logit_bias),
            end_ids=ends,
            min_tokens=params.min_tokens,
            bad_words=params.bad_words,
            mask=self._mask(params.allowed_token_ids),
            seen=seen,
        )

    def _mask(self, allowed: Sequence[int] | None) -> NDArray[np.uint32] | None:
        if allowed is None:
            return None
        ids = np.asarray(allowed, np.int64)
        mask = np.zeros(-(-self.vocab_size // 32), np.uint32)
        np.bitwise_or.at(mask, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
        return mask

    def leave(self, slot: int) -> None:
        """The sequence is gone; what it left behind must not be read again."""
        self.num_tokens[slot] = 0
        self.extras[slot] = None
        self.failures.pop(slot, None)

    def append(self, slot: int, token_id: int) -> None:
        """A token was drawn for this slot."""
        self.tokens[slot, self.num_tokens[slot]] = token_id
        self.num_tokens[slot] += 1
        extras = self.extras[slot]
        if extras is not None and extras.seen is not None:
            extras.seen.count(token_id)

    def biases(self, slot: int) -> dict[int, float]:
        """Token -> what is added to its logit for the next token of this slot."""
        extras = self.extras[slot]
        assert extras is not None
        known = self.num_tokens[slot]
        biases = extras.bias
        banned: list[int] = []
        if known - self.num_prompt_tokens[slot] < extras.min_tokens:
            banned.extend(extras.end_ids)
        if extras.bad_words:
            tail = self.tokens[slot, :known]
            for *start, last in extras.bad_words:
                if len(start) <= known and tail[known - len(start) :].tolist() == start:
                    banned.append(last)
        return {**biases, **dict.fromkeys(banned, BANNED)} if banned else biases
