"""WaitingQueue: best rank first, and gone is gone."""

from __future__ import annotations

from octavo.scheduling.queue import WaitingQueue
from octavo.scheduling.sequence import Sequence, SequenceState
from tests.scheduling_world import make_sequence


def ranked(*numbers: int) -> list[Sequence]:
    sequences = [make_sequence(arrival=number) for number in numbers]
    for sequence in sequences:
        sequence.state = SequenceState.QUEUED
    return sequences


def test_order() -> None:
    queue = WaitingQueue()
    for sequence in ranked(3, 1, 2):
        queue.push(sequence)
    assert [queue.pop().rank[1] for _ in range(3)] == [1, 2, 3]
    assert (len(queue), queue.peek()) == (0, None)


def test_finished_ones_are_passed_over() -> None:
    queue = WaitingQueue()
    first, second, third = ranked(1, 2, 3)
    for sequence in (first, second, third):
        queue.push(sequence)
    for sequence in (first, third):
        sequence.state = SequenceState.FINISHED
        queue.discard(sequence)
    assert (len(queue), list(queue), queue.peek()) == (1, [second], second)


def test_finished_ones_do_not_pile_up() -> None:
    queue = WaitingQueue()
    sequences = ranked(*range(1000))
    for sequence in sequences:
        queue.push(sequence)
    for sequence in sequences[:0:-1]:  # the best one stays on top, so that none surfaces
        sequence.state = SequenceState.FINISHED
        queue.discard(sequence)
    assert len(queue) == 1
    assert len(queue._heap) < 100
    assert queue.pop() is sequences[0]
