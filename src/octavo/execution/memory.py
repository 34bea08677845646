"""How much memory there is, and how many pages of keys and values fit into it.

Nothing is allocated here; the answer is a number of pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from octavo.core.errors import ConfigError
from octavo.core.kv_layout import PAGE_SIZE, KVGroup, pages_for

USABLE = 0.8
"""Share of the memory there is that an engine plans with."""
KV_SHARE = 0.4
"""Share of what is left beside the weights that pages take by default."""


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that this process may still take: MemAvailable, less where a cgroup says less.

    Both forms of cgroup limits count, ``memory.max`` and ``memory.high``; what the cgroup uses
    already is taken off.
    """
    available = _meminfo_available(meminfo)
    used = _read_number(cgroup / "memory.current") or 0
    for name in ("memory.max", "memory.high"):
        limit = _read_number(cgroup / name)
        if limit is not None:
            available = min(available, max(0, limit - used))
    return available


def _meminfo_available(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ConfigError(f"{path} does not tell MemAvailable", hint="set num_pages")


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def page_bytes(group: KVGroup, bytes_per_value: int) -> int:
    """Bytes of one page of a KV group: keys and values of all its layers."""
    return 2 * len(group.layers) * group.num_kv_heads * PAGE_SIZE * group.head_dim * bytes_per_value


def num_pages_that_fit(
    groups: Iterable[KVGroup],
    *,
    bytes_per_value: int,
    weight_bytes: int,
    max_num_seqs: int,
    max_model_len: int,
    memory_bytes: int,
) -> int:
    """Pages for each KV group: enough for every sequence at full length, or what memory allows.

    Raises:
        ConfigError: not even one sequence of full length fits; the message says what does.
    """
    a_page = sum(page_bytes(group, bytes_per_value) for group in groups)
    left = max(0, int(memory_bytes * USABLE) - weight_bytes)
    affordable = int(left * KV_SHARE) // a_page
    needed = pages_for(max_model_len) + 1  # page 0 belongs to nobody
    if affordable < needed:
        raise ConfigError(
            f"one sequence of {max_model_len} tokens needs {needed * a_page / 2**20:.0f} MiB of"
            f" keys and values; {affordable * a_page / 2**20:.0f} MiB are left beside"
            f" {weight_bytes / 2**20:.0f} MiB of weights",
            hint=f"set max_model_len to at most {max(0, affordable - 1) * PAGE_SIZE},"
            " or free some memory",
        )
    return min(max_num_seqs * pages_for(max_model_len) + 1, affordable)
