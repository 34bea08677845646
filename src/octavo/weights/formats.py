"""What each format of packed weights is, and the slow twin of packing and unpacking.

    f32   32 bits a weight     as it is
    bf16  16 bits              rounded to nearest even; the relative error is at most 2^-8
    w8    8.125 bits           an integer in [-127, 127] times a float16 scale for each column and
                               128 inputs, largest / 127; the error is at most 0.51 of a scale
    w4    4.5 bits             an integer in [-8, 7] times a float16 scale (which may be negative)
                               for each column and 32 inputs, the best of eleven by the sum of
                               squared errors; the error is at most 0.51 of a scale, but for what
                               the scale cuts off

Shapes in words and with a picture: docs/concepts/kernels.md. The native packer gives these bytes,
bit for bit, under every instruction set. What is not finite has no packed form: the native packer
says so, and whoever loads a checkpoint names the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ConfigError, did_you_mean

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

PANEL_COLUMNS = 32
GROUP = 128
SMALL_GROUP = 32
_HALF = PANEL_COLUMNS // 2

_f32 = np.float32
_LARGEST_SCALE = np.float16(65504.0)

SHRINK_FACTORS = (
    *(1.0, 0.96875, 0.9375, 0.90625, 0.875, 0.84375, 0.8125, 0.78125, 0.75),
    *(1.0625, 8 / 7),
)
"""What the scale that maps the largest weight of a group to -8 is multiplied by, in the order in
which the first of the best wins; 8 / 7 maps it to -7, so that both signs reach as far."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """One way to store a matrix."""

    name: str
    bits: float
    """A weight, scales included."""
    unit: int
    """The depth (inputs) is padded to a multiple of it."""
    group: int | None
    """Inputs that share a scale."""
    operand: str
    """What a product multiplies it with: f32, bf16 or int8."""

    def panel_bytes(self, depth: int) -> int:
        """Of 32 columns (outputs) along a depth, padded here."""
        padded_depth = -(-depth // self.unit) * self.unit
        return int(padded_depth * PANEL_COLUMNS * self.bits) // 8

    def shape(self, columns: int, depth: int) -> tuple[int, int]:
        """Of the uint8 array that holds a matrix: (panels, bytes of one)."""
        return -(-columns // PANEL_COLUMNS), self.panel_bytes(depth)


FORMATS = {
    one.name: one
    for one in (
        WeightFormat("f32", 32, 1, None, "f32"),
        WeightFormat("bf16", 16, 2, None, "bf16"),
        WeightFormat("w8", 8.125, GROUP, GROUP, "int8"),
        WeightFormat("w4", 4.5, GROUP, SMALL_GROUP, "int8"),
    )
}


def find_format(name: str) -> WeightFormat:
    """The format of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or f"formats are {', '.join(FORMATS)}"
        raise ConfigError(f"unknown weight format {name!r}", hint=hint)
    return FORMATS[name]


@dataclass(frozen=True, slots=True)
class Integers:
    """A quantised matrix before it is packed."""

    values: I8
    """(columns, depth), padded."""
    scales: F16
    """(columns, depth / group)"""

    def floats(self) -> F32:
        """(columns, depth): what the integers stand for; each product is exact."""
        group = self.values.shape[1] // self.scales.shape[1]
        scales = np.repeat(self.scales.astype(np.float32), group, axis=1)
        return self.values.astype(np.float32) * scales


