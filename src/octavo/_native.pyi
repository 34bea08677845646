"""Types and documentation of the native extension (csrc/module.cpp, csrc/bindings).

Arrays are C-contiguous, of the dtype shown, in native byte order; outputs are writable. An array
that is not raises TypeError with the name of the argument: nothing is converted or copied. Outputs
that overlap inputs raise ValueError. The GIL is released while kernels run. The slow twins, which
say what each function computes, are in `octavo.backends.canonical`; every instruction set and every
number of threads gives their bits (a NaN is a NaN: its payload is not part of the promise).
"""

from collections.abc import Container, Sequence
from typing import Any, Protocol

from numpy import float16, float32, int8, int32, uint8, uint16, uint32, uint64
from numpy.typing import NDArray

def cpu_features() -> dict[str, bool]:
    """What the processor has and the operating system saves the registers of, by CPUID's names."""

def request_tiles() -> bool:
    """Ask the operating system for this process's permission to use the tiles of AMX.

    It lasts as long as the process. Without it the instruction set amx is not usable.
    """

def instruction_sets(features: Container[str] | None = None) -> list[str]:
    """The instruction sets that kernels can use on this machine, slowest first; or on one with
    these features, of `cpu_features()` and "tile_permission" (`request_tiles()`)."""

def best_instruction_set(features: Container[str] | None = None) -> str:
    """What an empty name means where OCTAVO_CPU_ISA is not set: the last of `instruction_sets` that
    is not only used by name."""

def instruction_sets_only_by_name() -> list[str]:
    """Those that nothing chooses by itself, as they have not run on a real processor yet."""

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

class View:
    """Rows of float32 in the memory of a `Forward`."""

    def columns(self, first: int) -> View:
        """The same rows from this column on."""

class Operand:
    """Memory of a `Forward` that holds what a product multiplies, in tiles (csrc/kernels/layout.h).

    Filled by `prepare`, or by a gated product.
    """

