"""How much memory there is, and how many pages of keys and values fit into it.

Nothing is allocated here; the answer is a number of pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from octavo.core.errors import ConfigError
from octavo.core.kv_layout import PAGE_SIZE, KVGroup, page_bytes, pages_for

USABLE = 0.8
"""Share of the memory there is that an engine plans with."""
KV_SHARE = 0.4
"""Share of what is left beside the weights that pages take by default."""
_SET_PAGES = "set num_pages"


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: MemAvailable, less where its cgroup says less.

    ``memory.max`` and ``memory.high`` count, of the cgroup and of those above it. What they hold
    already is taken off, except for files that nobody uses at the moment: the kernel drops those.

    Args:
        root: where ``proc`` and ``sys`` are looked up; tests put a made-up tree there.

    Raises:
        ConfigError: the machine does not tell.
    """
    available = _meminfo_available(root / "proc/meminfo")
    for folder in _cgroups(root):
        limits = [_read_number(folder / name) for name in ("memory.max", "memory.high")]
        used = (_read_number(folder / "memory.current") or 0) - _droppable(folder)
        for limit in limits:
            if limit is not None:
                available = min(available, max(0, limit - used))
    return available


def _meminfo_available(path: Path) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=_SET_PAGES) from error
    raise ConfigError(f"{path} does not tell MemAvailable", hint=_SET_PAGES)


def _cgroups(root: Path) -> list[Path]:
    """This process's cgroup (version 2) and those above it."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [mount]
    path = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _droppable(folder: Path) -> int:
    """Bytes of files that the cgroup has in memory and does not use."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def num_pages_that_fit(
    groups: Iterable[KVGroup],
    *,
    kv_format: str,
    weight_bytes: int,
    max_num_seqs: int,
    max_model_len: int,
    memory_bytes: int,
) -> int:
    """Pages for each KV group: enough for every sequence at full length, or what memory allows.

    Raises:
        ConfigError: not even one sequence of full length fits; the message says what does.
    """
    a_page = sum(page_bytes(group, kv_format) for group in groups)
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


def check_pages(
    groups: Iterable[KVGroup], *, kv_format: str, num_pages: int, memory_bytes: int
) -> None:
    """Whether so many pages can be had.

    Raises:
        ConfigError: they are more than there is memory.
    """
    a_page = sum(page_bytes(group, kv_format) for group in groups)
    if num_pages * a_page > memory_bytes:
        raise ConfigError(
            f"num_pages={num_pages} takes {num_pages * a_page / 2**30:,.1f} GiB, and"
            f" {memory_bytes / 2**30:,.1f} GiB are available",
            hint=f"at most {memory_bytes // a_page} pages, less the weights",
        )
