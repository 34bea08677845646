"""A model as a program: a list of operations, each operation's shapes written once, here.

Values are ``[rows, features]`` float32 arrays, ragged over the tokens of a step: their rows are
either all tokens of the batch or, after ``Take``, only the rows whose logits are wanted. Each
operation gives one value, and reads values of operations before it. An operation names the
weights it reads; a backend decides how they are stored. Nothing here computes, and nothing here
knows an architecture.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from octavo.core.kv_layout import KVGroup


class RowKind(enum.Enum):
    """Which rows a value has."""

    TOKENS = "tokens"
    """One for each token of the batch."""
    HEADS = "heads"
    """One for each row that is sampled or scored."""


class EmbedBy(enum.Enum):
    """What picks the row of an embedding table."""

    TOKEN = "token"
    POSITION = "position"


class NormKind(enum.Enum):
    """How a row is normalised."""

    RMS = "rms"
    """Divided by its root mean square (Zhang and Sennrich, 2019)."""
    LAYER = "layer"
    """Its mean taken off, then divided by its standard deviation (Ba et al., 2016)."""


class Activation(enum.Enum):
    """A function of one number."""

    SILU = "silu"
    """x * sigmoid(x)"""
    GELU_TANH = "gelu_tanh"
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))"""
    RELU = "relu"
    """max(x, 0)"""


@dataclass(frozen=True, slots=True)
class Value:
    """What operation number ``index`` gives, ``[rows, features]``."""

    index: int
    features: int
    rows: RowKind = RowKind.TOKENS

    def __str__(self) -> str:
        return f"%{self.index}"


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint as an operation wants it: ``shape`` after slicing, transposing.

    Rows ``[first_row, first_row + shape[0])`` are taken of the (transposed) tensor; a fused
    checkpoint tensor is thus several weights.
    """

    tensor: str
    shape: tuple[int, ...]
    transposed: bool = False
    """The checkpoint stores (in, out) where a linear operation wants (out, in)."""
    first_row: int = 0
    num_tensor_rows: int | None = None
    """Rows of the whole (transposed) tensor, where it has more than ``shape[0]``."""
    also_named: str | None = None
    """Another name under which a checkpoint may have it: a tied embedding saved as the head."""

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape that the checkpoint must have."""
        whole = self.shape
        if self.num_tensor_rows is not None:
            assert self.first_row + self.shape[0] <= self.num_tensor_rows
            whole = (self.num_tensor_rows, *self.shape[1:])
        return whole[::-1] if self.transposed else whole

    def __str__(self) -> str:
        turned = ".T" if self.transposed else ""
        part = ""
        if self.num_tensor_rows not in (None, self.shape[0]):
            part = f"[{self.first_row}:{self.first_row + self.shape[0]}]"
        return f"{self.tensor}{turned}{part}"


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """The angles of a rotary embedding, fixed when a model is loaded (Su et al., 2021).

    At position p, pair i of a head turns by ``p * frequencies[i]`` radians, and its length is
    multiplied by ``magnitude``. Pair i is features i and i + ``len(frequencies)`` of the head;
    features from ``rotary_dim`` on pass unchanged.
    """

    frequencies: tuple[float, ...]
    magnitude: float
    num_positions: int

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.frequencies)

    def __str__(self) -> str:
        return f"rotary({self.rotary_dim} of a head, {self.num_positions} positions)"


@dataclass(frozen=True, slots=True)
class Embed:
    """One row of the table for each token: ``[tokens, features]``."""

    table: Weight  # (entries, features)
    by: EmbedBy

    @property
    def shape(self) -> tuple[RowKind, int]:
        _, features = self.table.shape
        return RowKind.TOKENS, features


