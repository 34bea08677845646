"""The output file of a batch: whole lines appended, and what an earlier run left there.

A line is written in one piece, so that a process that is killed leaves at most one torn line, at
the end. ``fsync`` follows within a second of a line, and at the end: a power cut costs the answers
of the last second, which are then given again.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from octavo.batch.lines import Survey, answered_line, is_torn_answer
from octavo.core.clock import Clock, monotonic
from octavo.core.errors import ConfigError

SYNC_INTERVAL_S = 1.0


class OutputFile:
    """An output file that belongs to this process until it is closed.

    Args:
        path: made if it is not there.
        survey: of the input.

    Raises:
        ConfigError: it cannot be written, belongs to another process, is the input, or holds
            something else than answers to this input. Nothing was changed then.
    """

    def __init__(self, path: Path, survey: Survey, *, clock: Clock = monotonic) -> None:
        self._path = path
        self._clock = clock
        self._file = _open_locked(path)
        try:
            if os.path.samestat(os.fstat(self._file.fileno()), survey.path.stat()):
                raise ConfigError(f"{path} is the input too", hint="name another file as output")
            self.is_answered, self._size = _scan(self._file, path, survey)
            self.num_repaired_bytes = self._file.seek(0, os.SEEK_END) - self._size
            """Of a torn line that was cut off."""
            if self.num_repaired_bytes:
                self._file.truncate(self._size)
            self._file.seek(self._size)
            self._sync()
            _sync_folder(path)
        except BaseException:
            self._file.close()
            raise

    def append(self, line: bytes) -> None:
        """Write a line. Raises OSError, and then the file ends with the line before."""
        try:
            written = os.write(self._file.fileno(), line)
            while written < len(line):  # a disk that is nearly full takes a part first
                written += os.write(self._file.fileno(), line[written:])
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(line)
        if self._clock() - self._synced_s >= SYNC_INTERVAL_S:
            self._sync()

    def close(self) -> None:
        """Everything is on the disk afterwards."""
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced_s = self._clock()


def _open_locked(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a regular file", hint="name a file for the answers")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError(f"{path}: another process is writing answers there") from None
    return file


def _scan(file: BinaryIO, path: Path, survey: Survey) -> tuple[NDArray[np.bool_], int]:
    """Which lines of the input are answered, and where the last whole answer ends."""
    is_answered = np.zeros(len(survey.digests), np.bool_)
    size = 0
    with open(os.dup(file.fileno()), "rb") as reader:
        for number, data in enumerate(reader, 1):
            answered = answered_line(data)
            if answered is None and is_torn_answer(data):
                break
            if answered is None:
                raise ConfigError(
                    f"{path}: line {number} is not an answer of octavo batch",
                    hint="name another output file, or take this line away",
                )
            if not survey.is_line(*answered):
                raise ConfigError(
                    f"{path}: line {number} answers line {answered[0]} of another input,"
                    f" not of {survey.path} as it is now",
                    hint="name another output file, or give the input that this one was for",
                )
            is_answered[answered[0]] = True
            size += len(data)
    return is_answered, size


def _sync_folder(path: Path) -> None:
    """So that a new file's name survives a power cut too."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
