"""Walks a program and calls one method for each operation; nothing here computes.

For backends that have only those methods. A backend that compiles whole programs does not need
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from octavo.program.ir import (
    Activate,
    Add,
    Attend,
    Embed,
    Glu,
    HeadNorm,
    Linear,
    Logits,
    Norm,
    Operation,
    Program,
    Rotary,
    RowKind,
    Scale,
    Take,
    inputs_of,
)

Array = TypeVar("Array")
StepT_contra = TypeVar("StepT_contra", contravariant=True)
StepT = TypeVar("StepT")


class Operations(Protocol[StepT_contra, Array]):
    """What a backend offers: a method an operation, given its inputs in the order of its fields.

    ``step`` is whatever the backend needs to know of the batch. Inputs must not be changed, since
    other operations may read them too.
    """

    def embed(self, operation: Embed, step: StepT_contra) -> Array: ...
    def norm(self, operation: Norm, step: StepT_contra, x: Array) -> Array: ...
    def linear(self, operation: Linear, step: StepT_contra, x: Array) -> Array: ...
    def rotary(self, operation: Rotary, step: StepT_contra, x: Array) -> Array: ...
    def head_norm(self, operation: HeadNorm, step: StepT_contra, x: Array) -> Array: ...
    def attend(
        self, operation: Attend, step: StepT_contra, q: Array, k: Array, v: Array
    ) -> Array: ...
    def activate(self, operation: Activate, step: StepT_contra, x: Array) -> Array: ...
    def glu(self, operation: Glu, step: StepT_contra, gate: Array, up: Array) -> Array: ...
    def add(self, operation: Add, step: StepT_contra, a: Array, b: Array) -> Array: ...
    def scale(self, operation: Scale, step: StepT_contra, x: Array) -> Array: ...
    def take(self, operation: Take, step: StepT_contra, x: Array) -> Array: ...
    def logits(self, operation: Logits, step: StepT_contra, x: Array) -> Array: ...


class Interpreter(Generic[StepT, Array]):
    """A program bound to the methods of a backend.

    The operations on all tokens run once a step, those on the rows that sample once a block of
    such rows.
    """

    def __init__(self, program: Program, operations: Operations[StepT, Array]) -> None:
        methods: dict[type[Operation], Callable[..., Array]] = {
            Embed: operations.embed,
            Norm: operations.norm,
            Linear: operations.linear,
            Rotary: operations.rotary,
            HeadNorm: operations.head_norm,
            Attend: operations.attend,
            Activate: operations.activate,
            Glu: operations.glu,
            Add: operations.add,
            Scale: operations.scale,
            Take: operations.take,
            Logits: operations.logits,
        }
        last_reader = {
            value.index: index
            for index, operation in enumerate(program.operations)
            for value in inputs_of(operation)
        }
        self._token_calls: list[_Call[Array]] = []
        self._head_calls: list[_Call[Array]] = []
        for index, operation in enumerate(program.operations):
            inputs = tuple(value.index for value in inputs_of(operation))
            rows, _ = operation.shape
            calls = self._token_calls if rows is RowKind.TOKENS else self._head_calls
            unread = tuple(value for value in dict.fromkeys(inputs) if last_reader[value] == index)
            calls.append(_Call(index, methods[type(operation)], operation, inputs, unread))

    def run_tokens(self, step: StepT) -> dict[int, Array]:
        """Compute the values of all tokens; those that :meth:`run_heads` needs come back."""
        values: dict[int, Array] = {}
        for call in self._token_calls:
            call.run(step, values)
            for index in call.unread:
                del values[index]
        return values

    def run_heads(self, step: StepT, values: dict[int, Array]) -> Array:
        """The logits of one block of rows, from what :meth:`run_tokens` gave."""
        values = dict(values)
        for call in self._head_calls:
            call.run(step, values)
        return values[self._head_calls[-1].index]


@dataclass(frozen=True, slots=True)
class _Call(Generic[Array]):
    """One operation, resolved: which method, and which values go in."""

    index: int
    method: Callable[..., Array]
    operation: Operation
    inputs: tuple[int, ...]
    unread: tuple[int, ...]
    """Inputs that no later operation reads."""

    def run(self, step: object, values: dict[int, Array]) -> None:
        inputs = [values[index] for index in self.inputs]
        values[self.index] = self.method(self.operation, step, *inputs)
