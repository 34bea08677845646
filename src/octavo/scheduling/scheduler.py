"""Requests in, step plans out; step results in, events out.

Computed tokens catch up with known tokens: that is all a step does for a sequence, whether it is
new, forked, preempted, resumed after a crash, or drawing one token after the other. How a step is
shared out among them, and why everybody gets on, is said in ``planner``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from octavo.core.clock import Clock
from octavo.core.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    OctavoError,
    RequestFailed,
)
from octavo.core.events import Event, Failed, FinishReason, PromptScored, Token
from octavo.core.request import Request
from octavo.core.step import RangeOutcome, StepPlan, StepResult
from octavo.scheduling import invariants
from octavo.scheduling.admission import Admission, Bounds
from octavo.scheduling.batching import Batching
from octavo.scheduling.kv import KVManager
from octavo.scheduling.planner import Flight, Planner
from octavo.scheduling.policy import Policy
from octavo.scheduling.roster import Roster
from octavo.scheduling.sequence import LiveRequest, Sequence, SequenceState, resumed
from octavo.scheduling.stats import Counters, PageStats, SchedulerStats


class Scheduler:
    """Decides what each step computes; knows tokens and pages as numbers only.

    One thread calls it. Plans must be computed in the order in which they were made, and their
    results applied in that order; the next plan may be made before the last result is there.

    Args:
        end_token_ids: tokens that end an answer unless the request ignores them.
        chunked_prefill: off, a catch-up is computed in one step or waits. Only one that is longer
            than a whole step (a preempted or resumed answer that outgrew it) is cut in pieces.
        kv_cache: off, every step computes all tokens of a sequence again, nothing is found or
            shared, and only one step may be in flight.

    Raises:
        ConfigError: a step has fewer tokens than slots, or a batch more sequences.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        batching: Batching,
        kv: KVManager,
        admission: Admission,
        clock: Clock,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        end_token_ids: Iterable[int],
        chunked_prefill: bool = True,
        kv_cache: bool = True,
    ) -> None:
        if max_num_batched_tokens < max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens={max_num_batched_tokens} is below"
                f" max_num_seqs={max_num_seqs}, so that some sequence could starve"
            )
        if batching.max_batch_size is not None and batching.max_batch_size > max_num_seqs:
            raise ConfigError(
                f"max_batch_size={batching.max_batch_size} exceeds max_num_seqs={max_num_seqs}",
                hint="raise max_num_seqs or lower max_batch_size",
            )
        self._policy = policy
        self._batching = batching
        self._kv = kv
        self._admission = admission
        self._clock = clock
        self._end_token_ids = frozenset(end_token_ids)
        self._kv_cache = kv_cache
        self._bounds = Bounds(
            max_model_len=max_model_len,
            step_tokens=max_num_batched_tokens,
            whole_prompt=not chunked_prefill,
            whole_sequence=not kv_cache,
            stored_tokens=kv.max_tokens(whole=not kv_cache),
        )
        self._counters = Counters()
        self._roster = Roster(batching, max_num_seqs=max_num_seqs)
        self._planner = Planner(
            policy=policy,
            kv=kv,
            roster=self._roster,
            counters=self._counters,
            step_tokens=max_num_batched_tokens,
            chunked_prefill=chunked_prefill,
            kv_cache=kv_cache,
        )
        self._flights: deque[Flight] = deque()
        self._events: list[Event] = []

    # Requests

    def add(self, request: Request) -> None:
        """Take a request.

        Raises:
            InvalidRequest: it is ill-formed, or could never be computed.
            Overloaded: too much waits already.
        In either case nothing has changed.
        """
        if request.request_id in self._roster.requests:
            raise InvalidRequest(
                f"a request with id {request.request_id!r} is being served", param="request_id"
            )
        self._admission.check_request(request)
        max_len = self._admission.check_length(request, self._bounds)
        self._admission.check_load(
            request, self._roster.waiting_requests, self._roster.waiting_tokens
        )
        params = request.params
        live = LiveRequest(
            request=request,
            arrival=self._counters.requests,
            arrival_s=self._clock(),
            max_len=max_len,
            stop_ids=frozenset(params.stop_token_ids).union(
                () if params.ignore_eos else self._end_token_ids
            ),
        )
        self._counters.requests += 1
        live.choices.extend(self._unfinished_choices(live))
        self._roster.add(live)
        for sequence in list(live.choices):
            reason = sequence.finish_reason()
            if reason is not None:  # resumed with its last token there, but not known as finished
                self._finish(sequence, reason, live.arrival_s, self._events)

    def _unfinished_choices(self, live: LiveRequest) -> Iterable[Sequence]:
        request = live.request
        scores = request.params.prompt_logprobs is not None
        num_prompt = len(request.prompt_ids)
        key = self._policy.key(request, live.arrival_s)
        for choice in range(request.params.n):
            known = resumed(request, choice)
            if known is not None and known.finished:
                continue
            output = () if known is None else known.output_ids
            token_ids = [*request.prompt_ids, *output]
            yield Sequence(
                live=live,
                choice=choice,
                rank=(key, live.arrival, choice),
                token_ids=token_ids,
                num_prompt=num_prompt,
                scored=0 if scores and choice == 0 and not output else num_prompt - 1,
                pages=self._kv.open(
                    token_ids,
                    tenant=request.tenant,
                    adapter=request.adapter,
                    takes_hits=self._kv_cache and not scores,
                ),
            )

    def abort(self, request_id: str, choice: int | None = None) -> list[Event]:
        """End a request, or one of its choices, at once; nothing for what is not being served.

        Steps in flight go on, and what they bring for it is dropped.
        """
        live = self._roster.requests.get(request_id)
        events: list[Event] = []
        if live is not None:
            now_s = self._clock()
            for sequence in list(live.choices):
                if choice is None or sequence.choice == choice:
                    self._finish(sequence, FinishReason.ABORT, now_s, events)
        return events

    def take_events(self) -> list[Event]:
        """Events that came up outside of ``apply``: deadlines, and ends found while resuming."""
        events, self._events = self._events, []
        return events

    @property
    def has_work(self) -> bool:
        """Whether there is anything to plan, apply or tell."""
        return bool(self._roster.requests or self._flights or self._events)

    def next_wakeup_s(self) -> float | None:
        """Seconds until something happens by time alone, when ``plan_step`` had nothing to do:
        a batch is due, or a waiting request's deadline comes. None if nothing will."""
        due_s = []
        if not self._roster.num_open and (batch_s := self._batching.next_wakeup_s()) is not None:
            due_s.append(batch_s)
        if (deadline_s := self._roster.next_deadline_s()) is not None:
            due_s.append(max(0.0, deadline_s - self._clock()))
        return min(due_s, default=None)

    # Steps

    def plan_step(self) -> StepPlan | None:
        """The next step; None if nothing can be computed before a result, a request or time
        comes."""
        roster, now_s = self._roster, self._clock()
        if roster.deadlines:
            for live in roster.overdue(now_s):
                waited_s = now_s - live.arrival_s
                error = DeadlineExceeded(f"the deadline came after {waited_s:.3f} s in the queue")
                self._fail(live, error, self._events)
        if roster.num_open < roster.num_sequences:
            roster.open_gate()
        flight = self._planner.plan(now_s)
        if not flight.parts:
            return None
        plan = flight.plan
        plan.leave, roster.left_slots = roster.left_slots, []
        if self._batching.pads:
            plan.padding = self._batching.padding(sequence for sequence, _, _ in flight.parts)
        self._flights.append(flight)
        self._counters.count_step(flight.num_tokens)
        return plan

    def apply(self, result: StepResult) -> list[Event]:
        """Take the result of the oldest step in flight; what became known.

        What it brings for sequences that were finished meanwhile is dropped. A sequence that was
        preempted meanwhile keeps its token, but not its pages. One that failed fails its whole
        request, and nobody else.
        """
        flight = self._flights.popleft()
        assert flight.plan.step == result.step, "results come in the order of their plans"
        now_s = self._clock()
        events, self._events = self._events, []
        for (sequence, stay, part), outcome in zip(flight.parts, result.outcomes, strict=True):
            is_finished = sequence.state is SequenceState.FINISHED
            if outcome.error is not None:
                if not is_finished:
                    self._fail(sequence.live, RequestFailed(outcome.error), events)
                continue
            if part.score_from >= 0 and sequence.live.choices:  # the siblings' prompt, too
                events.append(
                    PromptScored(
                        sequence.request.request_id, part.score_from + 1, outcome.prompt_logprobs
                    )
                )
            if is_finished:
                continue
            if sequence.stay == stay:
                if self._kv_cache:  # computed up to here, and stays so
                    sequence.confirmed = part.start + part.count
                    if sequence.confirmed >= sequence.pages.next_border:
                        self._kv.advance(sequence.pages, sequence.confirmed)
                else:
                    sequence.computed = 0
            if part.samples:
                self._append(sequence, outcome, now_s, events)
        return events

    def _append(
        self, sequence: Sequence, outcome: RangeOutcome, now_s: float, events: list[Event]
    ) -> None:
        """A token was drawn."""
        token_id = outcome.token_id
        assert token_id is not None, "a range that samples brings a token"
        request_id, token_ids = sequence.live.request.request_id, sequence.token_ids
        index = len(token_ids) - sequence.num_prompt
        events.append(Token(request_id, sequence.choice, index, token_id, outcome.logprobs))
        token_ids.append(token_id)
        sequence.pending -= 1
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s - sequence.live.arrival_s
        reason = sequence.finish_reason()
        if reason is not None:
            self._finish(sequence, reason, now_s, events)
        elif sequence.state is SequenceState.SETTLING and not sequence.pending:
            self._roster.settle(sequence)

    def _finish(
        self, sequence: Sequence, reason: FinishReason, now_s: float, events: list[Event]
    ) -> None:
        events.append(sequence.finished(reason, now_s))
        self._kv.release(sequence.pages)
        self._roster.finish(sequence)
        if not sequence.is_scored and sequence.live.choices:
            self._hand_over_scoring(sequence)

    def _hand_over_scoring(self, sequence: Sequence) -> None:
        """The choice that had the prompt's logprobs to bring ended early: another one goes on
        with them, from where it has computed the prompt again if need be."""
        heir = min(sequence.live.choices, key=lambda choice: choice.computed)
        if heir.computed > sequence.scored:
            self._planner.preempt(heir)
        heir.scored = sequence.scored

    def _fail(self, live: LiveRequest, error: OctavoError, events: list[Event]) -> None:
        """End a request with an error. What it computed is not trusted, hence not kept."""
        for sequence in list(live.choices):
            self._kv.release(sequence.pages, keep=False)
            self._roster.finish(sequence)
        events.append(Failed.of(live.request.request_id, error))

    # Watching

    def stats(self) -> SchedulerStats:
        """Sequences and pages at this moment, and counters since the start."""
        counters, roster = self._counters, self._roster
        pools = [group.pool for group in self._kv.groups]
        return SchedulerStats(
            waiting=roster.num_sequences - len(roster.running),
            running=len(roster.running),
            pages=tuple(PageStats(p.num_free, p.num_cached, p.num_held) for p in pools),
            requests=counters.requests,
            steps=counters.steps,
            computed_tokens=counters.computed_tokens,
            max_running=counters.max_running,
            max_step_tokens=counters.max_step_tokens,
            preemptions=counters.preemptions,
            displacements=counters.displacements,
            hit_tokens=counters.hit_tokens,
            forks=counters.forks,
            page_copies=counters.page_copies,
            evictions=sum(pool.num_evictions for pool in pools),
        )

    def check(self) -> None:
        """Raise InvariantBroken if anything that must always hold does not."""
        invariants.check(self._roster, self._kv, self._flights)
