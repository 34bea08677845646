"""How long starts take: what they compute does not grow when others use the machine, and is bounded
by what is promised; wall time has a bound that only waiting reaches."""

from __future__ import annotations

import os
import resource
from pathlib import Path

GATE = 10.0
"""A start may compute for so many times what is promised: machines differ."""
MAX_START_S = 60.0
"""A start that takes longer, however busy the machine is, waits: for a lock, a network, a disk."""


def check_start(what: str, *, promised_s: float, wall_s: float, processor_s: float) -> None:
    """Print what was promised and what was measured, and hold one against the other."""
    print(
        f"\n{what}: {wall_s:.3f} s, {promised_s} s promised; {processor_s:.3f} s of processor time"
    )
    assert processor_s < GATE * promised_s
    assert wall_s < MAX_START_S


def processor_time_of_children() -> float:
    """Seconds, of all processes of this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processor_time_of(process_id: int) -> float:
    """Seconds so far, of a process that lives."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])  # 14th and 15th of all
    return (user + system) / os.sysconf("SC_CLK_TCK")
