"""Keeping freed memory: fewer page faults, and the user's own settings have the last word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from octavo.backends.heap import keep_freed_memory

print(keep_freed_memory() if {keep} else False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    blocks = [bytearray(4 << 20) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(*, keep: bool, **variables: str) -> tuple[bool, int]:
    """Whether freed memory is kept, and the page faults of a program that frees and takes."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def test_what_is_freed_is_used_again() -> None:
    kept, faults = run(keep=True)
    if not kept:
        pytest.skip("not the GNU C library")
    _, without = run(keep=False)
    assert faults < without / 5, (faults, without)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_own_settings_stay(name: str) -> None:
    value = "2" if name.startswith("MALLOC_") else "glibc.malloc.arena_max=2"
    kept, _ = run(keep=True, **{name: value})
    assert not kept
