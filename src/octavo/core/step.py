"""The bridge between scheduling and execution: a plan of plain integers, and its result.

A plan names tokens by (slot, position), never by value, so that the next step can be planned while
the tokens of this one are still being computed. What a request carries besides tokens is
registered once, when its sequence enters a slot.
"""

from __future__ import annotations

import msgspec

from octavo.core.request import Request


class SlotEntry(msgspec.Struct, frozen=True):
    """A sequence takes a slot of the runner; all its known tokens are handed over here."""

    slot: int
    request: Request
    choice: int
    token_ids: tuple[int, ...]
    """The prompt and every output token so far."""

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)


class TokenRange(msgspec.Struct, frozen=True):
    """The tokens of one sequence that a step computes: positions [start, start + count)."""

    slot: int
    start: int
    """Keys and values of [0, start) are in the sequence's pages already."""
    count: int
    samples: bool
    """Whether the last of them is the last known token, so that the next token is drawn."""
    score_from: int = -1
    """Prompt logprobs are due for the tokens after positions [score_from, start + count), as far
    as the prompt goes; -1 when none are."""


class StepPlan(msgspec.Struct):
    """One step. The runner applies the parts in the order in which they stand here."""

    step: int
    leave: list[int] = []
    """Slots whose sequences are gone."""
    enter: list[SlotEntry] = []
    page_assignments: list[tuple[int, int, int, int]] = []
    """(slot, KV group, index in the page table, page)."""
    page_copies: list[tuple[int, int, int]] = []
    """(KV group, from page, to page), done before anything is computed."""
    ranges: list[TokenRange] = []
    padding: list[int] = []
    """Rows of pure waste to compute beside the ranges, one entry a padded sequence; only when
    padding is being measured."""

    @property
    def num_tokens(self) -> int:
        return sum(part.count for part in self.ranges)


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Logprobs at one position, of the raw distribution."""

    logprob: float
    """Of the token that is there."""
    top_ids: tuple[int, ...] = ()
    """The most likely tokens, best first, the lower id first in a tie."""
    top_logprobs: tuple[float, ...] = ()


class RangeOutcome(msgspec.Struct, frozen=True):
    """What became of one range of the plan."""

    token_id: int | None = None
    """The token drawn, where the range samples."""
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """For the tokens after positions score_from, score_from + 1, ..."""
    error: str | None = None
    """This sequence alone failed; why."""


class StepResult(msgspec.Struct, frozen=True):
    """The outcomes of a plan, in the order of its ranges."""

    step: int
    outcomes: list[RangeOutcome]
