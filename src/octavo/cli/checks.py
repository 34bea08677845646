"""What ``octavo doctor`` looks at: each check judges one thing and says what to do about it.

Checks take facts and give verdicts; finding the facts is ``machine``'s and ``doctor``'s.
"""

from __future__ import annotations

import enum
import socket
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo.cli.machine import Machine
from octavo.cli.output import bytes_text
from octavo.cli.variables import unknown_variables

ENOUGH_BYTES = 2 * 2**30
LITTLE_BYTES = 512 * 2**20
ENOUGH_DISK_BYTES = 10 * 2**30
LITTLE_DISK_BYTES = 2**30
ENOUGH_FILES = 1024
PACK_CACHE = "packed weights"
_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
_AVX512_BF16 = (*_AVX512, "avx512_vnni", "avx512_bf16")
FAST_FEATURES = {
    "avx512bf16": _AVX512_BF16,
    "avx512vnni": (*_AVX512, "avx512_vnni"),
    "avx512": _AVX512,
    "avxvnni": (*_AVX2, "avx_vnni"),
    "avx2": _AVX2,
}
"""Instruction sets that are chosen by themselves, the best first, and what a processor must have
for them (as in csrc/kernels/dispatch.cpp)."""


class Verdict(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    verdict: Verdict
    finding: str
    advice: str = ""


def check_python(version: tuple[int, int]) -> Check:
    finding = ".".join(map(str, version))
    if version < (3, 11):
        return Check("python", Verdict.PROBLEM, finding, "install Python 3.11 or newer")
    return Check("python", Verdict.OK, finding)


def check_libraries(libraries: Mapping[str, str]) -> Check:
    missing = [name for name, version in libraries.items() if version == "missing"]
    if missing:
        return Check(
            "libraries",
            Verdict.PROBLEM,
            f"missing: {', '.join(missing)}",
            "install octavo again: pip install --force-reinstall octavo",
        )
    return Check("libraries", Verdict.OK, f"all {len(libraries)} are there")


def check_kernels(machine: Machine, asked: str = "") -> Check:
    """Whether the native extension uses the best that the processor has.

    Args:
        machine: what it has.
        asked: what OCTAVO_CPU_ISA says.
    """
    used = machine.instruction_set
    if used is None:
        return Check(
            "kernels",
            Verdict.PROBLEM,
            f"OCTAVO_CPU_ISA={asked} cannot be used; usable: {', '.join(machine.instruction_sets)}",
            "unset OCTAVO_CPU_ISA for the best of this machine",
        )
    if used in machine.only_by_name:
        return Check(
            "kernels",
            Verdict.WARNING,
            f"{used} is used, which has never run on a real processor before",
            "unset OCTAVO_CPU_ISA, unless it is tried on purpose",
        )
    best_here = next(
        (name for name, needed in FAST_FEATURES.items() if set(needed) <= set(machine.features)),
        "scalar",
    )
    if best_here not in machine.instruction_sets:
        return Check(
            "kernels",
            Verdict.WARNING,
            f"built without {best_here}, which this processor has; {used} is used",
            "build with a newer compiler: make build",
        )
    if used != best_here:
        return Check(
            "kernels",
            Verdict.WARNING,
            f"{used} is used; this processor has {best_here}",
            "unset OCTAVO_CPU_ISA",
        )
    if used == "scalar":
        return Check(
            "kernels", Verdict.WARNING, "this processor has no AVX2: answers are right, but slow"
        )
    finding = f"{used} is used, the best of this processor"
    for name in machine.only_by_name:
        finding += f"; {name}, never tried on a real one, only by OCTAVO_CPU_ISA={name}"
    return Check("kernels", Verdict.OK, finding)


def check_threads(machine: Machine, num_threads: int | None) -> Check:
    cores = machine.usable_cores
    if num_threads is not None and num_threads > cores:
        return Check(
            "threads",
            Verdict.WARNING,
            f"{num_threads} threads are set for {cores} usable cores",
            f"set num_threads to {cores}, or leave it out",
        )
    return Check("threads", Verdict.OK, f"{num_threads or cores} threads for {cores} usable cores")


def check_huge_pages(mode: str | None) -> Check:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if mode is None:
        return Check("huge pages", Verdict.OK, "not a matter of this system")
    if mode == "never":
        return Check(
            "huge pages",
            Verdict.WARNING,
            "transparent huge pages are off, which costs speed with large weights",
            f"echo madvise | sudo tee {path}",
        )
    return Check("huge pages", Verdict.OK, mode)


def check_memory(machine: Machine) -> Check:
    limit = machine.cgroup_limit_bytes
    finding = f"{bytes_text(machine.available_bytes)} available" + (
        "" if limit is None else f", limited to {bytes_text(limit)} by the cgroup"
    )
    advice = "stop other programs, or raise the container's limit; octavo plan says what fits"
    if machine.available_bytes < LITTLE_BYTES:
        return Check("memory", Verdict.PROBLEM, finding, advice)
    if machine.available_bytes < ENOUGH_BYTES:
        return Check("memory", Verdict.WARNING, finding, advice)
    return Check("memory", Verdict.OK, finding)


def check_disk(name: str, folder: str, free_bytes: int | None, writable: bool) -> Check:
    """Space where models are downloaded to."""
    if free_bytes is None or not writable:
        return Check(
            name, Verdict.PROBLEM, f"{folder} cannot be written", "set HF_HOME to another folder"
        )
    finding = f"{bytes_text(free_bytes)} free in {folder}"
    if free_bytes < LITTLE_DISK_BYTES:
        return Check(name, Verdict.PROBLEM, finding, "make room, or set HF_HOME to another disk")
    if free_bytes < ENOUGH_DISK_BYTES:
        return Check(name, Verdict.WARNING, finding, "larger models will not fit there")
    return Check(name, Verdict.OK, finding)


def check_pack_cache(
    folder: Path, num_files: int, num_bytes: int, most_bytes: int | None, num_useless: int
) -> Check:
    """Packed weights that are kept, in a folder that can be written."""
    if num_files == 0:
        return Check(PACK_CACHE, Verdict.OK, f"none yet in {folder}")
    bound = "" if most_bytes is None else f" of at most {bytes_text(most_bytes)}"
    plural = "" if num_files == 1 else "s"
    finding = f"{num_files} file{plural}, {bytes_text(num_bytes)}{bound} in {folder}"
    if num_useless:
        finding += f"; {num_useless} of no use"
        return Check(PACK_CACHE, Verdict.WARNING, finding, "octavo cache ls shows, clear deletes")
    return Check(PACK_CACHE, Verdict.OK, finding)


def check_no_pack_cache(folder: Path, reason: str, advice: str) -> Check:
    """One that cannot be used: models start all the same, later."""
    finding = f"{folder} {reason}: weights are packed anew at each start"
    return Check(PACK_CACHE, Verdict.WARNING, finding, advice)


def check_port(port: int) -> Check:
    """Whether a server could listen on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Check(
                "port",
                Verdict.WARNING,
                f"{port} on 127.0.0.1 cannot be taken: {error.strerror}",
                "octavo serve --port NUMBER takes another one",
            )
    return Check("port", Verdict.OK, f"{port} on 127.0.0.1 is free")


def check_open_files(limit: int) -> Check:
    if limit < ENOUGH_FILES:
        return Check(
            "open files",
            Verdict.WARNING,
            f"at most {limit} a process",
            f"ulimit -n {ENOUGH_FILES} before octavo serve, for many connections",
        )
    return Check("open files", Verdict.OK, f"at most {limit} a process")


def check_variables(environment: Mapping[str, str], command_names: Collection[str]) -> Check:
    """Variables that look like ours, and are not."""
    unknown = unknown_variables(environment, command_names)
    if not unknown:
        return Check("variables", Verdict.OK, "no unknown OCTAVO_ variables")
    names = ", ".join(one.name for one in unknown)
    return Check("variables", Verdict.WARNING, f"unknown, and not heeded: {names}", unknown[0].hint)


def python_version() -> tuple[int, int]:
    return sys.version_info[:2]
