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
    noticed even if its time of modification was restored. Not noticed is a clock that was set
    back to that very nanosecond, or a device that is written around the file system.

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
        found = (status.st_ino, status.st_size, status.st_mtime_ns)
        if found != (opened.inode, opened.num_bytes, opened.modified_ns):
            return None  # another file than the one that was opened
        if max(status.st_mtime_ns, status.st_ctime_ns) > now_ns - SETTLED_NS:
            return None
        _add(state, path.name, *found, status.st_ctime_ns)
        for name, info in sorted(file.tensors.items()):
            _add(state, name, info.dtype, info.shape, info.begin, info.end)
    return Identity(os.path.abspath(folder), state.hexdigest())


def _add(state: hashlib.blake2b, *facts: object) -> None:
    data = repr(facts).encode()
    state.update(len(data).to_bytes(8, "little"))
    state.update(data)
