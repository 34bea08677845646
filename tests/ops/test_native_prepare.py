"""Rows made ready for products, against their twins: equal bits, in the order of an operand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo import _native
from octavo.backends import canonical_products as canonical
from octavo.backends.products import Operand, prepare
from octavo.weights.formats import bf16_bits
from tests.ops.helpers import AWKWARD_VALUES, F32, assert_same_bits, at_end_of_page, normal


def assert_is_quantised(operand: Operand, x: F32) -> None:
    expected = canonical.prepare_int8(x)
    np.testing.assert_array_equal(operand.values, canonical.tiled(expected.values, 4))
    assert operand.scales is not None
    assert_same_bits(operand.scales, canonical.tiled(expected.scales, 1))
    np.testing.assert_array_equal(operand.corrections, canonical.tiled(expected.corrections, 1))
    np.testing.assert_array_equal(operand.corrections_4, canonical.tiled(expected.corrections_4, 1))


@given(
    rows=st.integers(1, 64),
    k=st.integers(1, 400),
    spread=st.sampled_from([1e-42, 1e-30, 1.0, 3e37]),
    seed=st.integers(0, 2**32 - 1),
)
def test_int8(
    pools: dict[int, _native.ThreadPool], rows: int, k: int, spread: float, seed: int
) -> None:
    x = normal(np.random.default_rng(seed), rows, k) * np.float32(spread)
    for name in _native.instruction_sets():
        assert_is_quantised(prepare(_native.Products(pools[2], name), "w8", x), x)


def test_halves_are_rounded_to_even(products: _native.Products) -> None:
    x = np.zeros((1, 128), np.float32)
    x[0, :8] = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 125.5]
    operand = prepare(products, "w8", x)
    assert operand.values[:8].tolist() == [127, 0, 2, 2, 0, -2, -126, 126]
    assert operand.scales is not None
    assert operand.scales[0] == 1


def test_what_is_not_finite_spoils_its_group_only(products: _native.Products) -> None:
    rng = np.random.default_rng(1)
    x = normal(rng, 14, 300)
    x[2, 5], x[7, 200], x[13, 299] = np.nan, np.inf, -np.inf
    operand = prepare(products, "w8", x)
    assert_is_quantised(operand, x)
    assert np.isnan(canonical.prepare_int8(x).scales).sum() == 3


@pytest.mark.parametrize("peak", [2.0**-120, 2.0**-120 * (1 - 2.0**-24), 1e-45, 3.4028235e38])
def test_peaks_at_the_ends(products: _native.Products, peak: float) -> None:
    x = np.full((1, 128), np.float32(peak))
    x[0, ::2] *= -1
    assert_is_quantised(prepare(products, "w8", x), x)


@pytest.mark.parametrize("name", ["bf16", "f32"])
@pytest.mark.parametrize("rows", [1, 7, 12, 13, 30])
@pytest.mark.parametrize("k", [1, 2, 33, 64, 203])  # 64 and more: 32 pairs of four rows at once
def test_floats(products: _native.Products, name: str, rows: int, k: int) -> None:
    x = normal(np.random.default_rng([rows, k]), rows, k)
    operand = prepare(products, name, x)
    if name == "f32":
        assert_same_bits(operand.values, canonical.tiled(x, k))
        return
    even = np.zeros((rows, k + k % 2), np.float32)
    even[:, :k] = x
    np.testing.assert_array_equal(operand.values, canonical.tiled(bf16_bits(even), 2))


def test_bf16_rounds_to_nearest_even(products: _native.Products) -> None:
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800001, 0xFF800000, 1]
    x = np.array([bits], np.uint32).view(np.float32)
    values = prepare(products, "bf16", x).values
    assert [hex(value) for value in values.tolist()] == [
        *("0x3f80", "0x3f82", "0x3f81", "0x3f80"),
        *("0x7f80", "0x7fc0", "0xff80", "0x0"),
    ]
    awkward = prepare(products, "bf16", AWKWARD_VALUES[np.newaxis]).values
    np.testing.assert_array_equal(awkward, bf16_bits(AWKWARD_VALUES))


@pytest.mark.parametrize("name", ["f32", "bf16", "w8"])
def test_stays_inside_its_arrays(products: _native.Products, name: str) -> None:
    for rows, k in ((1, 3), (13, 130), (5, 128)):
        x = at_end_of_page(normal(np.random.default_rng(rows), rows, k))
        expected = prepare(products, name, x)
        arrays = [
            None if one is None else at_end_of_page(one)
            for one in (
                *(expected.values, expected.scales),
                *(expected.corrections, expected.corrections_4),
            )
        ]
        assert arrays[0] is not None
        arrays[0][...] = 1
        products.prepare(name, x, *arrays)
        np.testing.assert_array_equal(arrays[0], expected.values)
