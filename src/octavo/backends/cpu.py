"""What this processor has, and how many of its cores this process may use.

Affinity, hyper-threads and container limits all count.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from octavo._native import Kernels, ThreadPool
from octavo._native import cpu_features as native_features
from octavo._native import instruction_sets as native_instruction_sets
from octavo._native import instruction_sets_only_by_name as native_only_by_name
from octavo.core.errors import ConfigError, did_you_mean

_ROOT = Path("/")


def available_cores(root: Path = _ROOT) -> int:
    """The number of threads worth starting: at least 1.

    The smallest of: physical cores among the CPUs that this process may run on (two hyper-threads
    share one set of vector units), and the CPU quota of its cgroup or of any cgroup above it,
    version 1 or 2, rounded down.

    Args:
        root: where `proc` and `sys` are looked up; tests put a made-up tree there.
    """
    return max(1, min(_physical_cores(_allowed_cpus(), root), *_quotas(root)))


def cpu_features() -> tuple[str, ...]:
    """What the processor has and the operating system lets us use, by CPUID's names."""
    return tuple(name for name, there in native_features().items() if there)


def instruction_sets() -> tuple[str, ...]:
    """Those that our kernels can use on this machine, slowest first."""
    return tuple(native_instruction_sets())


def instruction_sets_only_by_name() -> tuple[str, ...]:
    """Of `instruction_sets()` those that are never the best, as they have not run on a real
    processor yet."""
    usable = native_instruction_sets()
    return tuple(name for name in native_only_by_name() if name in usable)


def chosen_instruction_set() -> str:
    """The one that kernels use: the best, unless OCTAVO_CPU_ISA names another.

    Raises:
        ConfigError: it names one that cannot be used.
    """
    try:
        return Kernels(ThreadPool(1)).instruction_set
    except ValueError as error:
        raise unusable_instruction_set("", error) from error


def unusable_instruction_set(asked: str, error: ValueError) -> ConfigError:
    """What to tell whoever named an instruction set that kernels refused with ``error``.

    Args:
        asked: empty: it was OCTAVO_CPU_ISA that named it.
    """
    name = asked or os.environ.get("OCTAVO_CPU_ISA", "")
    way = "leave it out" if asked else "unset OCTAVO_CPU_ISA"
    hints = (did_you_mean(name.lower(), instruction_sets()), f"{way} for the best of this machine")
    return ConfigError(str(error), hint="; ".join(hint for hint in hints if hint))


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(cpus: set[int], root: Path) -> int:
    groups = set()
    for cpu in cpus:
        siblings = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        groups.add(siblings or f"only {cpu}")
    return len(groups)


def _quotas(root: Path) -> list[int]:
    """Whole cores that each limiting cgroup allows; one entry without a limit, so never empty."""
    quotas = [2**31]
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            mounts = ["sys/fs/cgroup"]
        elif "cpu" in controllers.split(","):
            mounts = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
        else:
            continue
        for mount in mounts:
            for folder in _upwards(path):
                quota = _quota_of(root / mount / folder)
                if quota is not None:
                    quotas.append(quota)
    return quotas


def _upwards(path: str) -> list[str]:
    # Inside a container the path may not be visible; the mount's own folder then is ours.
    inner = PurePosixPath(path.lstrip("/"))
    return [str(folder) for folder in (inner, *inner.parents)]


def _quota_of(folder: Path) -> int | None:
    both = (_read(folder / "cpu.max") or "").split()
    if not both:
        both = [
            _read(folder / "cpu.cfs_quota_us") or "",
            _read(folder / "cpu.cfs_period_us") or "",
        ]
    quota, period = [*both, ""][:2]
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None  # "max", "-1" or no such file
    return int(quota) // int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
