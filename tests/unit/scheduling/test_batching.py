"""Batchings: who is let through when, and what a rectangular batch would waste."""

from __future__ import annotations

import sys

import pytest

from octavo.core.errors import ConfigError
from octavo.scheduling.batching import Batching, Continuous, Dynamic, Padding, Static
from octavo.scheduling.sequence import Sequence, SequenceState
from tests.fakes import FakeClock
from tests.scheduling_world import World, make_sequence


def arrive(batching: Batching, *lengths: int, at_s: float = 0.0) -> list[Sequence]:
    """Sequences with prompts of these lengths come, at most ten at a time."""
    sequences = [
        make_sequence(arrival=int(at_s * 100) + number, num_prompt=length, arrival_s=at_s)
        for number, length in enumerate(lengths)
    ]
    for sequence in sequences:
        batching.add(sequence)
    return sequences


def release(batching: Batching, num_open: int = 0) -> list[int]:
    """The prompt lengths of those who are let through."""
    members = list(batching.release(num_open))
    for member in members:
        member.state = SequenceState.QUEUED
    return [member.num_prompt for member in members]


def finish(batching: Batching, sequence: Sequence) -> None:
    sequence.state = SequenceState.FINISHED
    batching.discard(sequence)


@pytest.mark.parametrize(
    "batching", [Continuous(), Static(max_batch_size=2)], ids=["continuous", "static"]
)
def test_whoever_is_gone_is_forgotten_before_anybody_is_let_through(batching: Batching) -> None:
    first, _ = arrive(batching, 5, 6)
    before = sys.getrefcount(first)
    finish(batching, first)
    assert sys.getrefcount(first) == before - 1
    assert release(batching) == [6]


class TestContinuous:
    def test_lets_everybody_through_at_once(self) -> None:
        batching = Continuous()
        arrive(batching, 5, 6)
        assert release(batching, num_open=3) == [5, 6]
        assert release(batching) == []
        assert batching.next_wakeup_s() is None
        assert batching.padding([]) == []

    def test_passes_over_the_aborted(self) -> None:
        batching = Continuous()
        first, _ = arrive(batching, 5, 6)
        finish(batching, first)
        assert release(batching) == [6]


class TestDynamic:
    def test_nothing_is_kept_of_those_who_are_gone(self) -> None:
        batching = Dynamic(max_batch_size=2, max_wait_s=1.0, clock=FakeClock())
        members = arrive(batching, *range(1, 101))
        while release(batching):
            pass
        alone = [make_sequence(num_prompt=1)]
        [unheld] = [sys.getrefcount(member) for member in alone]
        held = [member for member in members if sys.getrefcount(member) > unheld]
        assert len(held) <= 2, "the last batch's, for its padding"

    def test_a_full_batch_starts_at_once(self) -> None:
        batching = Dynamic(max_batch_size=2, max_wait_s=1.0, clock=FakeClock())
        arrive(batching, 5, 6, 7)
        assert batching.next_wakeup_s() == 0.0
        assert release(batching) == [5, 6]

    def test_nobody_follows_while_one_runs(self) -> None:
        batching = Dynamic(max_batch_size=2, max_wait_s=0.0, clock=FakeClock())
        arrive(batching, 5, 6, 7)
        release(batching)
        assert release(batching, num_open=1) == []
        assert release(batching) == [7]

    def test_a_batch_that_is_not_full_starts_when_its_oldest_waited(self) -> None:
        clock = FakeClock()
        batching = Dynamic(max_batch_size=4, max_wait_s=1.0, clock=clock)
        assert batching.next_wakeup_s() is None
        arrive(batching, 5)
        clock.advance(0.75)
        arrive(batching, 6, at_s=0.75)
        assert release(batching) == []
        assert batching.next_wakeup_s() == 0.25
        clock.advance(0.25)
        assert release(batching) == [5, 6]

    def test_the_oldest_may_be_gone(self) -> None:
        clock = FakeClock()
        batching = Dynamic(max_batch_size=4, max_wait_s=1.0, clock=clock)
        (oldest,) = arrive(batching, 5)
        clock.advance(0.5)
        arrive(batching, 6, at_s=0.5)
        finish(batching, oldest)
        clock.advance(0.5)
        assert release(batching) == []
        assert batching.next_wakeup_s() == 0.5

    def test_in_a_scheduler(self) -> None:
        world = World(batching=lambda clock: Dynamic(max_batch_size=2, max_wait_s=1.0, clock=clock))
        world.add("a", 5, max_tokens=3, ignore_eos=True)
        assert world.submit() is None
        assert world.scheduler.next_wakeup_s() == 1.0
        world.clock.advance(1.0)
        world.step()
        world.add("b", 5, max_tokens=3, ignore_eos=True)
        world.add("c", 5, max_tokens=3, ignore_eos=True)
        assert world.scheduler.next_wakeup_s() is None
        assert [len(world.step().ranges) for _ in range(2)] == [1, 1], "a is alone to its end"
        assert len(world.step().ranges) == 2
        world.drain()
        world.check_answers()