@dataclass(frozen=True, slots=True)
class Norm:
    """Each row normalised, times ``weight``, plus ``bias``. ``eps`` is added under the root."""

    x: Value
    weight: Weight  # (features,)
    bias: Weight | None  # (features,)
    kind: NormKind
    eps: float

    @property
    def shape(self) -> tuple[RowKind, int]:
        assert self.weight.shape == (self.x.features,)
        assert self.bias is None or self.bias.shape == self.weight.shape
        return self.x.rows, self.x.features


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weight.T + bias``: ``[rows, in] -> [rows, out]``."""

    x: Value
    weight: Weight  # (out, in)
    bias: Weight | None  # (out,)

    @property
    def shape(self) -> tuple[RowKind, int]:
        num_out, num_in = self.weight.shape
        assert num_in == self.x.features
        assert self.bias is None or self.bias.shape == (num_out,)
        return self.x.rows, num_out


@dataclass(frozen=True, slots=True)
class Rotary:
    """Each head of queries or keys turned by the angles of its token's position."""

    x: Value  # [tokens, heads * head_dim]
    table: RotaryTable
    num_heads: int
    head_dim: int

    @property
    def shape(self) -> tuple[RowKind, int]:
        assert self.x.rows is RowKind.TOKENS
        assert self.x.features == self.num_heads * self.head_dim
        assert 0 < self.table.rotary_dim <= self.head_dim
        return RowKind.TOKENS, self.x.features


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Each head of queries or keys divided by its root mean square, times ``weight``."""

    x: Value  # [rows, heads * head_dim]
    weight: Weight  # (head_dim,)
    num_heads: int
    eps: float

    @property
    def shape(self) -> tuple[RowKind, int]:
        (head_dim,) = self.weight.shape
        assert self.x.features == self.num_heads * head_dim
        return self.x.rows, self.x.features


@dataclass(frozen=True, slots=True)
class Attend:
    """Causal attention of each token to its sequence, through the pages of keys and values.

    The step's own keys and values are written into their pages first and read back from there.
    Query head h attends with KV head ``h // (num_heads // num_kv_heads)``; scores are multiplied
    by ``scale``. With a window of W a token sees itself and the W - 1 tokens before it.
    """

    q: Value  # [tokens, num_heads * head_dim]
    k: Value  # [tokens, num_kv_heads * head_dim]
    v: Value  # [tokens, num_kv_heads * head_dim]
    layer: int
    """Number of this attention layer in the program, from 0."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None

    @property
    def shape(self) -> tuple[RowKind, int]:
        assert self.q.rows is self.k.rows is self.v.rows is RowKind.TOKENS
        assert self.num_heads % self.num_kv_heads == 0
        assert self.q.features == self.num_heads * self.head_dim
        assert self.k.features == self.v.features == self.num_kv_heads * self.head_dim
        assert self.window is None or self.window > 0
        return RowKind.TOKENS, self.q.features


@dataclass(frozen=True, slots=True)
class Activate:
    """``function(x)``, element by element."""

    x: Value
    function: Activation

    @property
    def shape(self) -> tuple[RowKind, int]:
        return self.x.rows, self.x.features


@dataclass(frozen=True, slots=True)
class Glu:
    """``function(gate) * up``, element by element (Shazeer, 2020)."""

    gate: Value
    up: Value
    function: Activation

    @property
    def shape(self) -> tuple[RowKind, int]:
        assert (self.gate.rows, self.gate.features) == (self.up.rows, self.up.features)
        return self.gate.rows, self.gate.features


@dataclass(frozen=True, slots=True)
class Add:
    """``a + b``, element by element."""

    a: Value
    b: Value

    @property
    def shape(self) -> tuple[RowKind, int]:
        assert (self.a.rows, self.a.features) == (self.b.rows, self.b.features)
        return self.a.rows, self.a.features


@dataclass(frozen=True, slots=True)
class Scale:
    """``x * factor``, the factor rounded to float32."""

    x: Value
    factor: float

    @property
    def shape(self) -> tuple[RowKind, int]:
        return self.x.rows, self.x.features


@dataclass(frozen=True, slots=True)
class Take:
    """Of the rows of all tokens, those whose logits are wanted."""

    x: Value  # [tokens, features]

    @property
    def shape(self) -> tuple[RowKind, int]:
        assert self.x.rows is RowKind.TOKENS
        return RowKind.HEADS, self.x.features


