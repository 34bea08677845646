"""What this machine is, as far as it matters to an engine. Only looks; judging is ``checks``'."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from octavo import __version__
from octavo.backends.cpu import (
    available_cores,
    chosen_instruction_set,
    cpu_features,
    instruction_sets,
    instruction_sets_only_by_name,
)
from octavo.core.errors import ConfigError
from octavo.execution.memory import available_bytes

LIBRARIES = (
    "numpy",
    "tokenizers",
    "msgspec",
    "huggingface_hub",
    "cyclopts",
    "rich",
    "starlette",
    "uvicorn",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts, as they are when asked."""

    version: str
    python: str
    system: str
    cpu: str
    features: tuple[str, ...]
    instruction_sets: tuple[str, ...]
    """Those that our kernels can use here, slowest first."""
    only_by_name: tuple[str, ...]
    """Of these the ones that nothing chooses by itself: they have never run on a real processor."""
    instruction_set: str | None
    """The one that they use; None: OCTAVO_CPU_ISA names one that they cannot use."""
    logical_cpus: int
    usable_cores: int
    """Physical cores that the affinity and the cgroup's quota leave."""
    total_bytes: int
    available_bytes: int
    """What this process may still take; cgroup limits count."""
    cgroup_limit_bytes: int | None
    huge_pages: str | None
    """The mode of transparent huge pages: always, madvise or never; None where unknown."""
    libraries: Mapping[str, str]

    @classmethod
    def look(cls, root: Path = Path("/")) -> Machine:
        """Read it all. ``root``: where proc and sys are; tests put a made-up tree there."""
        cpuinfo = _fields(root / "proc/cpuinfo")
        cgroup = root / "sys/fs/cgroup"
        return cls(
            version=__version__,
            python=platform.python_version(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cpu=cpuinfo.get("model name", platform.machine()),
            features=cpu_features(),
            instruction_sets=instruction_sets(),
            only_by_name=instruction_sets_only_by_name(),
            instruction_set=_instruction_set(),
            logical_cpus=os.cpu_count() or 1,
            usable_cores=available_cores(root),
            total_bytes=_kibibytes(_fields(root / "proc/meminfo").get("MemTotal", "0")),
            available_bytes=available_bytes(root),
            cgroup_limit_bytes=_cgroup_limit(cgroup),
            huge_pages=_chosen(root / "sys/kernel/mm/transparent_hugepage/enabled"),
            libraries=_versions(),
        )


def _instruction_set() -> str | None:
    try:
        return chosen_instruction_set()
    except ConfigError:
        return None


def _fields(path: Path) -> dict[str, str]:
    """``name: value`` lines; the first of each name counts."""
    fields: dict[str, str] = {}
    for line in (_text(path) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _kibibytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def _cgroup_limit(cgroup: Path) -> int | None:
    limits = [_text(cgroup / name) or "" for name in ("memory.max", "memory.high")]
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)


def _chosen(path: Path) -> str | None:
    """Of ``always [madvise] never``, what stands in brackets."""
    words = (_text(path) or "").split()
    return next((word.strip("[]") for word in words if word.startswith("[")), None)


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
