"""Which checkpoint this is, without reading its numbers: enough to trust what was made of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo.weights.shards import StoredTensor

SETTLED_NS = 2_000_000_000
"""A file that changed later than so long ago may change once more without its times telling:
some file systems count in steps of two seconds."""


NUM_SAMPLES, SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """Where a checkpoint lies, and the state that it is in."""

    place: str
    """The folder: another state of the same place replaces this one."""
    state: str
    """32 hexadecimal digits."""


def identify(folder: Path, tensors: Mapping[str, StoredTensor], now_ns: int) -> Identity | None:
    """The identity of a folder's files; None where nothing vouches for it.

    Trusted is what the operating system says: a file of the same inode, size, time of
    modification and time of change, whose header lists the same tensors, holds the same numbers.
    The time of change cannot be set back by programs, so that a file that was written in place is
    noticed even if its time of modification was restored. Images that are mounted in turn at one
    place may agree in all of that: NUM_SAMPLES pieces of each file are read, too. Not noticed is
    who changes numbers between those pieces and sets back the clock to that very nanosecond, or
    writes to the device around the file system.

    Args:
        now_ns: the time; files that changed within SETTLED_NS before it have no identity.
    """
    state = hashlib.blake2b(digest_size=16, person=b"octavo-identity")
    files = {stored.file.path: stored.file for stored in tensors.values()}
    for path, file in sorted(files.items()):
        try:
            status = os.stat(path)
        except OSError:
            return None
        opened = file.identity
        found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if found != (opened.device, opened.inode, opened.num_bytes, opened.modified_ns):
            return None  # another file than the one that was opened
        if max(status.st_mtime_ns, status.st_ctime_ns) > now_ns - SETTLED_NS:
            return None
        _add(state, path.name, *found, status.st_ctime_ns)
        try:
            _add_samples(state, path, status.st_size)
        except OSError:
            return None
        for name, info in sorted(file.tensors.items()):
            _add(state, name, info.dtype, info.shape, info.begin, info.end)
    return Identity(os.path.abspath(folder), state.hexdigest())


def _add_samples(state: hashlib.blake2b, path: Path, num_bytes: int) -> None:
    """Pieces of a file, evenly spaced."""
    with path.open("rb", buffering=0) as file:
        for index in range(NUM_SAMPLES):
            file.seek(index * max(0, num_bytes - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
            state.update(file.read(SAMPLE_BYTES))


def _add(state: hashlib.blake2b, *facts: object) -> None:
    data = repr(facts).encode()
    state.update(len(data).to_bytes(8, "little"))
    state.update(data)