class Forward:
    """A compiled program: calls in the order in which they are added, and their memory.

    Calls before `begin_heads` compute all tokens of a step, those after it the rows whose logits
    are wanted, `max_heads` of them at a time. Arrays are kept alive. Operations are those of
    `octavo.program.ir`; formats are "f32", "bf16", "w8" and "w4".

    Several threads may run steps, one after the other. `score` and `logits` are of the step that
    ran last, whoever ran it: between `run` and `score` of one batch no other thread may run.
    """

    def __init__(
        self,
        pool: ThreadPool,
        instruction_set: str,
        max_tokens: int,
        max_heads: int,
        max_model_len: int,
        joins_rows: bool,
        finds_peaks: bool,
    ) -> None:
        """`joins_rows`: neighbouring operations on rows run without a barrier between them.

        `finds_peaks`: the logits of a row that wants only the highest one are not written; it is
        found as they are computed.
        """

    @property
    def instruction_set(self) -> str: ...
    def buffer(self, features: int) -> View:
        """Room for rows of the present kind, all tokens or heads; its columns are padded to 32."""

    def operand(self, format: str, depth: int) -> Operand: ...
    def embed(
        self,
        table: NDArray[float32],  # (entries, features)
        by_position: bool,
        out: View,
    ) -> None: ...
    def embed_panels(
        self,
        format: str,
        panels: NDArray[uint8],  # (bytes of the panels,)
        depth: int,
        out: View,
    ) -> None:
        """Tokens are columns of packed weights, bf16, w8 or w4."""

    def norm(
        self,
        x: View,
        out: View,
        weight: NDArray[float32],  # (features,)
        bias: NDArray[float32] | None,
        eps: float,
        subtracts_mean: bool,
    ) -> None: ...
    def prepare(self, x: View, features: int, operand: Operand, format: str) -> None: ...
    def head_norm(
        self,
        x: View,  # in place
        num_heads: int,
        weight: NDArray[float32],  # (head_dim,)
        eps: float,
    ) -> None: ...
    def rotate(
        self,
        x: View,  # in place
        num_heads: int,
        head_dim: int,
        cosines: NDArray[float32],  # (positions, pairs)
        sines: NDArray[float32],
    ) -> None: ...
    def add(self, a: View, b: View, out: View, features: int) -> None: ...
    def scale(self, x: View, factor: float, out: View, features: int) -> None: ...
    def activate(
        self, activation: str, x: View, factor: View | None, out: View, features: int
    ) -> None: ...
    def begin_heads(self) -> None: ...
    def end_heads(self, logits: View, vocab_size: int) -> None:
        """Where the logits are. Nothing is added afterwards."""

    def take(self, x: View, features: int, out: View) -> None: ...
    def pool(
        self,
        pages: NDArray[uint8],  # (pages * bytes of a page,)
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        format: str,
    ) -> int:
        """Memory for the keys and values of a KV group; returns its number, from 0."""

    def write_kv(self, pool: int, layer: int, keys: View, values: View) -> None: ...
    def attend(
        self,
        pool: int,
        layer: int,
        heads_of_one: int,
        window: int,
        scale: float,
        queries: View,
        out: View,
    ) -> None:
        """`heads_of_one`: query heads of a KV head. `window`: 0 for none."""

    def product(
        self,
        operand: Operand,
        format: str,
        panels: NDArray[uint8],  # (bytes of the panels,)
        num_panels: int,
        depth: int,
        bias: NDArray[float32] | None,  # (num_panels * 32,)
        out: View,
    ) -> None: ...
    def product_added(
        self,
        operand: Operand,
        format: str,
        panels: NDArray[uint8],
        num_panels: int,
        depth: int,
        bias: NDArray[float32] | None,
        addend: View,
        out: View,  # may be the addend
    ) -> None: ...
    def product_gated(
        self,
        operand: Operand,
        format: str,
        panels: NDArray[uint8],  # gate and up take turns
        num_panels: int,
        depth: int,
        bias: NDArray[float32] | None,
        activation: str,
        out: View | None,
        next: Operand | None,  # filled in place of `out`
        next_format: str,
        features: int,
    ) -> None: ...
    def run(
        self,
        batch: _Batch,
        sampler: NativeSampler,  # on the same pool, for the vocabulary of the logits
        tokens: NDArray[int32],  # from here on as for `NativeSampler.sample`, of the sample_rows
        errors: NDArray[int32],
        logprobs: NDArray[float32] | None,
        num_top: NDArray[int32] | None,
        top_ids: NDArray[int32] | None,
        top_logprobs: NDArray[float32] | None,
    ) -> int:
        """Compute all tokens of a batch, and draw from the logits of its sample_rows.

        Returns how many rows failed. ValueError for what points nowhere: nothing is computed then.
        """

    def compute(self, batch: _Batch) -> None:
        """Compute all tokens, and draw none."""

    def score(
        self,
        head_rows: NDArray[int32],  # (rows,) tokens of the batch that was computed last
        sampler: NativeSampler,
        targets: NDArray[int32],  # from here on as for `NativeSampler.score`
        wanted: NDArray[int32],
        errors: NDArray[int32],
        logprobs: NDArray[float32] | None,
        num_top: NDArray[int32] | None,
        top_ids: NDArray[int32] | None,
        top_logprobs: NDArray[float32] | None,
    ) -> None:
        """Score known tokens under the logits of these rows."""

    def logits(self, head_rows: NDArray[int32]) -> NDArray[float32]:
        """Of at most `max_heads` such rows: (rows, vocab). The next ones overwrite them."""

    def profile(self, on: bool) -> None:
        """Begin, or stop, to measure how long each kind of stage takes."""

    def seconds(self) -> dict[str, float]:
        """By kind of stage, since profiling began."""

