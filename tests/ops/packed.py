"""Packed weights for tests of products: matrices, their panels, and what twins make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.backends import canonical, canonical_products
from octavo.backends.products import multiply, prepare
from octavo.weights import formats
from tests.ops.helpers import F32, normal

FLUSHING = ("avx512bf16", "amx")
"""The instruction sets whose bfloat16 products take and give denormals as zeros."""

# Rows on both sides of every block of rows (3, 4, 6, 12) and of tiles that are not full; depths
# around the groups of 32 and 128; columns around the panels of 32.
SHAPES = [
    (1, 128, 32),
    (1, 1, 1),
    (2, 33, 31),
    (3, 127, 33),
    (4, 128, 64),
    (5, 129, 40),
    (6, 300, 20),
    (7, 64, 70),
    (8, 256, 32),
    (9, 31, 5),
    (10, 130, 65),
    (11, 97, 32),
    (12, 384, 40),
    (13, 160, 33),
    (25, 255, 64),
    (48, 128, 32),
    (64, 40, 33),
]


def packed(products: _native.Products, name: str, weights: NDArray[Any]) -> NDArray[np.uint8]:
    panels = np.full(formats.FORMATS[name].shape(*weights.shape), 0xA5, np.uint8)
    assert products.pack(name, weights, panels)
    return panels


def product(
    products: _native.Products,
    name: str,
    x: F32,
    panels: NDArray[np.uint8],
    unpack: bool | None = None,
) -> F32:
    out = np.full((len(x), len(panels) * formats.PANEL_COLUMNS), -7.5, np.float32)
    multiply(products, prepare(products, name, x), panels, out, unpack)
    return out


def expected_product(instruction_set: str, name: str, x: F32, panels: NDArray[np.uint8]) -> F32:
    """By the twins, over all columns of the panels."""
    columns = len(panels) * formats.PANEL_COLUMNS
    if name in ("w8", "w4"):
        matrix = formats.unpack_integers(name, panels)
        rows = canonical_products.prepare_int8(x)
        return canonical_products.product_int8(
            rows, matrix.values, matrix.scales.astype(np.float32)
        )
    if name == "f32":
        weights = formats.unpack(name, panels, columns, x.shape[1])
        return canonical.product(x, np.ascontiguousarray(weights.T))
    depth = x.shape[1] + x.shape[1] % 2
    even = np.zeros((len(x), depth), np.float32)
    even[:, : x.shape[1]] = x
    return canonical_products.product_bf16(
        formats.bf16_bits(even),
        formats.bf16_bits(formats.unpack(name, panels, columns, depth)),
        flushes=instruction_set in FLUSHING,
    )


def weights(rng: np.random.Generator, columns: int, depth: int) -> F32:
    return normal(rng, columns, depth) * np.float32(0.03)
