"""One safetensors file: its header, checked in full, and its tensors, mapped without copies.

Source: the format description of Hugging Face's safetensors. A file is eight bytes (the header's
length N, little-endian), N bytes of JSON, then the tensors' bytes, little-endian and row-major,
without holes. A file that fails any check is refused as a whole. Several files that make up one
checkpoint are the business of ``shards``; turning numbers into float32 is that of ``checkpoint``.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ModelError
from octavo.core.json_file import parse_json_object
from octavo.weights.foreign import HEAD_BYTES, refuse_foreign

assert sys.byteorder == "little", "tensors are mapped as they lie in the file"

MAX_HEADER_BYTES = 100_000_000
"""The bound of the reference implementation."""
MAX_NAME_CHARACTERS = 1_000
MAX_DIMENSIONS = 32
_LENGTH_BYTES = 8

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Bits of one element, of the types that the format names."""

READABLE: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The types that become arrays."""

_DAMAGED = "the file is damaged or incomplete: download or copy it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies in its file, [begin, end) in bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells that a file is still the one that was opened."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> FileIdentity:
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A file whose header was found sound.

    It holds no descriptor: each mapping opens the file anew, makes sure that it is the same one,
    and lives exactly as long as the array that was given out.
    """

    path: Path
    identity: FileIdentity
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def map_bytes(
        self, info: TensorInfo, begin: int = 0, end: int | None = None
    ) -> NDArray[np.uint8]:
        """Bytes [begin, end) of a tensor: (end - begin,) u8, read-only, mapped, not copied.

        Raises:
            ModelError: the file vanished, or is not the one that was opened.
        """
        end = info.num_bytes if end is None else end
        assert 0 <= begin <= end <= info.num_bytes
        if begin == end:
            return np.empty(0, np.uint8)  # nothing can be mapped
        first = info.begin + begin
        aligned = first - first % mmap.ALLOCATIONGRANULARITY
        last = info.begin + end
        try:
            with self.path.open("rb") as file:
                # Reading a mapping past a file's end kills the process, so a file that shrank
                # must be noticed here. (One that shrinks while it is being read cannot be.)
                if FileIdentity.of(file) != self.identity:
                    raise ModelError(
                        f"{self.path}: changed while it was in use, at tensor {info.name!r}",
                        hint="load the model again when nothing writes to its folder",
                    )
                mapping = mmap.mmap(
                    file.fileno(), last - aligned, access=mmap.ACCESS_READ, offset=aligned
                )
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError(f"{self.path}: no room to map tensor {info.name!r}") from error
            raise ModelError(
                f"{self.path}: tensor {info.name!r} cannot be read: {error.strerror or error}",
                hint="check that the model's folder is still there",
            ) from error
        mapping.madvise(mmap.MADV_WILLNEED)  # read ahead in one go, not fault by fault
        return np.frombuffer(mapping, np.uint8, count=end - begin, offset=first - aligned)

    def map_tensor(self, name: str) -> NDArray[Any]:
        """A tensor as it is stored (f32, f16 or bf16): read-only, mapped, not copied.

        The array may be unaligned: the format promises no alignment.

        Raises:
            ModelError: no such tensor, a type other than F32, F16 and BF16, or see
                :meth:`map_bytes`.
        """
        info = self.tensors.get(name)
        if info is None:
            raise ModelError(
                f"{self.path}: has no tensor {name!r}",
                hint="list the names in the file with any safetensors viewer",
            )
        dtype = readable_dtype(info, self.path)
        return self.map_bytes(info).view(dtype).reshape(info.shape)


