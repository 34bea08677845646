"""Arrays for the native products of packed weights: for tests and `octavo bench kernels`.

The native executor keeps its own memory and does not come by here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo._native import Products, ThreadPool
from octavo.backends.cpu import unusable_instruction_set
from octavo.weights.formats import FORMATS, GROUP, SMALL_GROUP

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_VALUES: dict[str, Any] = {"f32": np.float32, "bf16": np.uint16, "int8": np.int8}
"""What an operand's values are."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Rows in the order that a product with weights of a format reads (csrc/kernels/layout.h)."""

    weights: str
    """The format of the weights that the rows meet."""
    values: NDArray[Any]
    scales: F32 | None = None
    corrections: NDArray[np.int32] | None = None
    corrections_4: NDArray[np.int32] | None = None

    @classmethod
    def empty(cls, weights: str, rows: int, depth: int) -> Operand:
        """Memory for so many rows; `prepare` fills it."""
        form = FORMATS[weights]
        padded = -(-depth // form.unit) * form.unit
        values = np.empty(rows * padded, _VALUES[form.operand])
        if form.operand != "int8":
            return cls(weights, values)
        groups = rows * (padded // GROUP)
        small_groups = rows * (padded // SMALL_GROUP)
        return cls(
            weights,
            values,
            np.empty(groups, np.float32),
            np.empty(groups, np.int32),
            np.empty(small_groups, np.int32),
        )


def products_of(num_threads: int, instruction_set: str = "") -> Products:
    """The kernels of an instruction set (by default the best) on a pool of their own.

    Raises:
        ConfigError: the instruction set is unknown or not usable here.
    """
    try:
        return Products(ThreadPool(num_threads), instruction_set)
    except ValueError as error:
        raise unusable_instruction_set(instruction_set, error) from None


def prepare(products: Products, weights: str, x: F32) -> Operand:
    """Rows (rows, k) for a product with weights of that format."""
    operand = Operand.empty(weights, *x.shape)
    products.prepare(
        weights, x, operand.values, operand.scales, operand.corrections, operand.corrections_4
    )
    return operand


def multiply(
    products: Products,
    operand: Operand,
    panels: U8,  # (num_panels, bytes of one)
    out: F32,  # (rows, num_panels * 32)
    unpack: bool | None = None,
) -> None:
    """The operand's rows times the columns of the panels."""
    products.multiply(
        operand.weights,
        operand.values,
        operand.scales,
        operand.corrections,
        operand.corrections_4,
        panels,
        out,
        unpack,
    )
