"""A model as a program: a list of operations over named values, each operation's shapes once.

Values are ``[rows, features]`` float32 arrays, ragged over the tokens of a step: their rows are
either all tokens of the batch or, after ``Take``, only the rows whose logits are wanted. An
operation names the weights it reads; a backend decides how they are stored. Nothing here computes,
and nothing here knows an architecture.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from octavo.core.kv_layout import KVGroup


class RowKind(enum.Enum):
    """Which rows a value has."""

    TOKENS = "tokens"
    """One for each token of the batch."""
    HEADS = "heads"
    """One for each row that is sampled or scored."""


@dataclass(frozen=True, slots=True)
class Value:
    """The result of one operation, ``[rows, features]``."""

    index: int
    features: int
    rows: RowKind = RowKind.TOKENS


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

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape that the checkpoint must have."""
        whole = (self.num_tensor_rows or self.shape[0], *self.shape[1:])
        return whole[::-1] if self.transposed else whole
