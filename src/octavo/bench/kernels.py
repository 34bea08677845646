"""Kernels against the machine's roofs: memory read, and products computed.

The matrices are those of a shape's layers and its head. A figure counts only beside the roofs of
the same moment, as neighbours on the machine lower both: before each run both are probed, and the
share is the time that the binding roof allows over the time that the product took. Panels come
from memory, not from a cache: as many copies are gone through as no cache holds. Attention and
the sampler are measured by themselves (``attention.py``, ``sampler_times.py``), on one thread: the
fastest tenth of many samples, for attention beside the best of as many probes.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo._native import ThreadPool
from octavo.backends.products import Operand, prepare, products_of
from octavo.bench.attention import CASES as ATTENTION_CASES
from octavo.bench.attention import AttentionCase, measure_attention
from octavo.bench.machine import Stopwatch
from octavo.bench.sampler_times import sampler_times
from octavo.bench.shapes import SHAPES
from octavo.weights.formats import PANEL_COLUMNS, find_format, pack

ROWS = (1, 8, 12, 16, 32, 512)
FORMATS = ("bf16", "w8", "w4")
_GIGA = 1e9
_READ_BYTES = 1 << 30
_PROBE_BYTES = 1 << 26
_UNCACHED_BYTES = 1 << 28
_FEW_ROWS = 16
"""With more rows a product is bound by computing: one copy of the weights will do."""
_SPINS = 20_000
_ROOF_TRIES = 5
_PATTERN_COLUMNS = 8 * PANEL_COLUMNS
PARTS = ("products", "attention", "sampler")

U8 = NDArray[np.uint8]


class KernelsJob(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What to measure."""

    shape: str
    parts: tuple[str, ...] = PARTS
    formats: tuple[str, ...]
    """Of the weights of products."""
    rows: tuple[int, ...]
    repeat: int
    num_threads: int | None
    instruction_set: str
    """Empty: the best."""