def readable_dtype(info: TensorInfo, path: Path) -> np.dtype[Any]:
    """NumPy's type for a tensor of F32, F16 or BF16.

    Raises:
        ModelError: another type.
    """
    if info.dtype in READABLE:
        return READABLE[info.dtype]
    known = "" if info.dtype in DTYPE_BITS else ", which is not a type of the format"
    raise ModelError(
        f"{path}: tensor {info.name!r} has type {info.dtype[:50]!r}{known};"
        f" readable are {', '.join(READABLE)}",
        hint="use a checkpoint in bf16, f16 or f32; quantised ones cannot be read yet",
    )


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of a file; no tensor is touched.

    Raises:
        ModelError: the file cannot be read, is of another format, or breaks a rule of this one.
    """
    try:
        with path.open("rb") as file:
            identity = FileIdentity.of(file)
            head = file.read(HEAD_BYTES)
            refuse_foreign(path, head)
            num_header_bytes = _header_length(path, head, identity.num_bytes)
            file.seek(_LENGTH_BYTES)
            header = file.read(num_header_bytes)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror or error}",
            hint="check that the file is there and that you may read it",
        ) from error
    if len(header) < num_header_bytes:  # it shrank between the two reads
        raise ModelError(f"{path}: ends inside its header", hint=_DAMAGED)
    data_begin = _LENGTH_BYTES + num_header_bytes
    tensors, metadata = parse_header(header, data_begin, identity.num_bytes, str(path))
    return SafetensorsFile(path, identity, tensors, metadata)


def _header_length(path: Path, head: bytes, num_file_bytes: int) -> int:
    if len(head) < _LENGTH_BYTES:
        what = "is empty" if not head else f"has only {len(head)} bytes"
        raise ModelError(f"{path}: {what}, not even the length of a header", hint=_DAMAGED)
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise ModelError(
            f"{path}: says that its header has {length} bytes; at most {MAX_HEADER_BYTES} are read",
            hint="this is not a safetensors file, or its beginning is damaged",
        )
    if length > num_file_bytes - _LENGTH_BYTES:
        raise ModelError(
            f"{path}: says that its header has {length} bytes,"
            f" but the whole file has {num_file_bytes}",
            hint=_DAMAGED,
        )
    return length


def parse_header(
    header: bytes, data_begin: int, num_file_bytes: int, source: str
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors and the metadata of a header, for data at [data_begin, num_file_bytes).

    Raises:
        ModelError: any rule of the format is broken; the message names ``source`` and the tensor.
    """
    if header[:1] != b"{":
        raise ModelError(
            f"{source}: its header does not begin with '{{'",
            hint="this is not a safetensors file, or its beginning is damaged",
        )
    entries = parse_json_object(header, f"{source}: header", strict=True)
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # some writers put null
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelError(f"{source}: __metadata__ must map strings to strings", hint=_DAMAGED)
    tensors = {
        name: _tensor_info(name, entry, data_begin, num_file_bytes, source)
        for name, entry in entries.items()
    }
    _check_cover(tensors, data_begin, num_file_bytes, source)
    return tensors, metadata


def _tensor_info(
    name: str, entry: Any, data_begin: int, num_file_bytes: int, source: str
) -> TensorInfo:
    def broken(why: str) -> ModelError:
        return ModelError(f"{source}: tensor {name[:200]!r} {why}", hint=_DAMAGED)

    if len(name) > MAX_NAME_CHARACTERS or not _is_unicode(name):
        raise broken(f"has a name that is not Unicode or has over {MAX_NAME_CHARACTERS} characters")
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise broken("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise broken("has a dtype that is not a string")
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise broken("has a shape that is not a list of sizes from 0 up")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise broken("has data_offsets that are not two positions from 0 up")
    # The product without the zeros: NumPy refuses (0, 2**62, 2**62) too.
    if len(shape) > MAX_DIMENSIONS or math.prod(max(size, 1) for size in shape) >= 2**60:
        raise broken(f"has a shape beyond all bounds, {_shorten(shape)}")
    begin, end = offsets
    if begin > end:
        raise broken(f"ends (at {end}) before it begins (at {begin})")
    if data_begin + end > num_file_bytes:
        raise broken(
            f"ends at byte {data_begin + end}, but the file has {num_file_bytes}: it is truncated"
        )
    bits = DTYPE_BITS.get(dtype)  # a type of the future is an error only when it is asked for
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise broken(
            f"has {end - begin} bytes, but {dtype} {_shorten(shape)} needs"
            f" {math.prod(shape) * bits / 8:g}"
        )
    return TensorInfo(name, dtype, tuple(shape), data_begin + begin, data_begin + end)


def _check_cover(
    tensors: Mapping[str, TensorInfo], data_begin: int, num_file_bytes: int, source: str
) -> None:
    """Every byte of data belongs to exactly one tensor: the format allows no holes."""
    position, previous = data_begin, "the header"
    for info in sorted(tensors.values(), key=lambda info: (info.begin, info.end)):
        if info.begin != position:
            kind = "overlaps" if info.begin < position else "leaves a hole after"
            raise ModelError(f"{source}: tensor {info.name!r} {kind} {previous}", hint=_DAMAGED)
        position, previous = info.end, repr(info.name)
    if position != num_file_bytes:
        raise ModelError(
            f"{source}: has {num_file_bytes - position} bytes that belong to no tensor,"
            f" after {previous}",
            hint=_DAMAGED,
        )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shorten(shape: list[int]) -> str:
    text = str(tuple(shape))
    return text if len(text) <= 100 else f"{text[:100]}..."
