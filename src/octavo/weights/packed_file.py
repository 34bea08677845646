"""The file of packed weights: a header that names everything, then the bytes as they lie in memory.

    8 bytes   MAGIC
    4         version of this format
    4         bytes of the header, a multiple of ALIGNMENT
    8         bytes of packed weights behind it
    4         bytes of JSON
    4         pieces
    ...       JSON: what the weights are and what they were made of
    4 each    CRC-32 of each piece of PIECE_BYTES
    ...       zeros
    32        BLAKE2b of the header so far

Numbers are little-endian. Every byte of a file is checked before any of it is used. The checks
are against accidents: whoever may write into the cache's folder may make up weights. Which file
is wanted, and where it lies, is the business of ``pack_cache``.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ModelError
from octavo.core.json_file import parse_json_object

U8 = NDArray[np.uint8]

MAGIC = b"OctavoPW"
VERSION = 1
ALIGNMENT = 4096
PIECE_BYTES = 2**20
"""Checked while it is still in the processor's cache."""
MAX_HEADER_BYTES = 64 * 2**20
_START = struct.Struct("<8sIIQII")
_DIGEST_BYTES = 32
_PIECES_OF_A_JOB = 16
_PIECES_OF_A_SYNC = 32
"""Written through to the disk together: the longest that whoever breaks off has to wait."""


class Unusable(Exception):
    """A file that cannot be used, and why."""


class Outdated(Unusable):
    """A sound file of another version, or of what is no more."""


class BrokenOff(Exception):
    """A file that somebody wanted written, and then no more."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file of packed weights says it holds."""

    place: str
    """The checkpoint's folder."""
    state: str
    """Of the checkpoint: ``identity.Identity``."""
    recipe: str
    packer: str
    """Name and version of what packed."""
    arrays: tuple[str, ...]
    """Each array of panels, in order: its format, its size, the weights in it."""
    fingerprint: str | None
    """The checkpoint's, where it was known."""


@dataclass(frozen=True, slots=True)
class Header:
    """The checked beginning of a file."""

    contents: Contents
    data_begin: int
    num_bytes: int
    checksums: tuple[int, ...]


def write_packed(
    descriptor: int, contents: Contents, memory: U8, is_wanted: Callable[[], bool]
) -> None:
    """Fill an empty file; the header goes last, so that a file without its end has none.

    Args:
        is_wanted: asked again and again.

    Raises:
        BrokenOff: it is not wanted any more.
        OSError: it cannot be written.
    """
    text = json.dumps(asdict(contents)).encode()
    num_pieces = -(-memory.size // PIECE_BYTES)
    used = _START.size + len(text) + 4 * num_pieces + _DIGEST_BYTES
    data_begin = -(-used // ALIGNMENT) * ALIGNMENT
    checksums = []
    view = memory.data
    for begin in range(0, memory.size, PIECE_BYTES):
        if not is_wanted():
            raise BrokenOff
        piece = view[begin : begin + PIECE_BYTES]
        checksums.append(zlib.crc32(piece))
        _write_all(descriptor, piece, data_begin + begin)
        if len(checksums) % _PIECES_OF_A_SYNC == 0:
            os.fdatasync(descriptor)
    start = _START.pack(MAGIC, VERSION, data_begin, memory.size, len(text), num_pieces)
    header = start + text + struct.pack(f"<{num_pieces}I", *checksums)
    header = header.ljust(data_begin - _DIGEST_BYTES, b"\0")
    _write_all(descriptor, memoryview(header + _digest(header)), 0)


def read_header(descriptor: int) -> Header:
    """The header of a file, if the file is whole.

    Raises:
        Unusable: damaged, of another version, or no such file at all.
        OSError: it cannot be read.
    """
    start = os.pread(descriptor, _START.size, 0)
    if len(start) < _START.size or not start.startswith(MAGIC):
        raise Unusable("is no file of packed weights")
    _, version, data_begin, num_bytes, text_bytes, num_pieces = _START.unpack(start)
    if version != VERSION:
        raise Outdated(f"is of version {version}, not {VERSION}")
    if data_begin > MAX_HEADER_BYTES or data_begin < _START.size + _DIGEST_BYTES:
        raise Unusable("has a damaged header")
    header = os.pread(descriptor, data_begin, 0)
    body, digest = header[:-_DIGEST_BYTES], header[-_DIGEST_BYTES:]
    if len(header) < data_begin or _digest(body) != digest:
        raise Unusable("has a damaged header")
    if num_pieces != -(-num_bytes // PIECE_BYTES):
        raise Unusable("has a damaged header")
    if os.fstat(descriptor).st_size != data_begin + num_bytes:
        raise Unusable("is not of the length that its header says")
    text_end = _START.size + text_bytes
    try:
        fields = parse_json_object(body[_START.size : text_end], "header", strict=True)
        contents = Contents(**{**fields, "arrays": tuple(fields["arrays"])})
        checksums = struct.unpack_from(f"<{num_pieces}I", body, text_end)
    except (ModelError, KeyError, TypeError, struct.error) as error:
        raise Unusable("has a header of another form") from error
    return Header(contents, data_begin, num_bytes, checksums)


def read_packed(descriptor: int, header: Header, memory: U8, num_threads: int) -> None:
    """Read all of the weights into ``memory``, which is theirs only if nothing is raised.

    Raises:
        Unusable: a checksum is wrong, or the file is too short.
        OSError: it cannot be read.
    """
    assert memory.size == header.num_bytes
    view = memory.data

    def read_job(first: int) -> None:
        for index in range(first, min(first + _PIECES_OF_A_JOB, len(header.checksums))):
            begin = index * PIECE_BYTES
            piece = view[begin : begin + PIECE_BYTES]
            _read_all(descriptor, piece, header.data_begin + begin)
            if zlib.crc32(piece) != header.checksums[index]:  # without the GIL, as the reading
                raise Unusable(f"has a damaged piece at byte {header.data_begin + begin}")

    with ThreadPoolExecutor(num_threads, "octavo-packed") as pool:
        jobs = pool.map(read_job, range(0, len(header.checksums), _PIECES_OF_A_JOB))
        for _ in jobs:
            pass


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, person=b"octavo-packed").digest()


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _read_all(descriptor: int, into: memoryview, offset: int) -> None:
    while into:
        count = os.preadv(descriptor, [into], offset)
        if count == 0:
            raise Unusable("ends early")
        into, offset = into[count:], offset + count