class Roofs(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine can do, in billions a second: bytes read, and products added."""

    read: float
    int8: float
    bf16: float
    f32: float


class KernelRow(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One kernel, or, with the format "roofs", what bounds them all."""

    part: str = ""
    """One of PARTS."""
    format: str
    matrix: str = ""
    """For attention and the sampler: what they do."""
    columns: int = 0
    depth: int = 0
    rows: int = 0
    ms: float = 0.0
    read_gb_per_s: float = 0.0
    """Weights alone; keys and values of attention; logits of the sampler."""
    gmac_per_s: float = 0.0
    roof: Literal["", "read", "compute"] = ""
    share: float = 0.0
    """Of the roof."""
    others: float = 0.0
    instruction_set: str = ""
    num_threads: int = 0
    roofs: Roofs | None = None


class Matrix(msgspec.Struct, frozen=True):
    """One kind of matrix of a model."""

    name: str
    columns: int
    depth: int


def matrices_of(shape: str) -> list[Matrix]:
    """The products of one layer, QKV and gate/up as one, and the head."""
    fields: dict[str, Any] = SHAPES[shape]
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    head_dim = fields.get("head_dim", hidden // heads)
    kv_columns = 2 * fields["num_key_value_heads"] * head_dim
    inner = fields["intermediate_size"]
    return [
        Matrix("qkv", heads * head_dim + kv_columns, hidden),
        Matrix("output", hidden, heads * head_dim),
        Matrix("gate_up", 2 * inner, hidden),
        Matrix("down", hidden, inner),
        Matrix("head", fields["vocab_size"], hidden),
    ]


def measure_kernels(job: KernelsJob) -> Iterator[KernelRow]:
    """The roofs with one thread and with all, then each kernel."""
    most = job.num_threads or len(os.sched_getaffinity(0))
    memory = np.ones(_READ_BYTES, np.uint8)
    for threads in sorted({1, most}):
        meter = _Meter(threads, job.instruction_set, memory)
        yield meter.roofs(max(job.repeat, _ROOF_TRIES))
    if "products" in job.parts:
        for name in job.formats:
            for matrix in matrices_of(job.shape):
                yield from meter.products_of(name, matrix, job.rows, job.repeat)
    alone = _Meter(1, job.instruction_set, memory)
    if "attention" in job.parts:
        yield from (alone.attention(case) for case in ATTENTION_CASES)
    if "sampler" in job.parts:
        yield from alone.sampler(SHAPES[job.shape]["vocab_size"])


class _Meter:
    """Measures on one pool."""

    def __init__(self, threads: int, instruction_set: str, memory: U8) -> None:
        self._native = products_of(threads, instruction_set)
        self._threads = threads
        self._memory = memory
        self._place = 0

    def roofs(self, repeat: int) -> KernelRow:
        """The best of each: a roof is what can be reached."""
        reads = [self._seconds(self._native.read, self._memory)[0] for _ in range(repeat)]
        rates = {
            kind: max(self._probe_products(kind) for _ in range(repeat))
            for kind in ("int8", "bf16", "f32")
        }
        read = _READ_BYTES / min(reads) / _GIGA
        return KernelRow(
            format="roofs",
            instruction_set=self._native.instruction_set,
            num_threads=self._threads,
            roofs=Roofs(read=read, **rates),
        )

    def products_of(
        self, name: str, matrix: Matrix, rows: tuple[int, ...], repeat: int
    ) -> Iterator[KernelRow]:
        """A row for each number of rows."""
        rng = np.random.default_rng(0)
        panels = _panels(rng, name, matrix)
        copies = [panels]
        if min(rows) <= _FEW_ROWS:
            while sum(one.nbytes for one in copies) < _UNCACHED_BYTES:
                copies.append(panels.copy())
        for count in rows:
            x = rng.standard_normal((count, matrix.depth), np.float32)
            operand = prepare(self._native, name, x)
            out = np.zeros((count, len(panels) * PANEL_COLUMNS), np.float32)
            used = copies if count <= _FEW_ROWS else copies[:1]
            yield self._row(name, matrix, operand, used, out, repeat)

    def _row(
        self,
        name: str,
        matrix: Matrix,
        operand: Operand,
        copies: list[U8],
        out: NDArray[np.float32],
        repeat: int,
    ) -> KernelRow:
        kind = find_format(name).operand
        macs = len(out) * matrix.columns * matrix.depth
        num_bytes = copies[0].nbytes
        self._multiply(operand, copies, out)  # warm
        times: list[float] = []
        shares: list[tuple[float, bool]] = []
        with Stopwatch() as watch:
            for _ in range(repeat):
                read = self._probe_read()
                rate = self._probe_products(kind)
                taken = self._multiply(operand, copies, out)
                reading = num_bytes / (read * _GIGA)
                computing = macs / (rate * _GIGA)
                times.append(taken)
                shares.append((max(reading, computing) / taken, reading > computing))
        taken = statistics.median(times)
        share, is_bound_by_memory = sorted(shares)[len(shares) // 2]
        return KernelRow(
            part="products",
            format=name,
            matrix=matrix.name,
            columns=matrix.columns,
            depth=matrix.depth,
            rows=len(out),
            ms=taken * 1e3,
            read_gb_per_s=num_bytes / taken / _GIGA,
            gmac_per_s=macs / taken / _GIGA,
            roof="read" if is_bound_by_memory else "compute",
            share=share,
            others=watch.others,
            instruction_set=self._native.instruction_set,
            num_threads=self._threads,
        )

    def attention(self, case: AttentionCase) -> KernelRow:
        """One unit of attention."""
        rates: list[float] = []

        def probe() -> None:
            rates.append(
                self._probe_read() if case.in_memory else self._probe_products(case.kv_format)
            )

        with Stopwatch() as watch:
            figure = measure_attention(self._native.instruction_set, case, between=probe)
        work = figure.bytes if figure.reads_memory else figure.multiply_adds
        return KernelRow(
            part="attention",
            format=case.kv_format,
            matrix=figure.name,
            rows=case.rows,
            ms=figure.seconds * 1e3,
            read_gb_per_s=figure.bytes / figure.seconds / _GIGA,
            gmac_per_s=figure.multiply_adds / figure.seconds / _GIGA,
            roof="read" if figure.reads_memory else "compute",
            share=work / (max(rates) * _GIGA) / figure.seconds,
            others=watch.others,
            instruction_set=self._native.instruction_set,
            num_threads=1,
        )

    def sampler(self, vocab_size: int) -> Iterator[KernelRow]:
        """One row of logits in the cache, in each way of sampling: no roof is meant for that."""
        pool = ThreadPool(1)
        with Stopwatch() as watch:
            times = sampler_times(pool, self._native.instruction_set, vocab_size)
        for one in times:
            yield KernelRow(
                part="sampler",
                format="f32",
                matrix=one.name,
                columns=vocab_size,
                rows=1,
                ms=one.seconds * 1e3,
                read_gb_per_s=one.bytes / one.seconds / _GIGA,
                others=watch.others,
                instruction_set=self._native.instruction_set,
                num_threads=1,
            )

    def _multiply(self, operand: Operand, copies: list[U8], out: NDArray[np.float32]) -> float:
        """Seconds of one product."""
        started_s = time.perf_counter()
        for panels in copies:
            self._native.multiply(
                operand.weights,
                operand.values,
                operand.scales,
                operand.corrections,
                operand.corrections_4,
                panels,
                out,
            )
        return (time.perf_counter() - started_s) / len(copies)

    def _probe_read(self) -> float:
        """GB/s over a part of memory that was not read lately."""
        part = self._memory[self._place : self._place + _PROBE_BYTES]
        self._place = (self._place + _PROBE_BYTES) % _READ_BYTES
        taken, _ = self._seconds(self._native.read, part)
        return _PROBE_BYTES / taken / _GIGA

    def _probe_products(self, kind: str) -> float:
        taken, done = self._seconds(self._native.spin, kind, _SPINS)
        return done / taken / _GIGA

    @staticmethod
    def _seconds(function: Any, *arguments: Any) -> tuple[float, int]:
        started_s = time.perf_counter()
        result: int = function(*arguments)
        return time.perf_counter() - started_s, result


def _panels(rng: np.random.Generator, name: str, matrix: Matrix) -> U8:
    """Panels of random weights: a few, again and again, as drawing many takes long."""
    pattern = pack(
        name,
        rng.standard_normal((_PATTERN_COLUMNS, matrix.depth), np.float32) * np.float32(0.02),
    )
    num_panels = find_format(name).shape(matrix.columns, matrix.depth)[0]
    times = -(-num_panels // len(pattern))
    return np.ascontiguousarray(np.tile(pattern, (times, 1))[:num_panels])
