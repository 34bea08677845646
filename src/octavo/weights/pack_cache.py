"""Packed weights on disk, so that the second start of a model computes nothing.

One file a checkpoint and recipe, in a folder that only its owner may enter. The cache can only
miss: what is damaged, of another version or made of another state of the checkpoint is deleted
and made anew. What stands in a file is the business of ``packed_file``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo.weights.packed_file import (
    ALIGNMENT,
    U8,
    Contents,
    Outdated,
    Unusable,
    read_header,
    read_packed,
    write_packed,
)

LEAST_BYTES = 32 * 2**20
"""Smaller weights are packed again: that takes no longer than it takes to notice."""
MOST_BYTES = 20 * 2**30
MOST_OF_DISK = 0.1
"""Share of what is free on the disk, counting what the cache itself takes."""
SUFFIX = ".packed"
PART_SUFFIX = ".part"
_NAME_BYTES = 16
_FILE_NAME = re.compile(rf"[0-9a-f]{{{2 * _NAME_BYTES}}}{re.escape(SUFFIX)}")
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger(__name__)


class Blocked(Exception):
    """No packed weights can be read, nor any be kept in their place; says what helps."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the cache."""

    name: str
    num_bytes: int
    """Of a folder: without what is in it."""
    used_s: float
    """Seconds since the epoch: when it was last made or read."""
    contents: Contents | None
    """None: damaged, of another version, or no file at all."""


