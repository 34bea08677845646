"""Paged attention by itself: the rows that it adds to the table of kernels.

Decoding reads each page once, from memory; prefill multiplies many rows with pages in the cache.
Roofs are probed elsewhere: bytes a second for the one, multiply-adds a second for the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo._native import AttentionKernels, ThreadPool

PAGE_TOKENS = 16
PAGES = 16
"""Of a chunk."""
_MEMORY_UNITS = 1024
_CACHED_UNITS = 32
_UNITS_A_CALL = 32
_SAMPLES = 64
_QUANTILE = 0.1
"""Neighbours only ever make a call slower."""


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """One unit: the rows of a KV head against a chunk of 256 tokens."""

    kv_format: str  # bf16 or int8
    rows: int
    head_dim: int
    in_memory: bool  # else in the cache

    @property
    def name(self) -> str:
        phase = "decode" if self.in_memory else "prefill"
        return f"{phase} {self.rows} x {self.head_dim}"


@dataclass(frozen=True, slots=True)
class AttentionFigure:
    """What one unit takes on one thread."""

    name: str
    seconds: float
    bytes: int
    """Of keys and values."""
    multiply_adds: int
    """Of queries with keys and of weights with values."""
    reads_memory: bool


CASES = [
    AttentionCase(kv_format, rows, head_dim, in_memory)
    for kv_format in ("bf16", "int8")
    for rows, head_dim, in_memory in (
        (1, 64, True),
        (7, 64, True),
        (4, 128, True),
        (12, 64, False),
        (12, 128, False),
    )
]


def measure_attention(
    instruction_set: str, case: AttentionCase, *, between: Callable[[], None]
) -> AttentionFigure:
    """Measure on one thread. ``between`` is called after each sample: probe the roofs there."""
    kernels = AttentionKernels(ThreadPool(1), instruction_set)
    num_units = _MEMORY_UNITS if case.in_memory else _CACHED_UNITS
    num_pages = num_units * PAGES if case.in_memory else PAGES
    keys, values = _pages(case, num_pages), _pages(case, num_pages)
    rng = np.random.default_rng(0)
    table = np.tile(np.arange(PAGES, dtype=np.int32), (num_units, 1))
    if case.in_memory:
        table = rng.permutation(num_pages).astype(np.int32).reshape(num_units, PAGES)
    call = _Call(kernels, case, keys, values, rng.standard_normal((case.rows, case.head_dim), "f4"))
    call(table[:_UNITS_A_CALL])
    samples = []
    for i in range(_SAMPLES):
        begin = i * _UNITS_A_CALL % num_units
        started_s = time.perf_counter()
        call(table[begin : begin + _UNITS_A_CALL])
        samples.append((time.perf_counter() - started_s) / _UNITS_A_CALL)
        between()
    tokens = PAGES * PAGE_TOKENS
    return AttentionFigure(
        name=case.name,
        seconds=float(np.quantile(samples, _QUANTILE)),
        bytes=2 * PAGES * keys.shape[1],
        multiply_adds=2 * case.rows * tokens * case.head_dim,
        reads_memory=case.in_memory,
    )


def _pages(case: AttentionCase, num_pages: int) -> NDArray[np.uint8]:
    """Pages that hold small numbers, their scales among them."""
    if case.kv_format == "bf16":
        ones = np.full((num_pages, PAGE_TOKENS * case.head_dim), 0x3F80, np.uint16)
        return ones.view(np.uint8)
    depth = -(-case.head_dim // 4) * 4
    pages = np.full((num_pages, PAGE_TOKENS * (depth + 4)), 1, np.uint8)
    pages[:, PAGE_TOKENS * depth :].view(np.float32)[...] = 0.01
    return pages


class _Call:
    """Units with the same queries, each against a chunk of its own."""

    def __init__(
        self,
        kernels: AttentionKernels,
        case: AttentionCase,
        keys: NDArray[np.uint8],
        values: NDArray[np.uint8],
        queries: NDArray[np.float32],
    ) -> None:
        rows, head_dim = queries.shape
        shape = (_UNITS_A_CALL, rows)
        self._kernels = kernels
        self._is_bf16 = case.kv_format == "bf16"
        self._pages = (keys, values)
        self._scale = head_dim**-0.5
        self._first = np.zeros(shape, np.int32)
        self._last = np.full(shape, PAGES * PAGE_TOKENS, np.int32)
        self._peaks, self._sums = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._out = np.zeros((*shape, head_dim), np.float32)
        self._scales = np.zeros(shape, np.float32)
        self._corrections = np.zeros(shape, np.int32)
        self._pairs = np.zeros((_UNITS_A_CALL, head_dim // 2, rows, 2), np.uint16)
        self._quads = np.zeros((_UNITS_A_CALL, -(-head_dim // 4), rows, 4), np.int8)
        for i in range(_UNITS_A_CALL):
            kernels.queries_bf16(queries, self._pairs[i])
            kernels.queries_int8(queries, self._quads[i], self._scales[i], self._corrections[i])

    def __call__(self, table: NDArray[np.int32]) -> None:
        chunk = (*self._pages, table, self._first, self._last, self._scale)
        results = (self._peaks, self._sums, self._out)
        if self._is_bf16:
            self._kernels.attend_bf16(self._pairs, *chunk, True, *results)
        else:
            self._kernels.attend_int8(
                self._quads, self._scales, self._corrections, *chunk, *results
            )