def pack(name: str, weights: NDArray[Any]) -> U8:
    """A matrix (out, in) of finite float32, float16 or (as uint16) bfloat16 as panels.

    The twin of the native packer. Returns `WeightFormat.shape` bytes.
    """
    form = find_format(name)
    columns, depth = weights.shape
    wide = -(-columns // PANEL_COLUMNS) * PANEL_COLUMNS
    deep = -(-depth // form.unit) * form.unit
    padded = np.zeros((wide, deep), np.float32)
    padded[:columns, :depth] = widened(weights)
    panels = len(padded) // PANEL_COLUMNS
    if name == "f32":
        by_panel = padded.reshape(panels, PANEL_COLUMNS, -1)
        return np.ascontiguousarray(by_panel.transpose(0, 2, 1)).view(np.uint8).reshape(panels, -1)
    if name == "bf16":
        pairs = bf16_bits(padded).reshape(panels, PANEL_COLUMNS, -1, 2)
        return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).view(np.uint8).reshape(panels, -1)
    return pack_integers(name, quantise_w8(padded) if name == "w8" else quantise_w4(padded))


def unpack(name: str, panels: U8, columns: int, depth: int) -> F32:
    """The matrix (columns, depth) that panels stand for."""
    find_format(name)
    if name == "f32":
        words = panels.view(np.float32).reshape(len(panels), -1, PANEL_COLUMNS)
        full = words.transpose(0, 2, 1).reshape(len(panels) * PANEL_COLUMNS, -1)
    elif name == "bf16":
        pairs = panels.view(np.uint16).reshape(len(panels), -1, PANEL_COLUMNS, 2)
        bits = pairs.transpose(0, 2, 1, 3).reshape(len(panels) * PANEL_COLUMNS, -1)
        full = widened(np.ascontiguousarray(bits))
    else:
        full = unpack_integers(name, panels).floats()
    return np.ascontiguousarray(full[:columns, :depth])


def quantise_w8(weights: F32) -> Integers:
    """Integers and scales of a padded matrix.

    The scale is largest / 127, rounded to float16; where that would cut off more than half a step
    (it is a denormal number then), the next float16 above.
    """
    groups = weights.reshape(len(weights), -1, GROUP)
    largest = np.abs(groups).max(axis=2)
    scales = _to_f16(largest / _f32(127.0))
    cuts = (largest > _f32(127.5) * scales.astype(np.float32)) & (scales < _LARGEST_SCALE)
    scales = np.where(cuts, (scales.view(np.uint16) + np.uint16(1)).view(np.float16), scales)
    return Integers(_integers(groups, scales, -127.0, 127.0).reshape(weights.shape), scales)


def quantise_w4(weights: F32) -> Integers:
    """Integers and scales of a padded matrix.

    Tried are the scales that map the largest weight to -8, times each of SHRINK_FACTORS, rounded
    to float16; the first with the least error wins. An error is the sum of (w - q * scale)^2 over
    the inputs, ascending, each operation rounded to float32.
    """
    groups = weights.reshape(len(weights), -1, SMALL_GROUP)
    highest = np.maximum(groups.max(axis=2), _f32(0.0))
    lowest = np.minimum(groups.min(axis=2), _f32(0.0))
    bases = np.where(highest >= -lowest, highest, lowest) / _f32(-8.0)
    least = np.full(bases.shape, np.inf, np.float32)
    best = np.zeros(bases.shape, np.float16)
    for factor in SHRINK_FACTORS:
        scales = _to_f16(bases * _f32(factor))
        values = _integers(groups, scales, -8.0, 7.0).astype(np.float32)
        errors = np.zeros(bases.shape, np.float32)
        with np.errstate(over="ignore"):
            differences = groups - values * scales.astype(np.float32)[..., np.newaxis]
            for k in range(SMALL_GROUP):
                errors = errors + differences[..., k] * differences[..., k]
        best = np.where(errors < least, scales, best)
        least = np.minimum(errors, least)
    return Integers(_integers(groups, best, -8.0, 7.0).reshape(weights.shape), best)


def pack_integers(name: str, matrix: Integers) -> U8:
    """Panels of w8 or w4."""
    group = GROUP if name == "w8" else SMALL_GROUP
    panels = len(matrix.values) // PANEL_COLUMNS
    # (panel, group, four, column, value of the four)
    fours = matrix.values.reshape(panels, PANEL_COLUMNS, -1, group // 4, 4).transpose(0, 2, 3, 1, 4)
    if name == "w8":
        stored: U8 = (fours.astype(np.int16) + 128).astype(np.uint8)
    else:
        nibbles: U8 = (fours + np.int8(8)).astype(np.uint8)
        stored = nibbles[..., :_HALF, :] | nibbles[..., _HALF:, :] << np.uint8(4)
    by_panel = matrix.scales.reshape(panels, PANEL_COLUMNS, -1)
    scales = np.ascontiguousarray(by_panel.transpose(0, 2, 1))
    num_groups = scales.shape[1]
    parts = (scales.view(np.uint8), stored.reshape(panels, num_groups, -1))
    return np.concatenate(parts, axis=2).reshape(panels, -1)


def unpack_integers(name: str, panels: U8) -> Integers:
    """The inverse of `pack_integers`."""
    group = GROUP if name == "w8" else SMALL_GROUP
    by_group = panels.reshape(len(panels), -1, FORMATS[name].panel_bytes(GROUP) * group // GROUP)
    num_groups = by_group.shape[1]
    scales = np.ascontiguousarray(by_group[..., : PANEL_COLUMNS * 2]).view(np.float16)
    stored = by_group[..., PANEL_COLUMNS * 2 :]
    if name == "w8":
        values = (stored.astype(np.int16) - 128).astype(np.int8)
    else:
        halves = stored.reshape(len(panels), num_groups, group // 4, 1, _HALF, 4)
        both = np.concatenate([halves & 0x0F, halves >> 4], axis=3)
        values = both.astype(np.int8) - np.int8(8)
    fours = values.reshape(len(panels), num_groups, group // 4, PANEL_COLUMNS, 4)
    columns = len(panels) * PANEL_COLUMNS
    return Integers(
        fours.transpose(0, 3, 1, 2, 4).reshape(columns, -1),
        scales.transpose(0, 2, 1).reshape(columns, -1),
    )


def widened(weights: NDArray[Any]) -> F32:
    """float32, float16 or (as uint16) bfloat16 as float32; exact."""
    if weights.dtype == np.uint16:
        return (weights.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return weights.astype(np.float32)


def bf16_bits(x: F32) -> U16:
    """Rounded to nearest even; a NaN stays one and becomes quiet."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def count_changed_by_bf16(weights: F16) -> int:
    """How many float16 weights are other numbers in bfloat16: it has three bits less."""
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    with np.errstate(invalid="ignore"):
        exact = every.view(np.float16).astype(np.float32)
        changes = (widened(bf16_bits(exact)) != exact) & ~np.isnan(exact)
    counts = np.bincount(weights.reshape(-1).view(np.uint16), minlength=2**16)
    return int(counts[changes].sum())


def _to_f16(x: F32) -> F16:
    """Nearest even; what is too large becomes the largest number."""
    with np.errstate(over="ignore"):
        rounded = x.astype(np.float16)
    return np.clip(rounded, -_LARGEST_SCALE, _LARGEST_SCALE)


def _integers(groups: F32, scales: F16, low: float, high: float) -> I8:
    """round(w * (1 / scale)), nearest even, within [low, high]; 0 where the scale is 0."""
    wide = scales.astype(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        inverses = np.where(wide == 0, _f32(0.0), _f32(1.0) / wide)
        scaled = groups * inverses[..., np.newaxis]
    return np.rint(np.clip(scaled, _f32(low), _f32(high))).astype(np.int8)