class Products:
    """Products of packed weights, for tests and measurements: the kernels of one instruction set on
    one pool.

    Formats are f32, bf16, w8 and w4 (`octavo.weights.formats`); memory is laid out as
    csrc/kernels/layout.h says. The twins are `octavo.weights.formats` for packing and
    `octavo.backends.canonical_products` for the rest. w8 and w4 have the same bits under every
    instruction set; bf16 differs with AVX512-BF16, whose instruction takes denormals as zeros.
    """

    def __init__(
        self, pool: ThreadPool, instruction_set: str = "", emulates_tiles: bool = False
    ) -> None:
        """The instruction set as for `Kernels`.

        With `emulates_tiles`, what the instruction set amx computes by tiles (w8, w4 unpacked, the
        roof of int8) goes through the same algorithm with its instructions emulated. For tests,
        with the instruction set scalar only; else ValueError.
        """

    @property
    def instruction_set(self) -> str: ...
    def pack(
        self,
        format: str,
        weights: NDArray[float32] | NDArray[float16] | NDArray[uint16],  # (out, in)
        panels: NDArray[uint8],  # (panels, bytes of one), written
    ) -> bool:
        """Weights as a checkpoint has them into panels; uint16 are the bits of bfloat16.

        False if a weight is NaN or infinite; the panels are then of no use.
        """

    def prepare(
        self,
        format: str,
        x: NDArray[float32],  # (rows, k)
        values: NDArray[Any],  # (rows * depth,) float32, uint16 (bf16) or int8 (w8, w4), written
        scales: NDArray[float32] | None = None,  # (rows * depth / 128,) for w8 and w4, written
        corrections: NDArray[int32] | None = None,  # likewise
        corrections_4: NDArray[int32] | None = None,  # (rows * depth / 32,) likewise
    ) -> None:
        """Rows as a product with weights of that format reads them."""

    def multiply(
        self,
        format: str,
        values: NDArray[Any],  # these four as `prepare` left them
        scales: NDArray[float32] | None,
        corrections: NDArray[int32] | None,
        corrections_4: NDArray[int32] | None,
        panels: NDArray[uint8],  # (panels, bytes of one)
        out: NDArray[float32],  # (rows, panels * 32), written
        unpack: bool | None = None,
    ) -> None:
        """Rows times columns.

        With `unpack`, panels of w4 are made bytes once for all tiles of rows, which changes no bit;
        None: from 48 rows on.
        """

    def embed(
        self,
        format: str,
        panels: NDArray[uint8],
        column: int,
        out: NDArray[float32],  # (depth,), written
    ) -> None:
        """One column of the panels (bf16, w8 or w4) as float32.

        ValueError for a column that there is not.
        """

    def read(self, memory: NDArray[uint8]) -> int:
        """Read memory, a multiple of 512 bytes, once; a sum over it."""

    def spin(self, kind: str, repeats: int) -> int:
        """Do nothing but products of a kind (int8, bf16, f32) on registers, eight times `repeats`
        steps a thread; how many multiplications with an addition that were."""

class AttentionKernels:
    """Paged attention of one instruction set by itself, for tests and benchmarks.

    `csrc/kernels/layout.h` says how pages of 16 tokens lie in bytes; head_dim is even and at most
    256, and `padded` is head_dim rounded up to 4. The twins are in
    `octavo.backends.canonical_attention`. bf16 follows the twin that flushes denormals where the
    instruction set is avx512bf16 or amx, the one that keeps them elsewhere; int8 gives the same
    bits everywhere. ValueError for numbers out of range.
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

class _Batch(Protocol):
    """Of the attributes of `octavo.backends.base.Batch` those that are read here."""

    token_ids: NDArray[int32]
    positions: NDArray[int32]
    row_starts: NDArray[int32]
    page_tables: Sequence[NDArray[int32]]
    sample_rows: NDArray[int32]
    @property
    def sampling(self) -> _SamplingBatch: ...

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

    Steps use it through `Forward`; the slow twin is `octavo.backends.sampler`.
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
        logprobs: NDArray[float32] | None,  # (rows,)
        num_top: NDArray[int32] | None,  # (rows,) how many of the next two are written
        top_ids: NDArray[int32] | None,  # (rows, as many as the row that wants most gets)
        top_logprobs: NDArray[float32] | None,  # like top_ids
    ) -> None:
        """Draws a token from each row and scores it. The arrays from `tokens` on are written.

        The last four are None where no row wants logprobs.
        """

    def score(
        self,
        logits: NDArray[float32],  # (rows, vocab)
        targets: NDArray[int32],  # (rows,)
        wanted: NDArray[int32],  # (rows,) how many of the most likely tokens to add
        errors: NDArray[int32],  # from here on as above
        logprobs: NDArray[float32] | None,
        num_top: NDArray[int32] | None,
        top_ids: NDArray[int32] | None,
        top_logprobs: NDArray[float32] | None,
    ) -> None:
        """Scores known tokens. The arrays from `errors` on are written."""
