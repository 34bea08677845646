"""Packing weights against the twin: equal bytes; and what the formats promise of errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo import _native
from octavo.core.errors import ConfigError
from octavo.weights import formats
from tests.ops.helpers import F32, assert_same_bits, at_end_of_page, normal
from tests.ops.packed import packed, weights

FORMATS = ["f32", "bf16", "w8", "w4"]


def stored(matrix: F32, source: str) -> NDArray[Any]:
    """As a checkpoint in that type has it."""
    if source == "bf16":
        return formats.bf16_bits(matrix)
    return matrix.astype({"f32": np.float32, "f16": np.float16}[source])


@settings(max_examples=30)
@given(
    name=st.sampled_from(FORMATS),
    source=st.sampled_from(["f32", "bf16", "f16"]),
    columns=st.integers(1, 70),
    depth=st.integers(1, 300),
    spread=st.sampled_from([1e-9, 1e-6, 1e-3, 0.05, 1.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_twin(
    pools: dict[int, _native.ThreadPool],
    name: str,
    source: str,
    columns: int,
    depth: int,
    spread: float,
    seed: int,
) -> None:
    matrix = normal(np.random.default_rng(seed), columns, depth) * np.float32(spread)
    with np.errstate(over="ignore"):
        given_weights = stored(np.clip(matrix, -6e4, 6e4), source)
    expected = formats.pack(name, given_weights)
    for instruction_set in _native.instruction_sets():
        products = _native.Products(pools[2], instruction_set)
        np.testing.assert_array_equal(packed(products, name, given_weights), expected)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-38, 2.0**-24, 6e-5, 1.0, 1e7, 3e38])
def test_scales_at_the_ends(products: _native.Products, name: str, value: float) -> None:
    """Zero, denormal and overflowing scales."""
    matrix = np.full((3, 130), value, np.float32)
    matrix[0, 1::2] *= -1
    matrix[1, :40] = 0
    panels = packed(products, name, matrix)
    np.testing.assert_array_equal(panels, formats.pack(name, matrix))
    if name == "bf16":
        return
    back = formats.unpack(name, panels, 3, 130)
    assert np.isfinite(back).all()
    if value <= 1.0:
        # A scale is a multiple of 2^-24.
        assert np.abs(back - matrix).max() <= max(abs(value) / 100, 2.0**-22)
    assert not back[1, :32].any()


def test_all_zeros_have_the_scale_zero(products: _native.Products) -> None:
    for name in ("w8", "w4"):
        panels = packed(products, name, np.zeros((5, 200), np.float32))
        matrix = formats.unpack_integers(name, panels)
        assert not matrix.scales.any()
        assert not matrix.values.any()


def test_errors_are_within_their_bounds() -> None:
    matrix = weights(np.random.default_rng(1), 64, 512)
    for name, bound in (("w8", 0.51), ("w4", 0.51)):
        quantise = formats.quantise_w8 if name == "w8" else formats.quantise_w4
        integers = quantise(matrix)
        group = 512 // integers.scales.shape[1]
        steps = np.repeat(np.abs(integers.scales.astype(np.float32)), group, axis=1)
        lowest, highest = (-127, 127) if name == "w8" else (-8, 7)
        inside = (integers.values > lowest) & (integers.values < highest)
        assert (np.abs(integers.floats() - matrix) <= bound * steps)[inside].all()
        assert inside.mean() > 0.8
    relative = np.abs(formats.unpack("bf16", formats.pack("bf16", matrix), 64, 512) - matrix)
    assert (relative <= np.abs(matrix) * 2.0**-8).all()


def test_the_search_gains_something() -> None:
    """Against the scale that cuts nothing off."""
    matrix = weights(np.random.default_rng(2), 64, 512)
    groups = matrix.reshape(64, -1, 32)
    plain = np.abs(groups).max(axis=2, keepdims=True) / 7
    naive = ((np.rint(groups / plain) * plain - groups) ** 2).sum()
    searched = ((formats.quantise_w4(matrix).floats() - matrix) ** 2).sum()
    assert searched < 0.85 * naive


@pytest.mark.parametrize("source", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(products: _native.Products, source: str, bad: float) -> None:
    matrix = weights(np.random.default_rng(3), 40, 300)
    matrix[39, 299] = bad
    for name in FORMATS:
        panels = np.zeros(formats.FORMATS[name].shape(40, 300), np.uint8)
        assert not products.pack(name, stored(matrix, source), panels)


@pytest.mark.parametrize("name", FORMATS)
def test_stays_inside_its_arrays(products: _native.Products, name: str) -> None:
    for columns, depth in ((1, 1), (33, 131), (32, 128)):
        for source in ("f32", "bf16", "f16"):
            matrix = at_end_of_page(
                stored(weights(np.random.default_rng(4), columns, depth), source)
            )
            panels = at_end_of_page(np.zeros(formats.FORMATS[name].shape(columns, depth), np.uint8))
            assert products.pack(name, matrix, panels)
            np.testing.assert_array_equal(panels, formats.pack(name, matrix.copy()))


@pytest.mark.parametrize("name", ["bf16", "w8", "w4"])
def test_a_column_as_floats(products: _native.Products, name: str) -> None:
    for columns, depth in ((70, 300), (5, 1), (33, 96)):
        panels = packed(products, name, weights(np.random.default_rng(5), columns, depth))
        expected = formats.unpack(name, panels, columns, depth)
        for column in {0, 4, columns // 2, columns - 1}:
            out = at_end_of_page(np.full(depth, np.nan, np.float32))
            products.embed(name, panels, column, out)
            assert_same_bits(out.copy(), expected[column])
        with pytest.raises(ValueError, match="column"):
            products.embed(name, panels, len(panels) * 32, np.zeros(depth, np.float32))


def test_unpacking_is_the_inverse_of_packing() -> None:
    rng = np.random.default_rng(6)
    for name, low, high, group in (("w8", -127, 128, 128), ("w4", -8, 8, 32)):
        matrix = formats.Integers(
            rng.integers(low, high, (64, 256)).astype(np.int8),
            rng.standard_normal((64, 256 // group)).astype(np.float16),
        )
        back = formats.unpack_integers(name, formats.pack_integers(name, matrix))
        np.testing.assert_array_equal(back.values, matrix.values)
        np.testing.assert_array_equal(back.scales, matrix.scales)


def test_changes_by_bf16_are_counted() -> None:
    matrix = np.array([[1.0, 1.0 + 2.0**-7, 1.0 + 2.0**-8, 1.0 + 2.0**-10]], np.float16)
    assert formats.count_changed_by_bf16(matrix) == 2
    assert formats.count_changed_by_bf16(np.zeros((3, 5), np.float16)) == 0


def test_unknown_formats_have_a_hint() -> None:
    with pytest.raises(ConfigError, match="unknown weight format 'w9'") as caught:
        formats.find_format("w9")
    assert caught.value.hint


def test_wrong_arguments_are_refused_by_name(products: _native.Products) -> None:
    good = np.ones((32, 128), np.float32)
    panels = np.zeros(formats.FORMATS["w8"].shape(32, 128), np.uint8)
    for wrong in (good.astype(np.float64), good[0], good.T, good[:, ::2], good.astype(np.int16)):
        with pytest.raises(TypeError, match=r"^(weights|panels): "):
            products.pack("w8", wrong, panels)
    for wrong_panels in (panels[:, 1:], panels.astype(np.int8), panels[0], None):
        with pytest.raises(TypeError, match=r"^panels: "):
            products.pack("w8", good, wrong_panels)
