"""Paged attention over bf16 and int8 pages in plain NumPy: what the native kernels must give.

One unit: the query rows of one KV head against the tokens of one chunk. `attention.inl` of csrc
has the same sequences and says why; `reference_attention.py` has the float32 form, which the whole
reference backend runs on. The bits of a row are a function of that row and of what it sees.

bf16 pages are a contract of their own instruction family: hardware dot products read denormals as
zero and flush results that would be denormal (``flushes``), other processors keep them. int8 pages
never meet a denormal: one result everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.backends import canonical
from octavo.backends.canonical import F32, fma

I32 = NDArray[np.int32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
Bools = NDArray[np.bool_]

PAGE_TOKENS = 16
CHUNK_TOKENS = 256

_f32 = np.float32
EXP_TERMS = (0.008312501, 0.04189033, 0.16667116, 0.4999923, 1.0, 1.0)
LOWEST_EXPONENT = _f32(-86.0)
"""e^x is 0 below."""
SMALLEST_WEIGHT = _f32(2.0**-100)
"""Scales, and weights times scales, are 0 below."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What one chunk adds to each row."""

    peaks: F32  # (rows,) the highest scaled score that is a number; -inf if there is none
    sums: F32  # (rows,) of exp(score - peak)
    out: F32  # (rows, head_dim) sums of exp(score - peak) * value


@dataclass(frozen=True, slots=True)
class Quantized:
    """Vectors of int8, each with its scale."""

    values: I8  # (rows, head_dim)
    scales: F32  # (rows,)


def exp_nonpositive(x: F32) -> F32:
    """e^x for x <= 0 as 2^n * e^r, at most 2.2 ulp off; 0 below -86. A NaN stays one."""
    with np.errstate(all="ignore"):
        shifted = fma(x, canonical.LOG2_OF_E, canonical.ROUNDER)
        n = shifted - canonical.ROUNDER
        r = fma(n, -canonical.LN2_HIGH, x)
        r = fma(n, -canonical.LN2_LOW, r)
        total = np.full_like(r, EXP_TERMS[0])
        for term in EXP_TERMS[1:]:
            total = fma(total, r, _f32(term))
        power = (np.ascontiguousarray(shifted).view(np.uint32) << np.uint32(23)) + np.uint32(
            0x3F800000
        )
        return np.where(x < LOWEST_EXPONENT, _f32(0.0), total * power.view(np.float32))


def to_bf16(x: F32) -> U16:
    """The nearest bf16, ties to even; above its range an infinity. A NaN stays one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half = bits >> np.uint32(16)
    rounded = (bits.astype(np.uint64) + 0x7FFF + (half & np.uint32(1))) >> np.uint64(16)
    return np.where(np.isnan(x), half | np.uint32(0x40), rounded).astype(np.uint16).reshape(x.shape)


def from_bf16(x: U16) -> F32:
    """Exactly."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def quantize(x: F32) -> Quantized:
    """Vectors as int8 in [-127, 127]; the scale is the largest size / 127.

    One that is all below 2^-100 is 0; one with a NaN or an infinity has the scale NaN and zeros.

    Args:
        x: (rows, head_dim)
    """
    with np.errstate(all="ignore"):
        size = np.abs(x).max(axis=1)  # NaN if there is one
        broken = ~np.isfinite(size)
        tiny = size < SMALLEST_WEIGHT
        inverse = np.where(broken | tiny, _f32(0.0), _f32(127.0) / size)
        values = np.where(inverse[:, None] == 0, _f32(0.0), np.rint(x * inverse[:, None]))
        scales = np.where(tiny, _f32(0.0), size / _f32(127.0))
    return Quantized(values.astype(np.int8), np.where(broken, _f32(np.nan), scales))


def attend_bf16(
    queries: F32,  # (rows, head_dim)
    keys: U16,  # (tokens, head_dim) bf16
    values: U16,  # likewise
    first: I32,  # (rows,) row r sees the tokens [first[r], last[r])
    last: I32,
    scale: float,
    *,
    flushes: bool,
) -> ChunkResult:
    """One chunk of bf16 pages. ``keys`` begin with the chunk's token 0."""
    q, k = from_bf16(to_bf16(queries)), from_bf16(keys)
    sums = np.zeros((len(q), len(k)), np.float32)
    for i in range(0, q.shape[1], 2):
        sums = _add_pair(sums, q[:, None, i : i + 2], k[None, :, i : i + 2], flushes)
    with np.errstate(all="ignore"):
        scores = sums * _f32(scale)
    visible = _visible(first, last, len(k))
    peaks, weights = _weigh(scores, visible)
    rounded = from_bf16(to_bf16(weights))
    totals = np.array([canonical.row_sum(row) for row in weights], np.float32)
    out = _add_values(rounded, from_bf16(values), visible, flushes)
    return ChunkResult(peaks, totals, out)


