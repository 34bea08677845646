"""What ``models/`` call to write a program down, one operation after the other.

Each method appends one operation and gives its value. Shapes are checked by the operations
themselves (``ir.py``); a mistake there is a bug of the model's file, and fails an assertion.
"""

from __future__ import annotations

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
    Operation,
    Program,
    Rotary,
    RotaryTable,
    Scale,
    Take,
    Value,
    Weight,
)


class ProgramBuilder:
    """Collects the operations of one program."""

    def __init__(self, max_model_len: int) -> None:
        self._max_model_len = max_model_len
        self._operations: list[Operation] = []
        self._num_layers = 0

    def embed_tokens(self, table: Weight) -> Value:
        """The table's row of each token's id."""
        return self._append(Embed(table, EmbedBy.TOKEN))

    def embed_positions(self, table: Weight) -> Value:
        """The table's row of each token's position."""
        return self._append(Embed(table, EmbedBy.POSITION))

    def rms_norm(self, x: Value, weight: Weight, *, eps: float) -> Value:
        return self._append(Norm(x, weight, None, NormKind.RMS, eps))

    def layer_norm(self, x: Value, weight: Weight, bias: Weight, *, eps: float) -> Value:
        return self._append(Norm(x, weight, bias, NormKind.LAYER, eps))

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> Value:
        return self._append(Linear(x, weight, bias))

    def rotary(self, x: Value, table: RotaryTable, *, num_heads: int) -> Value:
        return self._append(Rotary(x, table, num_heads, x.features // num_heads))

    def head_norm(self, x: Value, weight: Weight, *, num_heads: int, eps: float) -> Value:
        return self._append(HeadNorm(x, weight, num_heads, eps))

    def attend(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        num_heads: int,
        num_kv_heads: int,
        scale: float,
        window: int | None = None,
    ) -> Value:
        """The next attention layer."""
        layer = self._num_layers
        self._num_layers += 1
        head_dim = q.features // num_heads
        return self._append(
            Attend(q, k, v, layer, num_heads, num_kv_heads, head_dim, scale, window)
        )

    def activate(self, x: Value, function: Activation) -> Value:
        return self._append(Activate(x, function))

    def glu(self, gate: Value, up: Value, function: Activation) -> Value:
        return self._append(Glu(gate, up, function))

    def add(self, a: Value, b: Value) -> Value:
        return self._append(Add(a, b))

    def scale(self, x: Value, factor: float) -> Value:
        return self._append(Scale(x, factor))

    def take(self, x: Value) -> Value:
        """From here on only the rows whose logits are wanted."""
        return self._append(Take(x))

    def finish(self, x: Value, weight: Weight) -> Program:
        """Append the logits; the program is complete."""
        self._append(Logits(x, weight))
        return Program(tuple(self._operations), self._max_model_len)

    def _append(self, operation: Operation) -> Value:
        rows, features = operation.shape
        self._operations.append(operation)
        return Value(len(self._operations) - 1, features, rows)
