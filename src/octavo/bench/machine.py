"""What the machine does beside us: a figure taken while others compute is noise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

QUIET_SHARE = 0.06
"""Above this share of the machine in other hands, a sample is noise."""
_QUIET_WINDOW_S = 1.0
_STAT = Path("/proc/stat")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time at one moment, in ticks of the kernel's clock."""

    busy: int
    """Of the whole machine."""
    total: int
    """Of the whole machine, idle time included."""
    own: float
    """Of this process and the children it has waited for."""

    @classmethod
    def now(cls) -> Ticks:
        # user nice system idle iowait irq softirq steal; what follows is part of user and nice
        counts = [int(count) for count in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        times = os.times()
        own_s = times.user + times.system + times.children_user + times.children_system
        total = sum(counts)
        idle = counts[3] + counts[4]
        return cls(total - idle, total, own_s * os.sysconf("SC_CLK_TCK"))

    def others_since(self, before: Ticks) -> float:
        """The share of the machine that other processes used meanwhile, in [0, 1]."""
        busy = self.busy - before.busy - (self.own - before.own)
        return min(1.0, max(0.0, busy / max(1, self.total - before.total)))


class HasOthers(Protocol):
    """A sample that tells how quiet the machine was."""

    @property
    def others(self) -> float: ...


SampleType = TypeVar("SampleType", bound=HasOthers)


def quiet_ones(samples: Sequence[SampleType]) -> list[SampleType]:
    """The samples that others did not disturb; all of them if there is none."""
    return [one for one in samples if one.others <= QUIET_SHARE] or list(samples)


class Stopwatch:
    """Times a block: ``seconds``, and ``others``, what other processes used of the machine."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.others = 0.0

    def __enter__(self) -> Stopwatch:
        self._before = Ticks.now()
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._started_s
        self.others = round(Ticks.now().others_since(self._before), 3)


def wait_until_quiet(
    limit_s: float,
    *,
    ticks: Callable[[], Ticks] = Ticks.now,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until others leave the machine alone for a second; False if they never did."""
    deadline_s = clock() + limit_s
    while clock() < deadline_s:
        before = ticks()
        sleep(_QUIET_WINDOW_S)
        if ticks().others_since(before) < QUIET_SHARE:
            return True
    return False


def peak_rss_mib() -> int:
    """The most memory that this process had resident so far."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise OSError(f"{_STATUS} does not tell VmHWM")
