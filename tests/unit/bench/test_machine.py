"""What other processes use of the machine, from the kernel's counters."""

from __future__ import annotations

import time

import pytest

from octavo.bench.machine import Stopwatch, Ticks, peak_rss_mib, wait_until_quiet


def test_what_others_used_is_what_was_busy_and_not_ours() -> None:
    before = Ticks(busy=100, total=1000, own=40)
    assert Ticks(busy=150, total=1200, own=90).others_since(before) == 0.0
    assert Ticks(busy=150, total=1200, own=50).others_since(before) == pytest.approx(0.2)
    assert Ticks(busy=300, total=1200, own=40).others_since(before) == 1.0
    assert Ticks(busy=100, total=1000, own=41).others_since(before) == 0.0


def test_our_own_work_counts_as_ours() -> None:
    before = Ticks.now()
    started_s = time.process_time()
    while time.process_time() - started_s < 0.2:
        pass
    after = Ticks.now()
    assert after.own - before.own >= 10  # ticks of 10 ms
    assert after.total > before.total
    assert after.busy >= before.busy


def test_a_stopwatch_measures_a_block() -> None:
    with Stopwatch() as watch:
        time.sleep(0.02)
    assert 0.02 <= watch.seconds < 5
    assert 0.0 <= watch.others <= 1.0


class Machine:
    """A machine with a second of ``shares`` each in other hands."""

    def __init__(self, shares: list[float]) -> None:
        self.now_s = 0.0
        self._shares = shares
        self._busy = 0.0

    def sleep(self, seconds: float) -> None:
        self._busy += self._shares[int(self.now_s)] * 100
        self.now_s += seconds

    def ticks(self) -> Ticks:
        return Ticks(busy=int(self._busy), total=int(self.now_s * 100), own=0)

    def wait(self, limit_s: float) -> bool:
        return wait_until_quiet(
            limit_s, ticks=self.ticks, clock=lambda: self.now_s, sleep=self.sleep
        )


def test_waiting_ends_when_the_machine_is_quiet() -> None:
    machine = Machine([0.9, 0.4, 0.03, 0.9])
    assert machine.wait(60)
    assert machine.now_s == 3


def test_waiting_ends_at_its_limit() -> None:
    machine = Machine([0.9] * 10)
    assert not machine.wait(5)
    assert machine.now_s == 5


def test_peak_memory_is_that_of_a_python_with_numpy() -> None:
    assert 10 < peak_rss_mib() < 100_000
