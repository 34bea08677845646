"""The reference backend: every operation in NumPy, plainly right.

Products, sums and transcendental functions go through the canonical kernels, whose bits depend on
their operands alone; NumPy does single IEEE operations, which are correctly rounded everywhere.
So a row's values do not depend on the batch, nor on the instruction set. Attention and the pages
of keys and values are in ``reference_attention.py``, sampling is in ``sampler.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from octavo._native import Kernels, ThreadPool
from octavo.backends.base import (
    F32,
    HEAD_BLOCK,
    I32,
    Batch,
    Limits,
    Rows,
    ScoredRows,
    WeightSource,
    closed,
)
from octavo.backends.cpu import available_cores, unusable_instruction_set
from octavo.backends.heap import keep_freed_memory
from octavo.backends.interpreter import Interpreter
from octavo.backends.reference_attention import (
    AttentionPlan,
    PagedAttention,
    PagePool,
    plan_attention,
)
from octavo.backends.rotary import rotary_tables
from octavo.backends.sampler import rows_between, sample, score
from octavo.program.ir import (
    Activate,
    Activation,
    Add,
    Attend,
    Embed,
    EmbedBy,
    Glu,
    HeadNorm,
    Linear,
    Logits,
    Norm,
    NormKind,
    Program,
    Rotary,
    RotaryTable,
    Scale,
    Take,
    Weight,
    weights_of,
)

VERSION = 1
"""Raised by every change that changes bits."""
KV_LAYOUT_VERSION = 1

_SQRT_2_OVER_PI = np.float32(0.7978845608028654)
_CUBE_TERM = np.float32(0.044715)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)


class ReferenceBackend:
    """Compiles programs to be interpreted.

    Args:
        num_threads: of the kernels; None: one for each core that this process may use. Never
            changes a bit.
        instruction_set: of the kernels; empty: the best there is. Never changes a bit.

    Raises:
        ConfigError: no such instruction set on this machine.
    """

    name = "reference"

    def __init__(self, num_threads: int | None = None, instruction_set: str = "") -> None:
        keep_freed_memory()
        pool = ThreadPool(num_threads or available_cores())
        try:
            self._kernels = Kernels(pool, instruction_set)
        except ValueError as error:
            raise unusable_instruction_set(instruction_set, error) from error

    def weight_bytes(self, program: Program) -> int:
        """Of a program's weights in memory. A tied embedding counts twice: as rows, and transposed
        for the product."""
        rows, transposed = _stored_weights(program)
        return 4 * sum(prod(weight.shape) for weight in (*rows, *transposed))

    def compile(
        self, program: Program, weights: WeightSource, limits: Limits
    ) -> ReferenceExecutable:
        """Load the weights and make room for keys and values.

        Raises:
            ModelError: a weight cannot be loaded.
        """
        return ReferenceExecutable(program, weights, limits, self._kernels)


@dataclass(frozen=True, slots=True)
class _Step:
    """What operations need to know of the batch."""

    token_ids: I32  # (tokens,)
    positions: I32  # (tokens,)
    rotary: dict[RotaryTable, tuple[F32, F32]]  # cosines, sines: (tokens, 1, rotary_dim / 2)
    attention: list[AttentionPlan]  # a KV group each
    head_rows: I32  # (heads,) rows of tokens whose logits are computed now


@dataclass(frozen=True, slots=True)
class _Held:
    """What an executable gives back when it is closed."""

    interpreter: Interpreter[_Step, F32]  # with the weights
    pools: list[PagePool]
    rotary: dict[RotaryTable, tuple[F32, F32]]
    source: WeightSource


class ReferenceExecutable:
    """A program, its weights in float32, and its pages."""

    def __init__(
        self, program: Program, weights: WeightSource, limits: Limits, kernels: Kernels
    ) -> None:
        self.kv_groups = program.kv_groups()
        self._kernels = kernels
        pools = [PagePool(group, limits.num_pages) for group in self.kv_groups]
        rotary = {
            part.table: rotary_tables(part.table)
            for part in program.operations
            if isinstance(part, Rotary)
        }
        attention = PagedAttention(kernels, pools)
        operations = _ReferenceOperations(program, weights, kernels, attention)
        self.weight_bytes = operations.weight_bytes
        interpreter = Interpreter[_Step, F32](program, operations)
        self._held: _Held | None = _Held(interpreter, pools, rotary, weights)
        self._vocab_size = program.vocab_size
        self._program_digest = program.digest()

    def numerics(self) -> dict[str, str]:
        """What decides the bits of keys and values; asks for the weights' fingerprint."""
        held = self._open()
        return {
            "backend": f"{ReferenceBackend.name} {VERSION}",
            "instruction_set": "any",
            "kv_format": f"f32 {KV_LAYOUT_VERSION}",
            "program": self._program_digest,
            "rope": _digest(held.rotary),
            "weight_format": "f32",
            "weights": held.source.fingerprint,
        }

    def run(self, batch: Batch) -> Rows:
        """Copy pages, compute every token of the batch, store its keys and values, sample."""
        held = self._open()
        # Infinities and NaN of one row are that row's failure, found by the sampler.
        with np.errstate(all="ignore"):
            step, values = self._compute(held, batch)
            token_ids = np.empty(len(batch.sample_rows), np.int32)
            scored: list[ScoredRows] = []
            failures: dict[int, str] = {}
            for block, logits in _logits(held, step, values, batch.sample_rows):
                sampling = rows_between(batch.sampling, block.start, block.stop)
                token_ids[block], scores, errors = sample(logits, sampling, self._kernels)
                scored.append(scores)
                failures.update({block.start + row: why for row, why in errors.items()})
            prompt_scored: list[ScoredRows] = []
            prompt_failures: dict[int, str] = {}
            for block, logits in _logits(held, step, values, batch.score_rows):
                targets, num_top = batch.score_targets[block], batch.score_num_top[block]
                scores, errors = score(logits, targets, num_top, self._kernels)
                prompt_scored.append(scores)
                prompt_failures.update({block.start + row: why for row, why in errors.items()})
        return Rows(
            token_ids,
            ScoredRows.joined(scored),
            ScoredRows.joined(prompt_scored),
            failures,
            prompt_failures,
        )

    def logits(self, batch: Batch, rows: I32) -> F32:
        """As :meth:`run`, but instead of sampling the logits of these rows: (rows, vocab)."""
        held = self._open()
        with np.errstate(all="ignore"):
            step, values = self._compute(held, batch)
            blocks = [logits for _, logits in _logits(held, step, values, rows)]
        return np.concatenate([np.empty((0, self._vocab_size), np.float32), *blocks])

    def seconds(self) -> dict[str, float]:
        """Nothing: this backend does not measure itself."""
        self._open()
        return {}

    def page(self, group: int, page: int) -> NDArray[np.uint8]:
        """One page's bytes, a writable view: (layers * 2 * kv heads * 16 * head_dim * 4,)."""
        return self._open().pools[group].bytes_of(page)

    def close(self) -> None:
        """Let go of weights and pages; a step that is running all the same keeps them."""
        self._held = None

    def _open(self) -> _Held:
        held = self._held
        if held is None:
            raise closed()
        return held

    def _compute(self, held: _Held, batch: Batch) -> tuple[_Step, dict[int, F32]]:
        """Everything before the heads."""
        for group, source, target in batch.page_copies.tolist():
            held.pools[group].copy(source, target)
        positions = batch.positions
        step = _Step(
            token_ids=batch.token_ids,
            positions=positions,
            rotary={
                table: (cosines[positions, None], sines[positions, None])
                for table, (cosines, sines) in held.rotary.items()
            },
            attention=[
                plan_attention(batch, index, group) for index, group in enumerate(self.kv_groups)
            ],
            head_rows=batch.sample_rows[:0],
        )
        return step, held.interpreter.run_tokens(step)


