"""Each operation of the reference backend against its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo.program.builder import ProgramBuilder
from octavo.program.ir import Activation, RotaryTable, Value, Weight
from tests.hand_written import compute, random_array, weight_of

F64 = NDArray[np.float64]
SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32)

FORMULAS = {
    Activation.SILU: lambda x: x / (1.0 + np.exp(-x)),
    Activation.GELU_TANH: lambda x: (
        0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
    ),
    Activation.RELU: lambda x: np.maximum(x, 0.0),
}


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


@given(rows=SIZES, features=SIZES, seed=SEEDS, eps=st.sampled_from([1e-6, 1e-2]))
def test_rms_norm(rows: int, features: int, seed: int, eps: float) -> None:
    x, w = random_array(seed, rows, features), random_array(seed + 1, features)
    actual = compute(lambda b, v: b.rms_norm(v, weight_of("w", w), eps=eps), x, weights={"w": w})
    x64 = x.astype(np.float64)
    close(actual, x64 / np.sqrt((x64**2).mean(1, keepdims=True) + eps) * w)


@given(rows=SIZES, features=SIZES, seed=SEEDS)
def test_layer_norm(rows: int, features: int, seed: int) -> None:
    x, w, c = (
        random_array(seed + i, *s)
        for i, s in enumerate([(rows, features), (features,), (features,)])
    )
    eps = 1e-3
    actual = compute(
        lambda b, v: b.layer_norm(v, weight_of("w", w), weight_of("c", c), eps=eps),
        x,
        weights={"w": w, "c": c},
    )
    x64 = x.astype(np.float64)
    centred = x64 - x64.mean(1, keepdims=True)
    close(actual, centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps) * w + c)


@given(rows=SIZES, num_in=SIZES, num_out=SIZES, seed=SEEDS, biased=st.booleans())
def test_linear(rows: int, num_in: int, num_out: int, seed: int, biased: bool) -> None:
    x, w = random_array(seed, rows, num_in), random_array(seed + 1, num_out, num_in)
    c = random_array(seed + 2, num_out)
    bias = weight_of("c", c) if biased else None
    actual = compute(lambda b, v: b.linear(v, weight_of("w", w), bias), x, weights={"w": w, "c": c})
    expected = x.astype(np.float64) @ w.astype(np.float64).T
    close(actual, expected + c if biased else expected)


def test_linear_with_a_slice_of_a_transposed_tensor() -> None:
    x, fused = random_array(1, 5, 6), random_array(2, 6, 12)
    weight = Weight("fused", (4, 6), transposed=True, first_row=4, num_tensor_rows=12)
    actual = compute(lambda b, v: b.linear(v, weight), x, weights={"fused": fused})
    close(actual, x.astype(np.float64) @ fused[:, 4:8].astype(np.float64))


@given(rows=SIZES, heads=st.integers(1, 5), head_dim=SIZES, seed=SEEDS)
def test_head_norm(rows: int, heads: int, head_dim: int, seed: int) -> None:
    x, w = random_array(seed, rows, heads * head_dim), random_array(seed + 1, head_dim)
    eps = 1e-5
    actual = compute(
        lambda b, v: b.head_norm(v, weight_of("w", w), num_heads=heads, eps=eps),
        x,
        weights={"w": w},
    )
    x64 = x.astype(np.float64).reshape(rows, heads, head_dim)
    expected = x64 / np.sqrt((x64**2).mean(2, keepdims=True) + eps) * w
    close(actual, expected.reshape(rows, -1))


@given(
    rows=SIZES,
    heads=st.integers(1, 3),
    pairs=st.integers(1, 8),
    unturned=st.integers(0, 5),
    seed=SEEDS,
)
def test_rotary(rows: int, heads: int, pairs: int, unturned: int, seed: int) -> None:
    """Pairs turn as complex numbers; features beyond the rotary ones pass."""
    head_dim = 2 * pairs + unturned
    x = random_array(seed, rows, heads * head_dim)
    frequencies = random_array(seed + 1, pairs, scale=3.0).astype(np.float64)
    table = RotaryTable(tuple(frequencies.tolist()), 1.25, 1024)
    actual = compute(lambda b, v: b.rotary(v, table, num_heads=heads), x)
    x64 = x.astype(np.float64).reshape(rows, heads, head_dim)
    numbers = x64[..., :pairs] + 1j * x64[..., pairs : 2 * pairs]
    turned = numbers * 1.25 * np.exp(1j * np.arange(rows)[:, None, None] * frequencies)
    expected = np.concatenate([turned.real, turned.imag, x64[..., 2 * pairs :]], axis=2)
    close(actual, expected.reshape(rows, -1))


@pytest.mark.parametrize("function", list(Activation))
def test_activations(function: Activation) -> None:
    x = np.concatenate([random_array(1, 30, 7, scale=8.0), [[0, -0.0, 1e-30, -1e-30, 40, -40, 1]]])
    x = x.astype(np.float32)
    expected = FORMULAS[function](x.astype(np.float64))
    close(compute(lambda b, v: b.activate(v, function), x), expected)
    up = random_array(2, *x.shape)
    actual = compute(lambda b, gate, v: b.glu(gate, v, function), x, up)
    close(actual, expected * up)


def test_add_and_scale() -> None:
    a, c = random_array(1, 9, 4), random_array(2, 9, 4)
    np.testing.assert_array_equal(compute(lambda b, v, w: b.add(v, w), a, c), a + c)
    np.testing.assert_array_equal(compute(lambda b, v: b.scale(v, 0.3), a), a * np.float32(0.3))


def test_embed_by_position() -> None:
    x, table = np.zeros((6, 3), np.float32), random_array(1, 1024, 3)

    def build(builder: ProgramBuilder, x: Value) -> Value:
        return builder.add(x, builder.embed_positions(weight_of("table", table)))

    np.testing.assert_array_equal(compute(build, x, weights={"table": table}), table[:6])


@pytest.mark.parametrize("function", list(Activation))
def test_one_rows_nan_and_infinity_stay_in_that_row(function: Activation) -> None:
    x = random_array(1, 5, 8)
    bad = x.copy()
    bad[1, 2], bad[3, 0] = np.nan, np.inf
    w, c = random_array(2, 8, 8), random_array(3, 8)

    def build(builder: ProgramBuilder, x: Value) -> Value:
        x = builder.layer_norm(x, weight_of("c", c), weight_of("c", c), eps=1e-5)
        return builder.activate(builder.linear(x, weight_of("w", w)), function)

    expected = compute(build, x, weights={"w": w, "c": c})
    actual = compute(build, bad, weights={"w": w, "c": c})
    healthy = [0, 2, 4]
    np.testing.assert_array_equal(actual[healthy], expected[healthy])
    assert np.isnan(actual[[1, 3]]).all()