class PackCache:
    """The packed weights of this user; any number of processes share the folder.

    Args:
        folder: made when it is first written to.
        most_bytes: of all files together; None: MOST_BYTES or MOST_OF_DISK, whichever is less.
        least_bytes: weights smaller than this are neither looked for nor kept.
    """

    def __init__(
        self, folder: Path, *, most_bytes: int | None = None, least_bytes: int = LEAST_BYTES
    ) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._least_bytes = least_bytes

    @classmethod
    def of_user(cls, environment: Mapping[str, str]) -> PackCache | None:
        """The one in the user's folder of caches; None: the user has no home."""
        home = environment.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(home):  # the specification wants relative ones ignored
            home = os.path.expanduser("~/.cache")
        return cls(Path(home) / "octavo" / "packed") if os.path.isabs(home) else None

    def wants(self, num_bytes: int) -> bool:
        """Whether weights of this size are worth a file."""
        return num_bytes >= self._least_bytes

    def load(self, wanted: Contents, memory: U8, num_threads: int) -> Contents | None:
        """Read the weights that ``wanted`` describes; its fingerprint may be open.

        None: not here, and ``memory`` may hold anything. A file that was found and is of no use
        is deleted.

        Raises:
            Blocked: what was found is of no use and has to stay, or the folder is not ours.
        """
        name = _file_name(wanted)
        path = self.folder / name
        with contextlib.ExitStack() as opened:
            try:
                folder = opened.enter_context(self._open_folder())
            except FileNotFoundError:
                return None
            except OSError as error:
                reason = f"{self.folder} cannot be used ({error.strerror})"
                raise Blocked(
                    f"{reason if error.strerror else error}: the weights are packed in memory at"
                    f" each start; {self.advice(error)}"
                ) from error
            try:
                descriptor = opened.enter_context(_open_file(folder, name))
                return self._read(folder, name, descriptor, wanted, memory, num_threads)
            except FileNotFoundError:
                return None
            except OSError as error:
                if path.is_dir() and not path.is_symlink():
                    raise Blocked(
                        f"{path} is a folder, not a file, so that the weights are packed in memory"
                        " at each start: octavo cache clear deletes it"
                    ) from error
                reason = error.strerror or str(error)
                logger.warning("%s cannot be read (%s): the weights are packed anew", path, reason)
                return None

    def _read(
        self,
        folder: int,
        name: str,
        descriptor: int,
        wanted: Contents,
        memory: U8,
        num_threads: int,
    ) -> Contents | None:
        """An open file of the cache; None: it is of no use, and deleted."""
        try:
            header = read_header(descriptor)
            _check_same(header.contents, wanted)
            if header.num_bytes != memory.size:
                raise Unusable("has another size")
            read_packed(descriptor, header, memory, num_threads)
        except Unusable as error:
            self._delete_useless(folder, name, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(descriptor)  # the least recently used go first
        return header.contents

    def _delete_useless(self, folder: int, name: str, error: Unusable) -> None:
        path = self.folder / name
        try:
            # Gone from here on for everybody; whoever is reading it finds out too.
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return  # somebody else was faster
        except OSError as refusal:
            kind = "is outdated" if isinstance(error, Outdated) else "is damaged"
            raise Blocked(
                f"{path} {kind} ({error}), and cannot be replaced, as its folder cannot be written"
                f" ({refusal.strerror}): the weights are packed in memory at each start;"
                f" {self.advice(refusal)}"
            ) from refusal
        level = logging.INFO if isinstance(error, Outdated) else logging.WARNING
        logger.log(level, "%s %s: it is deleted, and made anew", path, error)

    def advice(self, error: OSError) -> str:
        """What helps whoever could not write here."""
        elsewhere = "set XDG_CACHE_HOME to another folder, or switch pack_cache off"
        if error.errno in _NO_ROOM:
            return f"make room on the disk, {elsewhere}"
        if error.errno in _NOT_OURS:
            return f"make {self.folder} writable for this user, {elsewhere}"
        return f"mend that, {elsewhere}"

    def store(
        self, contents: Contents, memory: U8, is_wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Keep packed weights, making room where the bound asks for it; False: they are too large.

        The file appears whole or not at all, whatever happens meanwhile.

        Args:
            is_wanted: asked while it is written.

        Raises:
            BrokenOff: it is not wanted any more.
            OSError: the disk is full, or the folder is not ours to write.
        """
        name = _file_name(contents)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._open_folder() as folder:
            if not self._make_room(folder, memory.size + 2 * ALIGNMENT, name):
                return False
            part = f"{name}.{secrets.token_hex(8)}{PART_SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(part, flags, 0o600, dir_fd=folder)
            try:
                # Tells others that somebody lives who writes this; see _remove_parts.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                write_packed(descriptor, contents, memory, is_wanted)
                os.fsync(descriptor)
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
            finally:
                os.close(descriptor)
        return True

    def entries(self) -> list[Entry]:
        """All files, and what stands in the place of one, the most recently used first.

        Raises:
            OSError: the folder cannot be read.
        """
        try:
            with self._open_folder() as folder:
                found = [self._entry(folder, *file) for file in _files(folder, all_kinds=True)]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda entry: -entry.used_s)

    def clear(self) -> list[Entry]:
        """Delete all entries; files that are being written stay. Returns what was deleted.

        Raises:
            OSError: the folder is not ours to write.
        """
        gone = self.entries()
        with contextlib.suppress(FileNotFoundError), self._open_folder() as folder:
            for entry in gone:
                try:
                    _unlink(folder, entry.name)
                except IsADirectoryError:
                    shutil.rmtree(entry.name, dir_fd=folder)
            _remove_parts(folder)
        return gone

    def most_bytes(self) -> int:
        """What all files together may have.

        Raises:
            OSError: the folder cannot be read.
        """
        with self._open_folder() as folder:
            return self._bound(folder, sum(size for _, size, _ in _files(folder)))

    def _entry(self, folder: int, name: str, num_bytes: int, used_s: float) -> Entry:
        contents = None
        with (
            contextlib.suppress(OSError, Unusable),
            _open_file(folder, name) as descriptor,
        ):
            contents = read_header(descriptor).contents
        return Entry(name, num_bytes, used_s, contents)

    def _make_room(self, folder: int, num_bytes: int, name: str) -> bool:
        """Delete the least recently used until ``num_bytes`` more fit; False: they never do."""
        _remove_parts(folder)
        files = sorted(_files(folder), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        bound = self._bound(folder, total)
        if num_bytes > bound:
            return False
        # The file of the same name is replaced, but is there until the new one is whole.
        for other, size, _ in files:
            if total + num_bytes <= bound:
                break
            _unlink(folder, other)
            total -= size
            logger.info("%s: deleted to make room for %s", self.folder / other, name)
        return True

    def _bound(self, folder: int, num_used: int) -> int:
        if self._most_bytes is not None:
            return self._most_bytes
        disk = os.fstatvfs(folder)
        return min(MOST_BYTES, int(MOST_OF_DISK * (disk.f_bavail * disk.f_frsize + num_used)))

    @contextlib.contextmanager
    def _open_folder(self) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.folder, flags)
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise PermissionError(
                    f"{self.folder}: must be this user's and nobody else's (chmod 700)"
                )
            yield descriptor
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _open_file(folder: int, name: str) -> Iterator[int]:
    # Not to wait for a pipe that somebody put there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(f"{name}: is no file of this user")
        yield descriptor
    finally:
        os.close(descriptor)


def _files(folder: int, *, all_kinds: bool = False) -> list[tuple[str, int, float]]:
    """Name, size and time of each finished file; of all kinds: folders and links too that are in
    the place of one."""
    found = []
    for name in filter(_FILE_NAME.fullmatch, os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if all_kinds or stat.S_ISREG(status.st_mode):
                found.append((name, status.st_size, status.st_mtime))
    return found


def _remove_parts(folder: int) -> None:
    """Delete the halves that processes left which died while they wrote."""
    for name in os.listdir(folder):
        if not name.endswith(PART_SUFFIX):
            continue
        with contextlib.suppress(OSError), _open_file(folder, name) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody writes it
            os.unlink(name, dir_fd=folder)


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _file_name(contents: Contents) -> str:
    """Of a place and what is made of it, not of its state: a new state replaces the old one."""
    facts = json.dumps([contents.place, contents.recipe, contents.arrays]).encode()
    return hashlib.blake2b(facts, digest_size=_NAME_BYTES).hexdigest() + SUFFIX


def _check_same(found: Contents, wanted: Contents) -> None:
    if found.packer != wanted.packer:
        raise Outdated(f"is by {found.packer}, not {wanted.packer}")
    if found.state != wanted.state:
        raise Outdated("is of a checkpoint that has changed")
    if (found.place, found.recipe, found.arrays) != (wanted.place, wanted.recipe, wanted.arrays):
        raise Unusable("is of other weights")