def attend_int8(
    queries: F32,  # (rows, head_dim)
    keys: Quantized,  # (tokens, head_dim)
    values: Quantized,  # likewise
    first: I32,
    last: I32,
    scale: float,
) -> ChunkResult:
    """One chunk of int8 pages."""
    quantized = quantize(queries)
    exact = quantized.values.astype(np.int64) @ keys.values.astype(np.int64).T
    with np.errstate(all="ignore"):
        factors = quantized.scales * _f32(scale)
        scores = exact.astype(np.float32) * factors[:, None] * keys.scales
    visible = _visible(first, last, len(keys.scales))
    peaks, weights = _weigh(scores, visible)
    totals = np.array([canonical.row_sum(row) for row in weights], np.float32)
    with np.errstate(all="ignore"):
        folded = weights * values.scales
    folded = np.where(visible & ~(folded < SMALLEST_WEIGHT), folded, _f32(0.0))
    rounded = from_bf16(to_bf16(folded))
    out = _add_values(rounded, values.values.astype(np.float32), visible, flushes=False)
    return ChunkResult(peaks, totals, out)


def key_page_bf16(keys: U16) -> U8:
    """A page of keys as bytes. ``keys``: (16, head_dim) bf16."""
    return _bytes(keys.reshape(PAGE_TOKENS, -1, 2).transpose(1, 0, 2))


def value_page_bf16(values: U16) -> U8:
    """A page of values as bytes. ``values``: (16, head_dim) bf16."""
    return _bytes(values.reshape(PAGE_TOKENS // 2, 2, -1).transpose(0, 2, 1))


def key_page_int8(keys: Quantized) -> U8:
    """A page of keys as bytes, their scales last. ``keys``: 16 rows."""
    biased = (_padded(keys.values).astype(np.int16) + 128).astype(np.uint8)
    return np.concatenate(
        [_bytes(biased.reshape(PAGE_TOKENS, -1, 4).transpose(1, 0, 2)), _bytes(keys.scales)]
    )


def value_page_int8(values: Quantized) -> U8:
    """A page of values as bytes, their scales last. ``values``: 16 rows."""
    pairs = _padded(values.values).reshape(PAGE_TOKENS // 2, 2, -1).transpose(0, 2, 1)
    return np.concatenate([_bytes(pairs), _bytes(values.scales)])


def _visible(first: I32, last: I32, num_tokens: int) -> Bools:
    tokens = np.arange(num_tokens)
    return np.asarray((tokens >= first[:, None]) & (tokens < last[:, None]))


def _weigh(scores: F32, visible: Bools) -> tuple[F32, F32]:
    """Peaks and weights; what a row does not see has the weight +0."""
    scores = np.where(visible, scores, _f32(-np.inf))
    numbers = np.where(np.isnan(scores), _f32(-np.inf), scores)
    with np.errstate(all="ignore"):
        # + 0 turns -0 into +0: which of two zeros is the larger depends on the order of lanes.
        peaks = numbers.max(axis=1, initial=-np.inf) + _f32(0.0)
        base = np.where(peaks == -np.inf, _f32(0.0), peaks)
        return peaks, exp_nonpositive(scores - base[:, None])


def _add_values(weights: F32, values: F32, visible: Bools, flushes: bool) -> F32:
    """Chains over pairs of tokens; each row meets only the values that it sees."""
    num_rows, num_tokens = weights.shape
    assert num_tokens % 2 == 0
    seen = np.where(visible[:, :, None], values[None], _f32(0.0))
    sums = np.zeros((num_rows, values.shape[1]), np.float32)
    for t in range(0, num_tokens, 2):
        if visible[:, t : t + 2].any():
            pair = seen[:, t : t + 2].transpose(0, 2, 1)
            sums = _add_pair(sums, weights[:, None, t : t + 2], pair, flushes)
    return sums + _f32(0.0)


def _add_pair(sums: F32, a: F32, b: F32, flushes: bool) -> F32:
    """fma(even, even, fma(odd, odd, sum)), as a bf16 dot product does it. The last axis: pairs."""
    a, b = _flush(a, flushes), _flush(b, flushes)
    inner = _flush(fma(a[..., 1], b[..., 1], sums), flushes)
    return _flush(fma(a[..., 0], b[..., 0], inner), flushes)


def _flush(x: F32, flushes: bool) -> F32:
    if not flushes:
        return x
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(_f32(0.0), x), x)


def _padded(values: I8) -> I8:
    return np.pad(values, ((0, 0), (0, -values.shape[1] % 4)))


def _bytes(array: NDArray[np.generic]) -> U8:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
