"""Turns neighbouring operations into products with more than one weight and a finish.

For backends that compute a product's results block by block: what becomes of a block while it is
in the cache costs next to nothing. A fused program computes the same bits. Each fusion can be
switched off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

from octavo.program.ir import (
    Add,
    Glu,
    Linear,
    Logits,
    Operation,
    Program,
    Value,
    inputs_of,
)


@dataclass(frozen=True, slots=True)
class Fusions:
    """Which fusions are made."""

    stack: bool = True
    """Products of one value become one product: queries, keys and values; gate and up."""
    gate: bool = True
    """A gate is applied as its two factors are computed."""
    add: bool = True
    """A product is added to the residual stream as it is computed."""
    highest: bool = True
    """Of a row that wants only its highest logit, this one is found as they are computed, and none
    is written. The program stays as it is: the backend looks at this itself."""


NO_FUSIONS = Fusions(stack=False, gate=False, add=False, highest=False)


@dataclass(frozen=True, slots=True)
class Product:
    """Products of one value: ``x @ weight.T + bias`` of each part.

    Without a finish each part gives its own value. ``gate``: there are two parts, and the product
    gives the value of the ``Glu``. ``addend``: there is one part, and the product gives the value
    of the ``Add``.
    """

    x: Value
    parts: tuple[Linear | Logits, ...]
    values: tuple[int, ...]
    """The numbers of the values that it gives: one a part, or one for all."""
    gate: Glu | None = None
    addend: Value | None = None


FusedOperation: TypeAlias = Product | Operation
"""Never a ``Linear`` or ``Logits``; those are parts of products."""


@dataclass(frozen=True, slots=True)
class Fused:
    """The calls of a program in the order in which they are computed, with their values."""

    operations: tuple[tuple[tuple[int, ...], FusedOperation], ...]
    """Numbers of the values given, and what gives them."""


def fuse(
    program: Program,
    fusions: Fusions,
    stacks_with: Callable[[Linear], Hashable] = lambda linear: None,
) -> Fused:
    """Make the fusions.

    Args:
        stacks_with: parts are stacked only where this is equal; a backend's weight format.
    """
    operations = program.operations
    readers = Counter(value.index for part in operations for value in inputs_of(part))
    products: dict[int, Product] = {}  # by where they are computed
    gone: set[int] = set()  # operations that became part of another
    if fusions.gate:
        for index, part in enumerate(operations):
            if isinstance(part, Glu):
                pair = [operations[value.index] for value in (part.gate, part.up)]
                if _may_gate(pair, part, readers) and (
                    stacks_with(pair[0]) == stacks_with(pair[1])  # type: ignore[arg-type]
                ):
                    products[index] = Product(pair[0].x, tuple(pair), (index,), gate=part)  # type: ignore[union-attr, arg-type]
                    gone.update((part.gate.index, part.up.index))
    if fusions.add:
        for index, part in enumerate(operations):
            if isinstance(part, Add):
                for value, other in ((part.b, part.a), (part.a, part.b)):
                    linear = operations[value.index]
                    if (
                        isinstance(linear, Linear)
                        and readers[value.index] == 1
                        and value.index not in gone
                        and value.index != other.index
                    ):
                        products[index] = Product(linear.x, (linear,), (index,), addend=other)
                        gone.add(value.index)
                        break
    stacks: dict[tuple[int, Hashable], list[int]] = {}
    for index, part in enumerate(operations):
        if isinstance(part, Linear) and index not in gone:
            key = (part.x.index, stacks_with(part)) if fusions.stack else (index, None)
            stacks.setdefault(key, []).append(index)
        elif isinstance(part, Logits):
            stacks[index, "logits"] = [index]
    for members in stacks.values():
        parts = tuple(operations[member] for member in members)
        products[members[0]] = Product(parts[0].x, parts, tuple(members))  # type: ignore[union-attr, arg-type]
        gone.update(members)
    result: list[tuple[tuple[int, ...], FusedOperation]] = []
    for index, part in enumerate(operations):
        if index in products:
            result.append((products[index].values, products[index]))
        elif index not in gone:
            result.append(((index,), part))
    return Fused(tuple(result))


def _may_gate(pair: list[Operation], glu: Glu, readers: Counter[int]) -> bool:
    gate, up = pair
    return (
        isinstance(gate, Linear)
        and isinstance(up, Linear)
        and gate.x == up.x
        and (gate.bias is None) == (up.bias is None)
        and glu.gate != glu.up
        and readers[glu.gate.index] == readers[glu.up.index] == 1
    )
