"""Types and documentation of the native extension (csrc/module.cpp).

Arrays are C-contiguous float32 in native byte order; outputs are writable. An array that is not
raises TypeError with the name of the argument: nothing is converted or copied. Outputs that overlap
inputs raise ValueError. The GIL is released while kernels run. The slow twins, which say what each
function computes, are in `octavo.backends.canonical`; every instruction set and every number of
threads gives their bits (a NaN is a NaN: its payload is not part of the promise).
"""

from typing import Protocol

from numpy import float32, int32, uint32, uint64
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

class _SamplingBatch(Protocol):
    """The attributes of `octavo.backends.base.SamplingBatch`, which says what they mean."""

    seeds: NDArray[uint64]
    choices: NDArray[uint32]
    positions: NDArray[uint32]
    temperature: NDArray[float32]
    top_k: NDArray[int32]
    top_p: NDArray[float32]
    min_p: NDArray[float32]
    typical_p: NDArray[float32]
    repetition_penalty: NDArray[float32]
    presence_penalty: NDArray[float32]
    frequency_penalty: NDArray[float32]
    num_logprobs: NDArray[int32]
    seen_starts: NDArray[int32]
    seen_ids: NDArray[int32]
    seen_counts: NDArray[int32]
    bias_starts: NDArray[int32]
    bias_ids: NDArray[int32]
    bias_values: NDArray[float32]
    mask_of_row: NDArray[int32]
    masks: NDArray[uint32]

class NativeSampler:
    """The sampler of one instruction set on one pool, with memory for one vocabulary.

    `octavo.backends.native_sampler` is for callers; the slow twin is `octavo.backends.sampler`.
    Arrays that do not fit each other raise TypeError, indices that point nowhere ValueError; an id
    in a row's penalties or biases that is no token fails the row. Keeps the pool alive.
    """

    def __init__(self, pool: ThreadPool, vocab_size: int, instruction_set: str = "") -> None:
        """ValueError unless 1 <= vocab_size <= 2**23; instruction sets as in `Kernels`."""

    @property
    def instruction_set(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    def sample(
        self,
        logits: NDArray[float32],  # (rows, vocab)
        sampling: _SamplingBatch,
        tokens: NDArray[int32],  # (rows,) -1 where the row failed
        errors: NDArray[int32],  # (rows,) indices of sampling_failures.BY_CODE
        logprobs: NDArray[float32],  # (rows,)
        num_top: NDArray[int32],  # (rows,) how many of the next two are written
        top_ids: NDArray[int32],  # (rows, as many as the row that wants most gets)
        top_logprobs: NDArray[float32],  # like top_ids
    ) -> None:
        """Draws a token from each row and scores it. The arrays from `tokens` on are written."""

    def score(
        self,
        logits: NDArray[float32],  # (rows, vocab)
        targets: NDArray[int32],  # (rows,)
        wanted: NDArray[int32],  # (rows,) how many of the most likely tokens to add
        errors: NDArray[int32],  # from here on as above
        logprobs: NDArray[float32],
        num_top: NDArray[int32],
        top_ids: NDArray[int32],
        top_logprobs: NDArray[float32],
    ) -> None:
        """Scores known tokens. The arrays from `errors` on are written."""
