"""Sequences that wait, in the order of their ranks."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from octavo.scheduling.sequence import Rank, Sequence, SequenceState

_SMALL = 64


class WaitingQueue:
    """A heap of sequences, best rank first. A million may wait.

    A sequence that is finished while it waits is marked so first and then discarded; its entry
    goes when it surfaces, or when such entries are the majority.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, Sequence]] = []
        self.num_waiting = 0

    def __len__(self) -> int:
        return self.num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        """In no particular order."""
        return (sequence for _, sequence in self._heap if _waits(sequence))

    def push(self, sequence: Sequence) -> None:
        heapq.heappush(self._heap, (sequence.rank, sequence))
        self.num_waiting += 1

    def peek(self) -> Sequence | None:
        """The best-ranked one, which stays."""
        while self._heap and not _waits(self._heap[0][1]):
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def pop(self) -> Sequence:
        """Take the best-ranked one out; there must be one."""
        sequence = self.peek()
        assert sequence is not None
        heapq.heappop(self._heap)
        self.num_waiting -= 1
        return sequence

    def discard(self, sequence: Sequence) -> None:
        """``sequence``, which is in the queue, was finished."""
        assert not _waits(sequence)
        self.num_waiting -= 1
        if len(self._heap) > 2 * self.num_waiting + _SMALL:
            self._heap = [entry for entry in self._heap if _waits(entry[1])]
            heapq.heapify(self._heap)


def _waits(sequence: Sequence) -> bool:
    return sequence.state is not SequenceState.FINISHED