class TestStatic:
    def test_sorted_by_length_and_cut_by_count(self) -> None:
        batching = Static(max_batch_size=2)
        arrive(batching, 9, 2, 7, 3, 5)
        assert [release(batching) for _ in range(4)] == [[2, 3], [5, 7], [9], []]

    def test_cut_by_tokens(self) -> None:
        batching = Static(max_batch_size=10, max_batch_tokens=10)
        arrive(batching, 30, 2, 7, 3, 5)
        assert [release(batching) for _ in range(4)] == [[2, 3, 5], [7], [30], []]

    def test_whoever_comes_later_is_in_the_next_wave(self) -> None:
        batching = Static(max_batch_size=1)
        arrive(batching, 9, 8)
        assert release(batching) == [8]
        arrive(batching, 1, at_s=1.0)
        assert release(batching, num_open=1) == []
        assert [release(batching) for _ in range(3)] == [[9], [1], []]
        assert batching.next_wakeup_s() is None

    def test_passes_over_the_aborted(self) -> None:
        batching = Static(max_batch_size=1)
        sequences = arrive(batching, 1, 2, 3, 4)
        finish(batching, sequences[0])
        assert release(batching) == [2]
        finish(batching, sequences[2])
        arrive(batching, 1)
        assert [release(batching) for _ in range(2)] == [[4], [1]]

    def test_in_a_scheduler(self) -> None:
        world = World(batching=lambda clock: Static(max_batch_size=2))
        for number in range(5):
            world.add(f"r{number}", 30 - number, max_tokens=4)
        world.drain()
        world.check_answers()
        assert world.stats().max_running == 2


class TestPadding:
    def test_prompts_are_padded_once_and_the_finished_cost_a_row(self) -> None:
        one, two, three = (make_sequence(num_prompt=length) for length in (4, 10, 7))
        padding = Padding([one, two, three])
        assert padding.rows([one, two]) == [6], "one is padded, two is the longest"
        assert padding.rows([one, two, three]) == [3]
        assert padding.rows([one, two, three]) == []
        one.state = three.state = SequenceState.FINISHED
        assert padding.rows([two]) == [1, 1]

    @pytest.mark.parametrize("tokens", [64, 4])
    def test_in_a_scheduler_whatever_the_chunks(self, tokens: int) -> None:
        world = World(
            max_num_batched_tokens=tokens,
            batching=lambda clock: Static(max_batch_size=3, pad=True),
        )
        for name, length, most in (("a", 20, 2), ("b", 17, 6), ("c", 12, 4)):
            world.add(name, length, max_tokens=most, ignore_eos=True)
        plans = world.drain()
        rows = [row for plan in plans for row in plan.padding]
        assert sorted(row for row in rows if row > 1) == [3, 8], "to the longest prompt, 20"
        # The last steps: a is finished, then a and c.
        assert [plan.padding for plan in plans[-2:]] == [[1, 1], [1, 1]]
        if tokens == 64:
            assert [plan.padding for plan in plans] == [[3, 8], [], [1], [1], [1, 1], [1, 1]]


def test_a_batch_needs_slots() -> None:
    with pytest.raises(ConfigError, match="max_batch_size=5 exceeds max_num_seqs=4"):
        World(batching=lambda clock: Static(max_batch_size=5))
