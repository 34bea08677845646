"""A model folder's weights, one operation's weight at a time: as float32, or as they are stored.

This is where stored tensors become numbers: slices of fused tensors, transposing, f16 and bf16 to
f32, and the content's fingerprint. How a backend packs or quantises the result is its own
business.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ModelError, did_you_mean
from octavo.program.ir import Weight
from octavo.weights.identity import Identity, identify
from octavo.weights.inventory import HEAD, Findings, compare, prefixes_in, report, stored_name
from octavo.weights.safetensors import readable_dtype
from octavo.weights.shards import StoredTensor, open_folder

F32 = NDArray[np.float32]

BLOCK_BYTES = 8 * 2**20
"""Source mapped at once by a thread: what the peak lies above the result."""
PIECE_BYTES = 32 * 2**20
"""What one thread hashes at a time. Part of the fingerprint's definition."""
_MAX_SUGGESTED = 2_000


class Checkpoint:
    """The safetensors of one folder; a ``WeightSource``.

    Opening it reads and checks the headers only. It holds no descriptors and no mappings between
    calls: a source's pages leave this process's memory as soon as they are converted (they stay
    in the operating system's cache). Any number of threads may call :meth:`load` at once.

    Args:
        folder: holds model.safetensors, or its index and shards.
        num_threads: for the fingerprint; None: one for each core that this process may use.

    Raises:
        ModelError: no safetensors in the folder, or a file that is damaged.
    """

    def __init__(self, folder: Path, *, num_threads: int | None = None) -> None:
        self.folder = folder
        self._tensors = open_folder(folder)
        self._has_prefix = prefixes_in(self._tensors)
        self._num_threads = num_threads or _num_cores()
        self._fingerprint: str | None = None

    @property
    def num_bytes(self) -> int:
        """Of all stored tensors, as stored."""
        return sum(stored.info.num_bytes for stored in self._tensors.values())

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the content: names, types, shapes and bytes.

        Computed once, when it is first asked for, by reading all tensors; how they are spread
        over files, and in which order, does not matter.

        Raises:
            ModelError: a file vanished or changed since it was opened.
        """
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def identity(self) -> Identity | None:
        """Which checkpoint this is, at no cost; None where nothing vouches for it."""
        return identify(self.folder, self._tensors, time.time_ns())

    def load_rows(self, weight: Weight, begin: int, end: int) -> NDArray[Any]:
        """Rows [begin, end) of a matrix as they are stored: f32, f16 or, as u16, bf16.

        C-contiguous, aligned and read-only: a mapping of the file where it can be one, so whoever
        is done with the rows should drop them.

        Raises:
            ModelError: as for :meth:`load`.
        """
        stored, dtype = self._readable(weight)
        element = np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype
        assert 0 <= begin <= end <= weight.shape[0]
        first, last = weight.first_row + begin, weight.first_row + end
        if weight.transposed:
            whole = stored.file.map_bytes(stored.info).view(element).reshape(stored.info.shape)
            return np.ascontiguousarray(whole.T[first:last])
        row_bytes = math.prod(weight.shape[1:]) * element.itemsize
        rows = stored.file.map_bytes(stored.info, first * row_bytes, last * row_bytes)
        shaped = rows.view(element).reshape(end - begin, *weight.shape[1:])
        # The format promises no alignment.
        return np.require(shaped, requirements=("C", "A"))

    def load(self, weight: Weight) -> F32:
        """The weight as a new C-contiguous float32 array of ``weight.shape``; the caller owns it.

        Only the rows of ``weight`` are read, unless the tensor is stored transposed.

        Raises:
            ModelError: the tensor is missing, has another shape, or is of a type other than F32,
                F16 and BF16; or its file vanished or changed since it was opened.
        """
        stored, dtype = self._readable(weight)
        info = stored.info
        result = np.empty(weight.shape, np.float32)
        # Half-precision NaNs that signal are not worth a warning: they stay NaN.
        with np.errstate(invalid="ignore"):
            if weight.transposed:
                whole = stored.file.map_bytes(info).view(dtype).reshape(info.shape).T
                first = weight.first_row
                np.copyto(result, whole[first : first + weight.shape[0]])
            else:
                _copy_rows(stored, weight, dtype, result)
        return result

    def check(self, weights: Iterable[Weight]) -> None:
        """Make sure that the checkpoint has what a model wants, and nothing that it would ignore.

        Tolerated besides: what inventory.HARMLESS_EXTRAS lists, and an ``lm_head.weight`` that
        repeats a wanted tensor byte for byte (a tied model saved with its head).

        Raises:
            ModelError: names every tensor that is missing, misshapen, of an unreadable type, or
                extra.
        """
        wanted = list(weights)
        infos = {name: stored.info for name, stored in self._tensors.items()}
        findings = compare(wanted, infos)
        if HEAD in findings.extra and self._repeats_wanted(HEAD, wanted):
            findings.extra.remove(HEAD)
        if findings == Findings(extra=[HEAD]):
            raise ModelError(
                f"{self.folder}: has an {HEAD} of its own, but config.json says that the head is"
                " the embedding",
                hint="set tie_word_embeddings to false in config.json if the head is wanted",
            )
        if findings:
            raise report(self.folder, findings, self._tensors)

    def _readable(self, weight: Weight) -> tuple[StoredTensor, np.dtype[Any]]:
        """The tensor of a weight, and its type; both are what they should be."""
        stored = self._find(weight)
        info = stored.info
        if info.shape != weight.tensor_shape:
            raise ModelError(
                f"{stored.file.path}: tensor {info.name!r} has the shape {info.shape};"
                f" the model needs {weight.tensor_shape}",
                hint="config.json and the weights do not seem to be of the same model",
            )
        return stored, readable_dtype(info, stored.file.path)

    def _find(self, weight: Weight) -> StoredTensor:
        name = stored_name(weight, self._tensors, self._has_prefix)
        if name is not None:
            return self._tensors[name]
        known = list(self._tensors)[:_MAX_SUGGESTED]
        raise ModelError(
            f"{self.folder}: the checkpoint has no tensor {weight.tensor!r}",
            hint=did_you_mean(weight.tensor, known)
            or "config.json and the weights do not seem to be of the same model",
        )

    def _repeats_wanted(self, name: str, wanted: Iterable[Weight]) -> bool:
        mine = self._tensors[name].info
        for weight in {weight.tensor: weight for weight in wanted}.values():
            other_name = stored_name(weight, self._tensors, self._has_prefix)
            if other_name is None:
                continue
            other = self._tensors[other_name].info
            same_kind = (other.dtype, other.shape) == (mine.dtype, mine.shape)
            if same_kind and self._digest(name) == self._digest(other_name):
                return True
        return False

    def _digest(self, name: str) -> bytes:
        state = hashlib.blake2b(digest_size=32)
        stored = self._tensors[name]
        for begin, end in _pieces(stored.info.num_bytes, PIECE_BYTES):
            state.update(stored.file.map_bytes(stored.info, begin, end).data)
        return state.digest()

    def _hash(self) -> str:
        """A tree: the digest of a list of tensors, each with the digests of its pieces."""
        jobs = [
            (stored, begin, end)
            for _, stored in sorted(self._tensors.items())
            for begin, end in _pieces(stored.info.num_bytes, PIECE_BYTES)
        ]

        def digest_piece(job: tuple[StoredTensor, int, int]) -> bytes:
            stored, begin, end = job
            state = hashlib.blake2b(digest_size=32)
            for first, last in _pieces(end - begin, BLOCK_BYTES):
                data = stored.file.map_bytes(stored.info, begin + first, begin + last)
                state.update(data.data)  # without the GIL
            return state.digest()

        with ThreadPoolExecutor(self._num_threads, "octavo-hash") as pool:
            digests = pool.map(digest_piece, jobs)
            state = hashlib.blake2b(digest_size=16, person=b"octavo-weights")
            for name, stored in sorted(self._tensors.items()):
                info = stored.info
                for text in (name, info.dtype, ",".join(map(str, info.shape))):
                    data = text.encode()
                    state.update(len(data).to_bytes(8, "little"))
                    state.update(data)
                for _ in _pieces(info.num_bytes, PIECE_BYTES):
                    state.update(next(digests))
        return state.hexdigest()


def _copy_rows(stored: StoredTensor, weight: Weight, dtype: np.dtype[Any], result: F32) -> None:
    """Convert rows [first_row, first_row + shape[0]), mapping a block of the source at a time."""
    target = result.reshape(-1)
    offset = weight.first_row * math.prod(weight.shape[1:]) * dtype.itemsize
    for begin, end in _pieces(target.size * dtype.itemsize, BLOCK_BYTES):
        block = stored.file.map_bytes(stored.info, offset + begin, offset + end).view(dtype)
        np.copyto(target[begin // dtype.itemsize : end // dtype.itemsize], block)


def _pieces(num_bytes: int, piece: int) -> Iterator[tuple[int, int]]:
    """[0, num_bytes) in pieces, the last one shorter."""
    for begin in range(0, num_bytes, piece):
        yield begin, min(begin + piece, num_bytes)


def _num_cores() -> int:
    """That this process may use; where the system does not tell (macOS), all."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
