"""The canonical float32 operations in plain NumPy: what the native kernels must give, bit for bit.

This is the specification in readable form, one row or one array at a time, and slow. Nothing here
calls the native extension. `docs/concepts/numerics.md` says why each form is what it is.

Only single IEEE operations of NumPy are used (+, -, *, /, comparisons, conversions): these are
correctly rounded everywhere. `@`, `sum`, `einsum`, `np.exp` and friends are not: their bits change
with shapes and builds. Denormals are kept. A NaN is a NaN: payloads are not part of the promise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U32 = NDArray[np.uint32]

SUM_LANES = 16

_f32 = np.float32

# The constants of csrc/kernels/elementwise.inl, under the same names.
LOG2_OF_E = _f32(1.44269502)
LN2_HIGH = _f32(0.693147182)  # float32 of ln 2
LN2_LOW = _f32(-1.90465421e-09)  # ln 2 - LN2_HIGH
# Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
ROUNDER = _f32(12582912.0)
EXP_TERMS = (0.00138145988, 0.00836871658, 0.041668389, 0.166665211, 0.49999994)
LOG_TERMS = (
    0.0674664006,
    -0.116756521,
    0.11888162,
    -0.124055892,
    0.142195523,
    -0.166679963,
    0.200021192,
    -0.250000089,
    0.333333135,
)
TANH_TERMS = (-0.00569738355, 0.0206325464, -0.0537377968, 0.133314207, -0.333332807)


def fma(a: F32 | np.float32, b: F32 | np.float32, c: F32 | np.float32) -> F32:
    """a * b + c, rounded once; arrays broadcast.

    The product of two float32 is exact in float64. Its sum with c is rounded to odd there: of the
    two float64 around an inexact sum, the one with an odd last bit. With 53 >= 24 + 2 bits the
    second rounding, to float32, then gives what one rounding would have given (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
    odd", IEEE Transactions on Computers 57, 2008).
    """
    with np.errstate(all="ignore"):
        product = np.multiply(a, b, dtype=np.float64)
        addend = np.asarray(c, np.float64)
        total = np.atleast_1d(product + addend)
        error = np.atleast_1d(_two_sum_error(product, addend, total))
        bits = total.view(np.uint64)
        # The true sum is total + error. Where total is even and inexact, its odd neighbour on the
        # side of the error is the one that encloses the true sum.
        inexact_and_even = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
        towards = np.where(error > 0, np.inf, -np.inf)
        total = np.where(inexact_and_even, np.nextafter(total, towards), total)
        shape = np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c))
        return total.astype(np.float32).reshape(shape)


def product(a: F32, b: F32, bias: F32 | None = None) -> F32:
    """The canonical product.

    Each element is one chain acc = fma(a[m, k], b[k, n], acc), k ascending from +0; then + bias[n].

    Args:
        a: (m, k)
        b: (k, n)
        bias: (n,)

    Returns:
        (m, n)
    """
    acc = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        acc = fma(a[:, k, np.newaxis], b[k], acc)
    if bias is None:
        return acc
    with np.errstate(all="ignore"):
        return acc + bias


def product_row(a: F32, b: F32, bias: F32 | None = None) -> F32:
    """One row of `product`: a is (k,), the result (n,). The same bits as among other rows."""
    row: F32 = product(a[np.newaxis], b, bias)[0]
    return row


def row_sum(x: F32) -> np.float32:
    """The canonical sum of x, (n,).

    Sixteen lanes: lane l adds the elements l, l + 16, l + 32, ... in that order from +0. Then lane
    i takes lane i + 8, then i + 4, i + 2 and i + 1.
    """
    lanes = np.zeros(SUM_LANES, np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, x.shape[0], SUM_LANES):
            part = x[start : start + SUM_LANES]
            lanes[: part.shape[0]] += part
    return _fold(lanes)


def row_sum_of_squares(x: F32) -> np.float32:
    """The canonical sum of the squares of x, (n,): `row_sum` with fma(x, x, lane) for each term."""
    lanes = np.zeros(SUM_LANES, np.float32)
    for start in range(0, x.shape[0], SUM_LANES):
        part = x[start : start + SUM_LANES]
        lanes[: part.shape[0]] = fma(part, part, lanes[: part.shape[0]])
    return _fold(lanes)


def exp(x: F32) -> F32:
    """e^x = 2^n * e^r with n = round(x / ln 2). Denormal results are rounded once."""
    x = np.where(x < _f32(-104.0), _f32(-104.0), x)
    x = np.where(x > _f32(89.0), _f32(89.0), x)
    with np.errstate(all="ignore"):
        shifted = fma(x, LOG2_OF_E, ROUNDER)
        n = shifted - ROUNDER
        r = fma(n, -LN2_HIGH, x)
        r = fma(n, -LN2_LOW, r)
        mantissa = fma(_polynomial(r, EXP_TERMS), r * r, r) + _f32(1.0)
        # 2^n in two factors: n runs from -150 to 128, further than one exponent field.
        power = _bits(shifted) - ROUNDER.view(np.uint32)
        half = _shift_right_signed(power, 1)
        scale = _from_bits((half + np.uint32(127)) << np.uint32(23))
        rest = _from_bits((power - half + np.uint32(127)) << np.uint32(23))
        return mantissa * scale * rest


def log(x: F32) -> F32:
    """log x = e * ln 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2))."""
    with np.errstate(all="ignore"):
        tiny = x < _f32(1.17549435e-38)  # denormals are moved into the normal range by 2^23
        normal = np.where(tiny, x * _f32(8388608.0), x)
        steps = _shift_right_signed(_bits(normal) - np.uint32(0x3F3504F3), 23)
        e = steps.view(np.int32).astype(np.float32)
        e = e + np.where(tiny, _f32(-23.0), _f32(0.0))
        f = _from_bits(_bits(normal) - (steps << np.uint32(23))) - _f32(1.0)
        square = f * f
        total = _polynomial(f, LOG_TERMS) * (square * f)
        total = fma(e, LN2_LOW, total)
        total = fma(square, _f32(-0.5), total)
        total = f + total
        total = fma(e, LN2_HIGH, total)
        total = np.where(x == np.inf, _f32(np.inf), total)
        total = np.where(x == 0, _f32(-np.inf), total)
        return np.where(x >= 0, total, _f32(np.nan))


def tanh(x: F32) -> F32:
    """An odd polynomial near 0, 1 - 2 / (e^2|x| + 1) beyond."""
    with np.errstate(all="ignore"):
        size = np.abs(x)
        square = size * size
        near = fma(_polynomial(square, TANH_TERMS), square * size, size)
        far = _f32(1.0) - _f32(2.0) / (exp(size + size) + _f32(1.0))
        return np.copysign(np.where(size < _f32(0.625), near, far), x)


def sigmoid(x: F32) -> F32:
    """1 / (1 + e^-x), written with e^-|x| so that neither end overflows."""
    with np.errstate(all="ignore"):
        power = exp(-np.abs(x))
        above: F32 = np.where(x < 0, power, _f32(1.0))
        return above / (_f32(1.0) + power)


def _two_sum_error(a: F64, b: F64, total: F64) -> F64:
    """The exact a + b - total, where total is the float64 nearest a + b (Knuth's TwoSum)."""
    part_of_b = total - a
    part_of_a = total - part_of_b
    return (a - part_of_a) + (b - part_of_b)


def _fold(lanes: F32) -> np.float32:
    with np.errstate(all="ignore"):
        width = SUM_LANES // 2
        while width >= 1:
            lanes[:width] += lanes[width : 2 * width]
            width //= 2
    return np.float32(lanes[0])


def _polynomial(x: F32, highest_first: tuple[float, ...]) -> F32:
    total: F32 = np.full_like(x, highest_first[0])
    for term in highest_first[1:]:
        total = fma(total, x, _f32(term))
    return total


def _bits(x: F32) -> U32:
    return np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)


def _from_bits(x: U32) -> F32:
    return x.view(np.float32)


def _shift_right_signed(x: U32, bits: int) -> U32:
    return (x.view(np.int32) >> np.int32(bits)).view(np.uint32)