@dataclass(frozen=True, slots=True)
class Logits:
    """``x @ weight.T``: ``[heads, features] -> [heads, vocabulary]``.

    ``weight`` may be the table of an ``Embed`` too; then the two are one weight.
    """

    x: Value
    weight: Weight  # (vocabulary, features)

    @property
    def shape(self) -> tuple[RowKind, int]:
        vocabulary, features = self.weight.shape
        assert self.x.rows is RowKind.HEADS
        assert self.x.features == features
        return RowKind.HEADS, vocabulary


Operation: TypeAlias = (
    Embed
    | Norm
    | Linear
    | Rotary
    | HeadNorm
    | Attend
    | Activate
    | Glu
    | Add
    | Scale
    | Take
    | Logits
)


def inputs_of(operation: Operation) -> tuple[Value, ...]:
    """The values that an operation reads, in the order of its fields."""
    return tuple(field for field in _fields(operation) if isinstance(field, Value))


def weights_of(operation: Operation) -> tuple[Weight, ...]:
    """The weights that an operation reads, in the order of its fields."""
    return tuple(field for field in _fields(operation) if isinstance(field, Weight))


def _fields(operation: Operation) -> Iterator[object]:
    return (getattr(operation, field.name) for field in dataclasses.fields(operation))


@dataclass(frozen=True, slots=True)
class Program:
    """A model: operation i gives value i. It ends in the logits.

    Built by ``program.builder``; an inconsistent one is a bug and fails an assertion.
    """

    operations: tuple[Operation, ...]
    max_model_len: int
    """Tokens of a sequence at the most: positions [0, max_model_len) can be computed."""

    def __post_init__(self) -> None:
        values: list[Value] = []
        num_layers = 0
        for index, operation in enumerate(self.operations):
            for value in inputs_of(operation):
                assert values[value.index] == value, f"%{index} reads {value!r}"
            rows, features = operation.shape
            values.append(Value(index, features, rows))
            if isinstance(operation, Attend):
                assert operation.layer == num_layers, "attention layers are numbered in order"
                num_layers += 1
            if isinstance(operation, Rotary):
                assert operation.table.num_positions >= self.max_model_len
            if isinstance(operation, Embed) and operation.by is EmbedBy.POSITION:
                assert operation.table.shape[0] >= self.max_model_len
        assert isinstance(self.operations[-1], Logits)

    @property
    def vocab_size(self) -> int:
        _, vocabulary = self.operations[-1].shape
        return vocabulary

    def weights(self) -> tuple[Weight, ...]:
        """Every weight, once, in the order of first use."""
        used = (weight for operation in self.operations for weight in weights_of(operation))
        return tuple(dict.fromkeys(used))

    def attention_layers(self) -> tuple[Attend, ...]:
        """The attention operations, in the order of their layers."""
        return tuple(part for part in self.operations if isinstance(part, Attend))

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """Attention layers that keep the same tokens in the same shape, in order of first use."""
        groups: dict[tuple[int | None, int, int], list[int]] = {}
        for part in self.attention_layers():
            groups.setdefault((part.window, part.num_kv_heads, part.head_dim), []).append(
                part.layer
            )
        return tuple(
            KVGroup(window, tuple(layers), num_kv_heads, head_dim)
            for (window, num_kv_heads, head_dim), layers in groups.items()
        )

    def digest(self) -> str:
        """Names everything in the program that decides bits: shapes, constants, rotary angles."""
        text = f"{self.max_model_len} {self.operations!r}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def describe(self) -> str:
        """A listing for people, one line an operation."""
        lines = [
            f"program: {len(self.operations)} operations,"
            f" sequences of up to {self.max_model_len} tokens"
        ]
        for index, operation in enumerate(self.operations):
            rows, features = operation.shape
            shape = f"{rows.value} x {features}"
            lines.append(f"%{index:<4} {type(operation).__name__.lower():<9} {shape:<15}")
            lines[-1] = f"{lines[-1]} {' '.join(_describe_fields(operation))}"
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()


def _describe_fields(operation: Operation) -> Iterator[str]:
    for field in dataclasses.fields(operation):
        content = getattr(operation, field.name)
        if isinstance(content, Value | Weight | RotaryTable):
            yield str(content)
        elif isinstance(content, enum.Enum):
            yield str(content.value)
        elif content is not None:
            yield f"{field.name}={content}"
