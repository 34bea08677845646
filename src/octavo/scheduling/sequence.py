"""One choice of one request on its way through the scheduler, and what its choices share.

Here is what a sequence is and what its next token means for it; who moves it from state to state
is ``roster``, and when, ``scheduler``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from octavo.core.events import Finished, FinishReason, Timings, Usage
from octavo.core.request import ChoiceSoFar, Request
from octavo.scheduling.kv import SequencePages

Rank = tuple[float, int, int]
"""(policy key, arrival number, choice): smaller goes first. No two sequences are equal."""

NO_SLOT = -1


class SequenceState(enum.Enum):
    """Where a sequence is."""

    HELD_BACK = "held back"
    """Its batch is not open yet."""
    QUEUED = "queued"
    """It may start as soon as there is room."""
    PARKED = "parked"
    """It waits for a running sibling that has its prompt nearly computed, to fork from it."""
    SETTLING = "settling"
    """Preempted, but steps in flight are still drawing its tokens; then it is queued again."""
    RUNNING = "running"
    """It has a slot and pages."""
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class LiveRequest:
    """A request with at least one choice that is not finished."""

    request: Request
    arrival: int
    """How many came before it."""
    arrival_s: float
    max_len: int
    """Prompt and output tokens of a choice at the most."""
    stop_ids: frozenset[int]
    """End and stop tokens."""
    choices: list[Sequence] = field(default_factory=list)
    """Those that are not finished."""
    parked: list[Sequence] = field(default_factory=list)
    has_started: bool = False
    """Whether any choice ever ran: until then the request counts as waiting."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice: its tokens, and how far their keys and values are computed.

        [0, confirmed)           computed, and the results of the steps have come back
        [confirmed, computed)    being computed by steps in flight
        [computed, known)        due
        [known, known + pending) being drawn by steps in flight: named by (slot, position) only

    There is no prefill and no decode. A sequence has tokens that are due, and a step computes
    some of them; when nothing is due any more, its next token is drawn.
    """

    live: LiveRequest
    choice: int
    rank: Rank
    token_ids: list[int]
    """The known ones: prompt and output."""
    pages: SequencePages
    scored: int
    """The prompt's tokens after positions [0, scored) need no logprobs any more."""
    num_prompt: int
    state: SequenceState = SequenceState.HELD_BACK
    slot: int = NO_SLOT
    pending: int = 0
    computed: int = 0
    confirmed: int = 0
    stay: int = 0
    """Which of its stays in a slot this is: what a step in flight computed for an earlier stay is
    in pages that were given back."""
    planned_step: int = -1
    """The last step that computes for it, or in which it started."""
    planned_from: int = 0
    """What was computed before that step."""
    cached_tokens: int = 0
    started_s: float | None = None
    first_token_s: float | None = None

    @property
    def request(self) -> Request:
        return self.live.request

    @property
    def length(self) -> int:
        """Tokens known or being drawn."""
        return len(self.token_ids) + self.pending

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def is_scored(self) -> bool:
        """Whether no prompt logprobs are due any more."""
        return self.scored >= self.num_prompt - 1

    def settled(self, step: int) -> int:
        """The tokens that are computed before ``step`` begins; 0 if it starts in that step."""
        return self.planned_from if self.planned_step == step else self.computed

    def finish_reason(self) -> FinishReason | None:
        """Whether the last known token ends the choice. An end token also wins as the last one
        allowed; one that came before ``min_tokens`` ends nothing."""
        live, num_tokens = self.live, len(self.token_ids)
        is_stop = num_tokens > self.num_prompt and self.token_ids[-1] in live.stop_ids
        if is_stop and num_tokens - self.num_prompt > live.request.params.min_tokens:
            return FinishReason.STOP
        if num_tokens >= live.max_len:
            return FinishReason.LENGTH
        return None

    def finished(self, reason: FinishReason, now_s: float) -> Finished:
        """The event that says so. Times of what never happened are that of the end."""
        end_s = now_s - self.live.arrival_s
        first_s = end_s if self.first_token_s is None else self.first_token_s
        return Finished(
            request_id=self.request.request_id,
            choice=self.choice,
            reason=reason,
            stop_token_id=self.token_ids[-1] if reason is FinishReason.STOP else None,
            usage=Usage(
                prompt_tokens=self.num_prompt,
                cached_tokens=self.cached_tokens,
                completion_tokens=self.num_output,
            ),
            timings=Timings(
                started_s=first_s if self.started_s is None else self.started_s,
                first_token_s=first_s,
                finished_s=end_s,
            ),
        )


def resumed(request: Request, choice: int) -> ChoiceSoFar | None:
    """What is known of a choice from another engine."""
    return next((known for known in request.resume if known.choice == choice), None)
