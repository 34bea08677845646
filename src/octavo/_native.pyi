"""Types and documentation of the native extension (csrc/module.cpp).

Arrays are C-contiguous, of the dtype shown, in native byte order; outputs are writable. One that
is not raises TypeError with the name of the argument: nothing is converted or copied. Outputs that
overlap inputs raise ValueError. The GIL is released while kernels run. The slow twins, which say
what each function computes, are in `octavo.backends.canonical`; every instruction set and every
number of threads gives their bits (a NaN is a NaN: its payload is not part of the promise).
"""

from numpy import float32, int8, int32, uint8, uint16
from numpy.typing import NDArray

def cpu_features() -> dict[str, bool]:
    """What the processor has and the operating system saves the registers of, by CPUID's names."""

def instruction_sets() -> list[str]:
    """The instruction sets that kernels can use on this machine, slowest first."""

class ThreadPool:
    """N - 1 worker threads and the caller. Several threads may share a pool; they take turns.

    After `os.fork()` the child's copy has no workers and computes on the calling thread.
    """

    def __init__(self, num_threads: int) -> None:
        """ValueError unless 1 <= num_threads <= 1024."""

    @property
    def num_threads(self) -> int: ...

class Kernels:
    """The kernels of one instruction set, run on one pool. Keeps the pool alive."""

    def __init__(self, pool: ThreadPool, instruction_set: str = "") -> None:
        """An empty name: what OCTAVO_CPU_ISA says, else the best of this machine.

        ValueError, naming the usable ones, if the name is unknown or not usable here.
        """

    @property
    def instruction_set(self) -> str: ...
    def product(
        self,
        a: NDArray[float32],  # (m, k) or (batch, m, k)
        b: NDArray[float32],  # (k, n) or (batch, k, n)
        out: NDArray[float32],  # (m, n) or (batch, m, n)
        bias: NDArray[float32] | None = None,  # (n,), with two dimensions only
    ) -> None:
        """The canonical product: one chain of fused multiply-adds an element, k ascending from +0,
        then the bias."""

    def row_sums(
        self,
        x: NDArray[float32],  # (rows, n)
        out: NDArray[float32],  # (rows,)
    ) -> None:
        """The sum of each row, over the canonical tree of sixteen lanes."""

    def row_sums_of_squares(
        self,
        x: NDArray[float32],  # (rows, n)
        out: NDArray[float32],  # (rows,)
    ) -> None:
        """The sum of the squares of each row, fused multiply-adds over the same tree."""

    def exp(self, x: NDArray[float32], out: NDArray[float32]) -> None:
        """e^x, at most 1.01 ulp off. `out` has the shape of `x` and may be `x`.

        Results below 2^-126 are denormal, within that error; 0 at and below -104, infinity above
        88.72284.
        """

    def log(self, x: NDArray[float32], out: NDArray[float32]) -> None:
        """The natural logarithm, at most 0.83 ulp off, denormals included. `out` may be `x`.

        -infinity at +-0, NaN below 0.
        """

    def tanh(self, x: NDArray[float32], out: NDArray[float32]) -> None:
        """The hyperbolic tangent, at most 1.33 ulp off. `out` may be `x`."""

    def sigmoid(self, x: NDArray[float32], out: NDArray[float32]) -> None:
        """1 / (1 + e^-x), at most 2.41 ulp off, denormals included. `out` may be `x`."""

class AttentionKernels:
    """Paged attention of one instruction set by itself, for tests and benchmarks.

    `csrc/kernels/layout.h` says how pages of 16 tokens lie in bytes; head_dim is even and at most
    256, and `padded` is head_dim rounded up to 4. The twins are in
    `octavo.backends.canonical_attention`. bf16 follows the twin that flushes denormals where the
    instruction set is avx512bf16, the one that keeps them elsewhere; int8 gives the same bits
    everywhere. ValueError for numbers out of range.
    """

    def __init__(self, pool: ThreadPool, instruction_set: str = "") -> None:
        """As `Kernels`."""

    def exp_nonpositive(self, x: NDArray[float32], out: NDArray[float32]) -> None:
        """e^x for x <= 0, at most 2.2 ulp off; 0 below -86. Both (n,); `out` may be `x`."""

    def queries_bf16(
        self,
        x: NDArray[float32],  # (rows, head_dim), at most 12 rows
        queries: NDArray[uint16],  # (head_dim / 2, rows, 2)
    ) -> None:
        """Queries rounded to bf16, as `attend_bf16` takes them."""

    def queries_int8(
        self,
        x: NDArray[float32],  # (rows, head_dim), at most 12 rows
        queries: NDArray[int8],  # (padded / 4, rows, 4)
        scales: NDArray[float32],  # (rows,)
        corrections: NDArray[int32],  # (rows,)
    ) -> None:
        """Queries as int8 with a scale a row, as `attend_int8` takes them."""

    def write_kv_bf16(
        self,
        key: NDArray[float32],  # (head_dim,)
        value: NDArray[float32],  # (head_dim,)
        slot: int,
        key_page: NDArray[uint8],  # (16 * 2 * head_dim,)
        value_page: NDArray[uint8],  # likewise
    ) -> None:
        """One token's key and value into a slot of its page."""

    def write_kv_int8(
        self,
        key: NDArray[float32],  # (head_dim,)
        value: NDArray[float32],  # (head_dim,)
        slot: int,
        key_page: NDArray[uint8],  # (16 * (padded + 4),)
        value_page: NDArray[uint8],  # likewise
    ) -> None:
        """One token's key and value, each with a scale, into a slot of its page."""

    def attend_bf16(
        self,
        queries: NDArray[uint16],  # (units, head_dim / 2, rows, 2)
        keys: NDArray[uint8],  # (pages, 16 * 2 * head_dim)
        values: NDArray[uint8],  # likewise
        page_table: NDArray[int32],  # (units, pages of the chunk), at most 16; -1: nobody looks
        first: NDArray[int32],  # (units, rows) a row sees the tokens [first, last) of the chunk
        last: NDArray[int32],
        scale: float,
        values_are_finite: bool,
        peaks: NDArray[float32],  # (units, rows) the highest scaled score that is a number
        sums: NDArray[float32],  # (units, rows) of exp(score - peak)
        out: NDArray[float32],  # (units, rows, head_dim) sums of exp(score - peak) * value
    ) -> None:
        """Units of at most 12 rows against one chunk each.

        `values_are_finite` promises that no value that some row sees is NaN or infinite.
        """

    def attend_int8(
        self,
        queries: NDArray[int8],  # (units, padded / 4, rows, 4)
        scales: NDArray[float32],  # (units, rows)
        corrections: NDArray[int32],  # (units, rows)
        keys: NDArray[uint8],  # (pages, 16 * (padded + 4))
        values: NDArray[uint8],  # likewise
        page_table: NDArray[int32],  # as in attend_bf16, likewise the others
        first: NDArray[int32],
        last: NDArray[int32],
        scale: float,
        peaks: NDArray[float32],
        sums: NDArray[float32],
        out: NDArray[float32],
    ) -> None:
        """Units of at most 12 rows against one chunk each."""
