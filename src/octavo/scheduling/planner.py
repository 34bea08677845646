"""What the next step computes: how its tokens, slots and pages are shared out.

**One order.** Sequences have ranks, no two of them equal (``policy``). Each plan goes through the
running sequences from the best rank down, and then lets waiting ones in, best rank first. A
waiting one that ranks above a running one is let in before that one takes its share.

**Tokens.** A sequence takes what it is due, up to what is left of the step's tokens, but one token
is kept back for each running sequence behind it. So a decode, which is due one token, is in every
step, whatever chunk of a prompt goes before it; and because a step has at least as many tokens as
there are slots, a catch-up gets at least one token in every step, whatever number of decodes.

**Pages.** Whoever is let in gets the pages of all its known tokens at once, and only if that
leaves a page more for everybody running. A running sequence that needs a page when none is left
takes it from the worst-ranked one, which is preempted and computed again later. Nobody takes from
a better rank; who has nobody to take from waits for the next step.

**Progress.** The best-ranked running sequence is in every plan that is made while no step is in
flight. Proof: it is the first to take tokens, and is due at least one. If it lacks pages, everybody
else running ranks below it and can be preempted until it is alone, and a sequence that does not
fit alone was refused at the door. Nothing preempts it: growing preempts only who ranks below the
one that grows, and displacing only who ranks below the one that is let in. If nobody runs, the
head of the queue is let in: every page is free or cached, and the whole step is its own. Ranks are
fixed, so the best one keeps its place until it is finished, and it has at most max_model_len
tokens to go. Hence everybody is served in the end, unless better-ranked requests keep coming;
``policy`` says when they can.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.core.step import SlotEntry, StepPlan, TokenRange
from octavo.scheduling.kv import HeadStart, KVManager
from octavo.scheduling.policy import Policy
from octavo.scheduling.roster import Roster
from octavo.scheduling.sequence import Sequence, SequenceState
from octavo.scheduling.stats import Counters


@dataclass(slots=True)
class Flight:
    """A step that is planned and whose result has not come back."""

    plan: StepPlan
    parts: list[tuple[Sequence, int, TokenRange]] = field(default_factory=list)
    """The ranges of the plan, whom they belong to, and in which of their stays."""
    num_tokens: int = 0


class Planner:
    """Fills one plan after the other from a roster and the pages.

    ``chunked_prefill`` and ``kv_cache`` as in ``Scheduler``.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        kv: KVManager,
        roster: Roster,
        counters: Counters,
        step_tokens: int,
        chunked_prefill: bool,
        kv_cache: bool,
    ) -> None:
        self._policy = policy
        self._kv = kv
        self._roster = roster
        self._counters = counters
        self._step_tokens = step_tokens
        self._chunked = chunked_prefill and kv_cache
        self._kv_cache = kv_cache
        self._did_not_fit: tuple[Sequence, int] | None = None
        """Who found too few pages, and ``kv.num_changes`` by then: until that changes there is no
        use in looking again."""

    def plan(self, now_s: float) -> Flight:
        """The next step. It computes nothing if there is nothing to compute yet."""
        flight = Flight(StepPlan(self._counters.steps))
        preemptions = self._counters.preemptions
        tokens = self._plan_running(flight, now_s)
        # Whoever was preempted needs the room that there is.
        if self._roster.queue.num_waiting and self._counters.preemptions == preemptions:
            self._let_in(flight, tokens, now_s)
        assert flight.parts or not flight.plan.enter, "who has just started can be computed"
        return flight

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence gives back its slot and its pages, and waits."""
        self._kv.release(sequence.pages)
        self._roster.preempt(sequence)
        self._counters.preemptions += 1

    def _plan_running(self, flight: Flight, now_s: float) -> int:
        """Give each running sequence its share of the step; how many tokens are left.

        A queued sequence that ranks above some of them is let in where its rank stands, so that
        whoever makes way for it is not in the plan yet.
        """
        running = self._roster.running
        if self._roster.num_parked:
            for sequence in running:
                if sequence.live.parked and sequence.computed >= sequence.num_prompt - 1:
                    self._roster.unpark(sequence.live)
        tokens = self._step_tokens
        newcomer = self._newcomer() if self._roster.queue.num_waiting else None
        index = 0
        while index < len(running):
            sequence = running[index]
            if newcomer is not None and newcomer.rank < sequence.rank:
                let_in = self._let_in_before(newcomer, flight, tokens)
                newcomer = self._newcomer() if let_in else None
                continue
            index += 1
            kept_back = len(running) - index
            if newcomer is not None:  # and others may follow it, into every slot that is free
                kept_back += len(self._roster.free_slots)
            count = self._share(sequence, tokens, kept_back)
            if count > 0 and sequence.computed + count > sequence.pages.capacity:
                preemptions = self._counters.preemptions
                count = self._make_room(sequence, count, flight)
                if self._counters.preemptions > preemptions:
                    newcomer = None  # pages are scarce, and who lost them may rank above it
            if count > 0:
                self._compute(sequence, count, flight, now_s)
                tokens -= count
        return tokens

    def _share(self, sequence: Sequence, tokens: int, kept_back: int) -> int:
        """How many of the ``tokens`` left in the step a running sequence takes."""
        length = len(sequence.token_ids) + sequence.pending
        if length >= sequence.live.max_len:
            return 0  # its last token is being drawn
        if sequence.pending and not self._kv_cache:
            return 0
        due = length - sequence.computed
        if self._chunked or due > self._step_tokens:
            return min(due, tokens - kept_back)
        return due if due <= tokens else 0

    def _make_room(self, sequence: Sequence, count: int, flight: Flight) -> int:
        """Find pages for ``count`` tokens more, or for some of them; how many there is room for.

        Sequences of worse rank are preempted only if there is no room at all.
        """
        running = self._roster.running
        least = 1 if self._kv_cache else count
        while (room := self._kv.room(sequence.pages) - sequence.computed) < least:
            if running[-1] is sequence:
                return 0
            self.preempt(running[-1])
        return self._grow(sequence, min(count, room), flight)

    def _grow(self, sequence: Sequence, count: int, flight: Flight) -> int:
        """Extend the pages to hold ``count`` tokens more, for which there is room."""
        tokens = sequence.computed + count
        self._kv.grow(sequence.pages, tokens, slot=sequence.slot, plan=flight.plan)
        return count

    def _compute(self, sequence: Sequence, count: int, flight: Flight, now_s: float) -> None:
        """Put the next ``count`` tokens of a sequence into the step."""
        start = sequence.computed
        end = start + count
        score_from = -1
        last_scored = sequence.num_prompt - 1
        if sequence.scored < last_scored and sequence.scored < end:
            score_from = max(start, sequence.scored)
            sequence.scored = min(end, last_scored)
        samples = end == len(sequence.token_ids) + sequence.pending
        part = TokenRange(sequence.slot, start, count, samples, score_from)
        plan = flight.plan
        flight.parts.append((sequence, sequence.stay, part))
        plan.ranges.append(part)
        flight.num_tokens += count
        if sequence.planned_step != plan.step:
            sequence.planned_step = plan.step
            sequence.planned_from = start
        sequence.computed = end
        if samples:
            sequence.pending += 1
        if sequence.started_s is None:
            sequence.started_s = now_s - sequence.live.arrival_s

    # Letting in

    def _let_in(self, flight: Flight, tokens: int, now_s: float) -> None:
        """Start queued sequences, best rank first, while there are tokens, slots and pages.

        The first one that must wait makes all others wait: nobody slips past it for ever.
        """
        while tokens > 0 and (sequence := self._head()) is not None:
            head_start = self._room_for(sequence)
            if head_start is None:
                return
            if self._must_wait_for_tokens(sequence, head_start, tokens):
                return
            self._start(sequence, head_start, flight)
            count = min(sequence.length - sequence.computed, tokens)
            if sequence.computed + count > sequence.pages.capacity:
                room = self._kv.room(sequence.pages) - sequence.computed
                count = self._grow(sequence, min(count, room), flight)
            self._compute(sequence, count, flight, now_s)
            tokens -= count

    def _must_wait_for_tokens(self, sequence: Sequence, head_start: HeadStart, tokens: int) -> bool:
        """Whether it must be computed in one step, but another one than this."""
        due = sequence.length - head_start.num_tokens
        return not self._chunked and tokens < due <= self._step_tokens

    def _head(self) -> Sequence | None:
        """The best-ranked sequence in the queue that need not wait for a sibling."""
        while (sequence := self._roster.queue.peek()) is not None:
            if not self._should_park(sequence):
                return sequence
            self._roster.park(sequence)
        return None

    def _should_park(self, sequence: Sequence) -> bool:
        """Whether a running sibling will have what this one can fork, but has not yet."""
        if not self._can_fork(sequence):
            return False
        settled = [sibling.settled(self._counters.steps) for sibling in _running(sequence)]
        return bool(settled) and max(settled) < sequence.num_prompt - 1

    def _can_fork(self, sequence: Sequence) -> bool:
        """Whether the prompt could come from a sibling: all of it but the last token, which is
        computed again because it draws the first token of the answer."""
        return (
            len(sequence.live.choices) > 1
            and self._kv_cache
            and sequence.is_scored
            and sequence.num_prompt > 1
        )

    def _head_start(self, sequence: Sequence) -> HeadStart:
        """The most that a sequence can find: in the prefix cache, or with a sibling."""
        found = self._kv.match(sequence.pages)
        shared = sequence.num_prompt - 1
        if found.num_tokens >= shared or not self._can_fork(sequence):
            return found
        for sibling in _running(sequence):
            if sibling.settled(self._counters.steps) >= shared:
                fork = self._kv.fork(sibling.pages, shared)
                if fork is not None:
                    return fork
        return found

    def _room_for(self, sequence: Sequence) -> HeadStart | None:
        """How a queued sequence would start; None if there is no slot, or too few pages."""
        key = (sequence, self._kv.num_changes)
        if not self._roster.free_slots or self._did_not_fit == key:
            return None
        head_start = self._head_start(sequence)
        if self._fits(sequence, head_start, len(self._roster.running)):
            return head_start
        self._did_not_fit = key
        return None

    def _fits(
        self,
        sequence: Sequence,
        head_start: HeadStart,
        headroom: int,
        returned: tuple[int, ...] = (),
    ) -> bool:
        return self._kv.fits(
            head_start,
            len(sequence.token_ids),
            whole=not self._kv_cache,
            headroom=headroom,
            returned=returned,
        )

    def _start(self, sequence: Sequence, head_start: HeadStart, flight: Flight) -> None:
        """The head of the queue gets a slot and pages."""
        plan, counters = flight.plan, self._counters
        slot = self._roster.start(sequence)
        token_ids = tuple(sequence.token_ids)
        plan.enter.append(SlotEntry(slot, sequence.request, sequence.choice, token_ids))
        whole = not self._kv_cache
        self._kv.start(
            sequence.pages, head_start, len(token_ids), whole=whole, slot=slot, plan=plan
        )
        sequence.computed = sequence.confirmed = head_start.num_tokens
        sequence.planned_step, sequence.planned_from = plan.step, 0
        if sequence.started_s is None:
            sequence.cached_tokens = min(head_start.num_tokens, sequence.num_prompt)
        if head_start.is_fork:
            counters.forks += 1
            counters.page_copies += len(head_start.copies)
        else:
            counters.hit_tokens += head_start.num_tokens
        counters.max_running = max(counters.max_running, len(self._roster.running))

    # Letting in before others

    def _newcomer(self) -> Sequence | None:
        """The head of the queue, if it ranks above somebody running and may find room."""
        running = self._roster.running
        if not running:
            return None
        sequence = self._head()
        if sequence is None or sequence.rank > running[-1].rank:
            return None
        if self._did_not_fit == (sequence, self._kv.num_changes):
            return None
        if self._roster.free_slots or self._may_displace(sequence, running[-1]):
            return sequence
        return None

    def _may_displace(self, waiting: Sequence, running: Sequence) -> bool:
        return waiting.rank < running.rank and self._policy.may_displace(
            waiting.request, running.request
        )

    def _let_in_before(self, sequence: Sequence, flight: Flight, tokens: int) -> bool:
        """Start the head of the queue. If the policy says that others must make way for it, the
        worst-ranked of them are preempted as far as needed; nobody is, if all that they hold
        (counting what they share with others, too) would not be enough."""
        running = self._roster.running
        head_start = self._head_start(sequence)
        if self._must_wait_for_tokens(sequence, head_start, tokens):
            return False
        victims = [victim for victim in running if self._may_displace(sequence, victim)]
        returned = tuple(map(sum, zip(*map(_held_pages, victims), strict=True)))
        if not self._fits(sequence, head_start, len(running) - len(victims), returned):
            self._did_not_fit = (sequence, self._kv.num_changes)
            return False
        preemptions = self._counters.preemptions
        while (head_start_now := self._room_for(sequence)) is None:
            if not running or not self._may_displace(sequence, running[-1]):
                return False
            self.preempt(running[-1])
        self._counters.displacements += self._counters.preemptions > preemptions
        self._start(sequence, head_start_now, flight)
        return True


def _running(sequence: Sequence) -> list[Sequence]:
    """The running choices of a sequence's request."""
    choices = sequence.live.choices
    return [sibling for sibling in choices if sibling.state is SequenceState.RUNNING]


def _held_pages(sequence: Sequence) -> list[int]:
    """The pages of a running sequence in each group, those that it shares included."""
    pages = sequence.pages
    held = zip(pages.tables, pages.dropped, strict=True)
    return [len(table) - dropped for table, dropped in held]
