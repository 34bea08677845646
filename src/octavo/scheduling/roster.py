"""Which sequence is where: at the gate, queued, parked, settling, running, or gone.

Every change of a sequence's state happens here, together with the lists and counts that mirror
it. Decisions and pages do not belong here: ``scheduler`` decides, and takes and returns pages.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

from octavo.scheduling.batching import Batching
from octavo.scheduling.queue import WaitingQueue
from octavo.scheduling.sequence import NO_SLOT, LiveRequest, Rank, Sequence, SequenceState


class Roster:
    """All sequences that are not finished, by state."""

    def __init__(self, batching: Batching, *, max_num_seqs: int) -> None:
        self.requests: dict[str, LiveRequest] = {}
        self.queue = WaitingQueue()
        self.running: list[Sequence] = []
        """Best rank first."""
        self.free_slots = list(range(max_num_seqs - 1, -1, -1))
        self.left_slots: list[int] = []
        """Slots whose sequences are gone; the runner is told with the next plan."""
        self.num_open = 0
        """Sequences that the batching let through and that are not finished."""
        self.num_sequences = 0
        self.waiting_requests = 0
        self.waiting_tokens = 0
        self.num_parked = 0
        self.deadlines: list[tuple[float, int, LiveRequest]] = []
        """A heap; of some, the requests have started or are gone."""
        self._batching = batching

    def add(self, live: LiveRequest) -> None:
        """A new request with all its choices that are not finished."""
        request = live.request
        self.requests[request.request_id] = live
        self.waiting_requests += 1
        self.waiting_tokens += len(request.prompt_ids)
        self.num_sequences += len(live.choices)
        if request.deadline_s is not None:
            heapq.heappush(self.deadlines, (request.deadline_s, live.arrival, live))
        for sequence in live.choices:
            self._batching.add(sequence)

    def open_gate(self) -> None:
        """Queue what the batching lets through."""
        for sequence in self._batching.release(self.num_open):
            self.num_open += 1
            self._enqueue(sequence)

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.QUEUED
        self.queue.push(sequence)

    # Deadlines

    def next_deadline_s(self) -> float | None:
        """The earliest deadline of a request that has not started."""
        while self.deadlines and not self._is_waiting(self.deadlines[0][2]):
            heapq.heappop(self.deadlines)
        return self.deadlines[0][0] if self.deadlines else None

    def overdue(self, now_s: float) -> list[LiveRequest]:
        """Requests that have not started and whose deadline has come, each once."""
        found = []
        while (deadline_s := self.next_deadline_s()) is not None and deadline_s <= now_s:
            found.append(heapq.heappop(self.deadlines)[2])
        return found

    def _is_waiting(self, live: LiveRequest) -> bool:
        return bool(live.choices) and not live.has_started

    # From the queue to a slot and back

    def start(self, sequence: Sequence) -> int:
        """The head of the queue runs; its slot."""
        popped = self.queue.pop()
        assert popped is sequence
        sequence.state = SequenceState.RUNNING
        sequence.slot = self.free_slots.pop()
        insort(self.running, sequence, key=_rank)
        self._no_longer_waits(sequence.live)
        sequence.live.has_started = True
        return sequence.slot

    def park(self, sequence: Sequence) -> None:
        """The head of the queue waits for a running sibling."""
        popped = self.queue.pop()
        assert popped is sequence
        sequence.state = SequenceState.PARKED
        sequence.live.parked.append(sequence)
        self.num_parked += 1

    def unpark(self, live: LiveRequest) -> None:
        """The parked sequences of a request have another look at their siblings."""
        parked, live.parked = live.parked, []
        self.num_parked -= len(parked)
        for sequence in parked:
            self._enqueue(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence gives up its slot and waits, with all its tokens.

        While a step in flight draws its next token, it cannot be entered again: the token is
        kept, and ``settle`` queues it.
        """
        self._stop_running(sequence)
        sequence.stay += 1
        sequence.computed = sequence.confirmed = 0
        if sequence.pending:
            sequence.state = SequenceState.SETTLING
        else:
            self._enqueue(sequence)

    def settle(self, sequence: Sequence) -> None:
        """The last token in flight of a preempted sequence has come."""
        assert sequence.state is SequenceState.SETTLING
        assert not sequence.pending
        self._enqueue(sequence)

    def finish(self, sequence: Sequence) -> None:
        """From any state, for good."""
        state, live = sequence.state, sequence.live
        if state is SequenceState.RUNNING:
            self._stop_running(sequence)
        sequence.state = SequenceState.FINISHED
        if state is SequenceState.QUEUED:
            self.queue.discard(sequence)
        elif state is SequenceState.PARKED:
            live.parked.remove(sequence)
            self.num_parked -= 1
        if state is SequenceState.HELD_BACK:
            self._batching.discard(sequence)
        else:
            self.num_open -= 1
        self.num_sequences -= 1
        live.choices.remove(sequence)
        if not live.choices:
            self._no_longer_waits(live)
            del self.requests[live.request.request_id]

    def _stop_running(self, sequence: Sequence) -> None:
        del self.running[bisect_left(self.running, sequence.rank, key=_rank)]
        self.left_slots.append(sequence.slot)
        self.free_slots.append(sequence.slot)
        sequence.slot = NO_SLOT
        self.unpark(sequence.live)

    def _no_longer_waits(self, live: LiveRequest) -> None:
        if not live.has_started:
            self.waiting_requests -= 1
            self.waiting_tokens -= len(live.request.prompt_ids)


def _rank(sequence: Sequence) -> Rank:
    return sequence.rank
