"""Products of quantised and bfloat16 weights in plain NumPy: what the native kernels must give.

The specification in readable form, as `canonical`, and slow. Integers are exact; the floating part
of an element is one sequence, whatever the other rows, tiles and threads. Nothing here calls the
native extension. Weights come as integers and scales (`octavo.weights.formats` unpacks panels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.backends.canonical import F32, fma

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
U16 = NDArray[np.uint16]

GROUP = 128
SMALL_GROUP = 32
MAX_TILE_ROWS = 12
SMALLEST_PEAK = np.float32(2.0**-120)

_f32 = np.float32


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """Activations as the products of w8 and w4 take them."""

    values: I8
    """(rows, depth), the depth padded to 128"""
    scales: F32
    """(rows, depth / 128)"""

    @property
    def corrections(self) -> I32:
        """(rows, depth / 128): what weights stored as value + 128 add too much."""
        return self._sums(GROUP) * np.int32(-128)

    @property
    def corrections_4(self) -> I32:
        """(rows, depth / 32): what weights stored as value + 8 add too much."""
        return self._sums(SMALL_GROUP) * np.int32(-8)

    def _sums(self, group: int) -> I32:
        grouped = self.values.reshape(len(self.values), -1, group)
        sums: I32 = grouped.sum(axis=2, dtype=np.int32)
        return sums


def prepare_int8(x: F32) -> Int8Rows:
    """Quantise rows (rows, k) by groups of 128, padded with zeros.

    scale = largest / 127 and q = round(x * (127 / largest)), nearest even, where largest is the
    largest magnitude of the group. A group below 2^-120 is all zeros with the scale 0. A group with
    a NaN or an infinity is all zeros with the scale NaN, which makes the row's results NaN.
    """
    rows, k = x.shape
    padded = np.zeros((rows, -(-k // GROUP) * GROUP), np.float32)
    padded[:, :k] = x
    groups = padded.reshape(rows, -1, GROUP)
    largest = np.abs(groups).max(axis=2)  # NaN if there is one
    good = np.isfinite(largest) & (largest >= SMALLEST_PEAK)
    safe = np.where(good, largest, _f32(1.0))
    inverses = np.where(good, _f32(127.0) / safe, _f32(0.0))
    finite = np.where(good[..., np.newaxis], groups, _f32(0.0))
    values = np.rint(finite * inverses[..., np.newaxis]).astype(np.int8)
    otherwise = np.where(np.isfinite(largest), _f32(0.0), _f32(np.nan))
    scales = np.where(good, safe / _f32(127.0), otherwise)
    return Int8Rows(values.reshape(padded.shape), scales)


def product_int8(rows: Int8Rows, values: I8, scales: F32) -> F32:
    """Rows times weights (columns, depth) with scales (columns, depth / group): (rows, columns).

    For each group of the weights, ascending from f = +0: f = fma(float(exact integer sum), weight
    scale * row scale, f). The row's scale is that of the 128 inputs that the group lies in.
    """
    group = values.shape[1] // scales.shape[1]
    out = np.zeros((len(rows.values), len(values)), np.float32)
    for g in range(scales.shape[1]):
        part = slice(g * group, (g + 1) * group)
        sums = rows.values[:, part].astype(np.int64) @ values[:, part].astype(np.int64).T
        row_scales = rows.scales[:, g * group // GROUP, np.newaxis]
        out = fma(sums.astype(np.float32), scales[:, g] * row_scales, out)
    return out


def product_bf16(rows: U16, weights: U16, *, flushes: bool = False) -> F32:
    """Rows (rows, depth) times weights (columns, depth), both bits of bfloat16: (rows, columns).

    sum = fma(even, fma(odd, sum)) over pairs of inputs, ascending from +0. With `flushes`, as the
    instruction vdpbf16ps does it: denormals are taken and given as zeros.
    """
    x = _from_bf16(rows, flushes)
    w = _from_bf16(weights, flushes)
    out = np.zeros((len(x), len(w)), np.float32)
    for k in range(0, x.shape[1], 2):
        for of_pair in (k + 1, k):
            out = fma(x[:, of_pair, np.newaxis], w[:, of_pair], out)
            if flushes:
                out = _flushed(out)
    return out


def tiles(num_rows: int) -> list[slice]:
    """The rows of each tile: nearly equal heights of at most 12."""
    count = -(-num_rows // MAX_TILE_ROWS)
    firsts = [i * num_rows // count for i in range(count)] if count else []
    return [slice(a, b) for a, b in zip(firsts, [*firsts[1:], num_rows], strict=True)]


def tiled(x: NDArray[np.generic], inner: int) -> NDArray[np.generic]:
    """Rows (rows, n) in the order of an operand, flat: tile by tile [n / inner][height][inner]."""
    parts = [
        x[tile].reshape(tile.stop - tile.start, -1, inner).transpose(1, 0, 2).reshape(-1)
        for tile in tiles(len(x))
    ]
    return np.concatenate(parts) if parts else x.reshape(-1)


def _from_bf16(bits: U16, flushes: bool) -> F32:
    values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _flushed(values) if flushes else values


def _flushed(x: F32) -> F32:
    """Denormals as zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(_f32(0.0), x), x)
