"""When waiting sequences are let through: at once, or in closed batches.

A batching stands in front of the queue. Continuous batching lets everybody through; dynamic and
static batching form a batch, let all of it through and nobody else until its last sequence ends.
Pages, slots and tokens are no concern here: members of a batch may still wait for those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from octavo.core.clock import Clock
from octavo.scheduling.queue import WaitingQueue
from octavo.scheduling.sequence import Sequence, SequenceState


class Batching(Protocol):
    """A gate in front of the queue."""

    max_batch_size: int | None
    """Sequences that it lets through together; None when there is no limit."""
    pads: bool
    """Whether ``padding`` ever has anything to say."""

    def add(self, sequence: Sequence) -> None:
        """A new sequence comes to the gate."""

    def discard(self, sequence: Sequence) -> None:
        """``sequence``, still held back, was finished."""

    def release(self, num_open: int) -> Iterable[Sequence]:
        """Those that may start from now on. ``num_open``: let through before, not finished."""

    def next_wakeup_s(self) -> float | None:
        """Seconds until a batch is due, if nothing is open; None if time alone changes nothing."""

    def padding(self, planned: Iterable[Sequence]) -> list[int]:
        """Rows that a rectangular batch would waste in a step that computes these sequences."""


class Continuous:
    """Everybody may start as soon as there is room."""

    max_batch_size: int | None = None
    pads = False

    def __init__(self) -> None:
        self._arrived: dict[Sequence, None] = {}  # as a set that keeps its order

    def add(self, sequence: Sequence) -> None:
        self._arrived[sequence] = None

    def discard(self, sequence: Sequence) -> None:
        # Now: nobody may ask for a long time whether there is somebody to let through.
        del self._arrived[sequence]

    def release(self, num_open: int) -> Iterable[Sequence]:
        arrived, self._arrived = self._arrived, {}
        return arrived

    def next_wakeup_s(self) -> float | None:
        return None

    def padding(self, planned: Iterable[Sequence]) -> list[int]:
        return []


class Padding:
    """What a rectangle around a closed batch would waste, step by step.

    A prompt shorter than the longest is padded to it once, in the step that computes its first
    tokens; a finished sequence costs a row in every later step until the batch ends. This does
    not depend on how prompts are cut into chunks.
    """

    def __init__(self, members: list[Sequence]) -> None:
        self._members = members
        self._longest = max((member.num_prompt for member in members), default=0)
        self._unseen = set(members)

    def rows(self, planned: Iterable[Sequence]) -> list[int]:
        """One entry a padded sequence."""
        rows = []
        for sequence in planned:
            if sequence in self._unseen:
                self._unseen.remove(sequence)
                if self._longest > sequence.num_prompt:
                    rows.append(self._longest - sequence.num_prompt)
        finished = (member.state is SequenceState.FINISHED for member in self._members)
        return rows + [1] * sum(finished)


class Dynamic:
    """A batch starts when it is full, or when its oldest sequence waited ``max_wait_s``.

    Who is in it goes by rank.
    """

    def __init__(
        self, *, max_batch_size: int, max_wait_s: float, clock: Clock, pad: bool = False
    ) -> None:
        self.max_batch_size: int | None = max_batch_size
        self.pads = pad
        self._size = max_batch_size
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._queue = WaitingQueue()
        self._arrivals: deque[Sequence] = deque()  # oldest first; some are gone already
        self._padding = Padding([])

    def add(self, sequence: Sequence) -> None:
        self._queue.push(sequence)
        self._arrivals.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        self._queue.discard(sequence)

    def release(self, num_open: int) -> Iterable[Sequence]:
        self._forget_gone()
        if num_open or not self._queue:
            return ()
        if len(self._queue) < self._size and self._wait_left_s() > 0:
            return ()
        members = [self._queue.pop() for _ in range(min(self._size, len(self._queue)))]
        self._padding = Padding(members)
        return members

    def next_wakeup_s(self) -> float | None:
        if not self._queue:
            return None
        return 0.0 if len(self._queue) >= self._size else self._wait_left_s()

    def padding(self, planned: Iterable[Sequence]) -> list[int]:
        return self._padding.rows(planned)

    def _forget_gone(self) -> None:
        while self._arrivals and self._arrivals[0].state is not SequenceState.HELD_BACK:
            self._arrivals.popleft()

    def _wait_left_s(self) -> float:
        while not _is_held_back(self._arrivals[0]):
            self._arrivals.popleft()
        return max(0.0, self._arrivals[0].live.arrival_s + self._max_wait_s - self._clock())


class Static:
    """Batches of prompts of like length, closed by count or by tokens.

    Everybody who waits when the machine becomes idle belongs to a wave. A wave is sorted by
    length once and cut into batches, shortest first; whoever comes later is in the next wave, so
    that long prompts are not overtaken for ever.
    """

    def __init__(
        self, *, max_batch_size: int, max_batch_tokens: int | None = None, pad: bool = False
    ) -> None:
        self.max_batch_size: int | None = max_batch_size
        self.pads = pad
        self._size = max_batch_size
        self._max_tokens = max_batch_tokens
        self._arrived: dict[Sequence, None] = {}  # as a set that keeps its order
        self._wave: deque[Sequence] = deque()
        self._padding = Padding([])

    def add(self, sequence: Sequence) -> None:
        self._arrived[sequence] = None

    def discard(self, sequence: Sequence) -> None:
        # Those of the wave are passed over when a batch is formed.
        self._arrived.pop(sequence, None)

    def release(self, num_open: int) -> Iterable[Sequence]:
        if num_open:
            return ()
        self._wave = deque(filter(_is_held_back, self._wave))
        if not self._wave:
            self._wave.extend(sorted(self._arrived, key=_length_then_rank))
            self._arrived.clear()
        members: list[Sequence] = []
        tokens = 0
        while self._wave and len(members) < self._size:
            tokens += len(self._wave[0].token_ids)
            if members and self._max_tokens is not None and tokens > self._max_tokens:
                break
            members.append(self._wave.popleft())
        self._padding = Padding(members)
        return members

    def next_wakeup_s(self) -> float | None:
        return None

    def padding(self, planned: Iterable[Sequence]) -> list[int]:
        return self._padding.rows(planned)


def _is_held_back(sequence: Sequence) -> bool:
    return sequence.state is SequenceState.HELD_BACK


def _length_then_rank(sequence: Sequence) -> tuple[int, tuple[float, int, int]]:
    return len(sequence.token_ids), sequence.rank
