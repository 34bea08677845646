"""What processes computed: unlike wall time it does not grow when others use the machine."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def processor_time_of_children() -> float:
    """Seconds, of all processes of this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processor_time_of(process_id: int) -> float:
    """Seconds so far, of a process that lives."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])  # 14th and 15th of all
    return (user + system) / os.sysconf("SC_CLK_TCK")