def _logits(
    held: _Held, step: _Step, values: dict[int, F32], rows: I32
) -> Iterator[tuple[slice, F32]]:
    """The logits of these rows in blocks of at most HEAD_BLOCK."""
    for start in range(0, len(rows), HEAD_BLOCK):
        block = slice(start, min(start + HEAD_BLOCK, len(rows)))
        yield block, held.interpreter.run_heads(replace(step, head_rows=rows[block]), values)


def _digest(tables: dict[RotaryTable, tuple[F32, F32]]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for cosines, sines in tables.values():
        state.update(cosines.data)
        state.update(sines.data)
    return state.hexdigest()


def _stored_weights(program: Program) -> tuple[set[Weight], set[Weight]]:
    """The weights that are kept as they are, and those kept transposed, for products."""
    transposed = {part.weight for part in program.operations if isinstance(part, Linear | Logits)}
    others = (
        weight
        for part in program.operations
        for weight in weights_of(part)
        if not (isinstance(part, Linear | Logits) and weight == part.weight)
    )
    return set(others), transposed


class _ReferenceOperations:
    """One method for each operation; see ``ir.py`` for what each computes."""

    def __init__(
        self,
        program: Program,
        weights: WeightSource,
        kernels: Kernels,
        attention: PagedAttention,
    ) -> None:
        self._kernels = kernels
        self._attention = attention
        rows, transposed = _stored_weights(program)
        self._weights: dict[Weight, F32] = {weight: weights.load(weight) for weight in rows}
        self._transposed: dict[Weight, F32] = {}  # (in, out)
        for weight in transposed:
            loaded = self._weights[weight] if weight in rows else weights.load(weight)
            self._transposed[weight] = np.ascontiguousarray(loaded.T)

    @property
    def weight_bytes(self) -> int:
        arrays = (*self._weights.values(), *self._transposed.values())
        return sum(array.nbytes for array in arrays)

    def embed(self, operation: Embed, step: _Step) -> F32:
        by_token = operation.by is EmbedBy.TOKEN
        return self._weights[operation.table][step.token_ids if by_token else step.positions]

    def norm(self, operation: Norm, step: _Step, x: F32) -> F32:
        if operation.kind is NormKind.LAYER:
            sums = np.empty(len(x), np.float32)
            self._kernels.row_sums(x, sums)
            x = x - (sums / np.float32(x.shape[1]))[:, None]
        normed = self._over_root_mean_square(x, operation.eps) * self._weights[operation.weight]
        return normed if operation.bias is None else normed + self._weights[operation.bias]

    def linear(self, operation: Linear, step: _Step, x: F32) -> F32:
        bias = None if operation.bias is None else self._weights[operation.bias]
        return self._product(x, operation.weight, bias)

    def rotary(self, operation: Rotary, step: _Step, x: F32) -> F32:
        cosines, sines = step.rotary[operation.table]
        heads = x.reshape(len(x), operation.num_heads, operation.head_dim)
        half, whole = operation.table.rotary_dim // 2, operation.table.rotary_dim
        first, second = heads[..., :half], heads[..., half:whole]
        turned = heads.copy()
        turned[..., :half] = first * cosines - second * sines
        turned[..., half:whole] = second * cosines + first * sines
        return turned.reshape(x.shape)

    def head_norm(self, operation: HeadNorm, step: _Step, x: F32) -> F32:
        weight = self._weights[operation.weight]
        heads = x.reshape(-1, len(weight))
        return (self._over_root_mean_square(heads, operation.eps) * weight).reshape(x.shape)

    def attend(self, operation: Attend, step: _Step, q: F32, k: F32, v: F32) -> F32:
        return self._attention.attend(operation, step.attention, q, k, v)

    def activate(self, operation: Activate, step: _Step, x: F32) -> F32:
        return self._activation(operation.function, x)

    def glu(self, operation: Glu, step: _Step, gate: F32, up: F32) -> F32:
        return self._activation(operation.function, gate) * up

    def add(self, operation: Add, step: _Step, a: F32, b: F32) -> F32:
        return a + b

    def scale(self, operation: Scale, step: _Step, x: F32) -> F32:
        return x * np.float32(operation.factor)

    def take(self, operation: Take, step: _Step, x: F32) -> F32:
        return x[step.head_rows]

    def logits(self, operation: Logits, step: _Step, x: F32) -> F32:
        return self._product(x, operation.weight, None)

    def _product(self, x: F32, weight: Weight, bias: F32 | None) -> F32:
        transposed = self._transposed[weight]
        out = np.empty((len(x), transposed.shape[1]), np.float32)
        self._kernels.product(x, transposed, out, bias)
        return out

    def _over_root_mean_square(self, x: F32, eps: float) -> F32:
        squares = np.empty(len(x), np.float32)
        self._kernels.row_sums_of_squares(x, squares)
        roots = np.sqrt(squares / np.float32(x.shape[1]) + np.float32(eps))
        divided: F32 = x / roots[:, None]
        return divided

    def _activation(self, function: Activation, x: F32) -> F32:
        result = np.empty_like(x)
        match function:
            case Activation.SILU:
                self._kernels.sigmoid(x, result)
                return x * result
            case Activation.GELU_TANH:
                inner = _SQRT_2_OVER_PI * (x + _CUBE_TERM * (x * x * x))
                self._kernels.tanh(inner, result)
                outer: F32 = _HALF * x * (_ONE + result)
                return outer
            case Activation.RELU:
                # Not np.maximum: the sign of its zero may depend on where an element stands.
                return np.where(x <= 0, np.float32(0.0), x)
