"""Products by AMX: the algorithm with emulated instructions on every machine, and the instructions
themselves on machines that have them. The bits are those of the other instruction sets."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import _native
from octavo.backends.products import prepare
from tests.ops.helpers import assert_same_bits, at_end_of_page, normal
from tests.ops.packed import SHAPES, packed, product, weights

FORMATS = ["w8", "w4"]
# Rows are laid out 1,024 inputs at a time.
DEEP = [(2, 1024, 32), (7, 1025, 33), (12, 2300, 40), (30, 1152, 64)]
ROOF_STEP = 4 * 16 * 16 * 64
"""Multiplications of four products of the largest matrices."""


@pytest.fixture
def emulated(pools: dict[int, _native.ThreadPool]) -> _native.Products:
    return _native.Products(pools[2], "scalar", emulates_tiles=True)


@pytest.fixture
def scalar(pools: dict[int, _native.ThreadPool]) -> _native.Products:
    return _native.Products(pools[1], "scalar")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES + DEEP)
def test_emulated_tiles_equal_the_scalar_kernel(
    emulated: _native.Products,
    scalar: _native.Products,
    name: str,
    rows: int,
    depth: int,
    columns: int,
) -> None:
    rng = np.random.default_rng([rows, depth, columns])
    x = normal(rng, rows, depth)
    panels = packed(scalar, name, weights(rng, columns, depth))
    expected = product(scalar, name, x, panels)
    assert_same_bits(product(emulated, name, x, panels, unpack=True), expected)


@settings(max_examples=25)
@given(
    name=st.sampled_from(FORMATS),
    rows=st.integers(1, 40),
    depth=st.integers(1, 2200),
    columns=st.integers(1, 100),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape(
    pools: dict[int, _native.ThreadPool],
    name: str,
    rows: int,
    depth: int,
    columns: int,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, matrix = normal(rng, rows, depth), weights(rng, columns, depth)
    scalar = _native.Products(pools[1], "scalar")
    panels = packed(scalar, name, matrix)
    emulated = _native.Products(pools[threads], "scalar", emulates_tiles=True)
    expected = product(scalar, name, x, panels)
    assert_same_bits(product(emulated, name, x, panels, unpack=True), expected)


def test_extreme_integers_do_not_saturate(
    emulated: _native.Products, scalar: _native.Products
) -> None:
    signs = np.where(np.arange(256) % 3 == 0, -1, 1).astype(np.float32)
    for name in FORMATS:
        panels = packed(scalar, name, np.ones((32, 256), np.float32))
        by_group = panels.reshape(1, -1, 64 + (4096 if name == "w8" else 512))
        for byte in (0x00, 0x7F, 0x80, 0xFF):
            by_group[..., 64:] = byte
            for row_signs in (1, -1, signs):
                x = np.full((7, 256), 127.0, np.float32) * row_signs
                expected = product(scalar, name, x, panels)
                assert_same_bits(product(emulated, name, x, panels, unpack=True), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_one_bad_row_is_bad_alone(
    emulated: _native.Products, scalar: _native.Products, name: str
) -> None:
    rng = np.random.default_rng(3)
    x = normal(rng, 9, 1300)
    panels = packed(scalar, name, weights(rng, 32, 1300))
    good = product(scalar, name, x, panels)
    x[4, 1100] = np.nan
    out = product(emulated, name, x, panels, unpack=True)
    assert np.isnan(out[4]).all()
    others = np.arange(9) != 4
    assert_same_bits(out[others], good[others])


@pytest.mark.parametrize("name", FORMATS)
def test_stays_inside_its_arrays(emulated: _native.Products, name: str) -> None:
    rng = np.random.default_rng(4)
    for rows, depth, columns in ((1, 130, 32), (5, 128, 64), (12, 1030, 30)):
        x = normal(rng, rows, depth)
        panels = at_end_of_page(packed(emulated, name, weights(rng, columns, depth)))
        operand = prepare(emulated, name, x)
        arrays = [
            None if one is None else at_end_of_page(one)
            for one in (
                *(operand.values, operand.scales),
                *(operand.corrections, operand.corrections_4),
            )
        ]
        out = at_end_of_page(np.zeros((rows, len(panels) * 32), np.float32))
        emulated.multiply(name, *arrays, panels, out, True)
        assert_same_bits(out.copy(), product(emulated, name, x, panels.copy(), unpack=True))


def test_the_flag_takes_the_other_path(
    emulated: _native.Products, products: _native.Products, pools: dict[int, _native.ThreadPool]
) -> None:
    """Only the roof shows it: all else has equal bits."""
    tiles = 8 * pools[2].num_threads * 3 * ROOF_STEP
    assert emulated.spin("int8", 3) == tiles
    assert (products.spin("int8", 3) == tiles) == (products.instruction_set == "amx")


def test_only_the_scalar_unit_emulates(pools: dict[int, _native.ThreadPool]) -> None:
    for name in set(_native.instruction_sets()) - {"scalar"}:
        with pytest.raises(ValueError, match="only with the instruction set scalar"):
            _native.Products(pools[1], name, emulates_tiles=True)


@pytest.mark.skipif("amx" not in _native.instruction_sets(), reason="this machine has no AMX")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_processors_tiles_equal_the_scalar_kernel(
    pools: dict[int, _native.ThreadPool], scalar: _native.Products, name: str, threads: int
) -> None:
    amx = _native.Products(pools[threads], "amx")
    assert amx.spin("int8", 1) == 8 * threads * ROOF_STEP
    for rows, depth, columns in SHAPES + DEEP:
        rng = np.random.default_rng([rows, depth, columns])
        x = normal(rng, rows, depth)
        panels = packed(scalar, name, weights(rng, columns, depth))
        expected = product(scalar, name, x, panels)
        assert_same_bits(product(amx, name, x, panels, unpack=True), expected)


def _tile_instructions() -> Iterator[list[str]]:
    """Those of each piece of the library from ldtilecfg to tilerelease, with their tiles."""
    listing = subprocess.check_output(
        ["objdump", "-d", "--no-show-raw-insn", _native.__file__], text=True
    )
    found: list[str] = []
    for line in listing.splitlines():
        match = re.search(r"\t(ldtilecfg|tile\w+|tdp\w+)\b(.*)", line)
        if not match:
            continue
        found.append(" ".join([match[1], *re.findall(r"tmm\d", match[2])]))
        if match[1] == "tilerelease":
            yield found
            found = []
    assert not found


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.skipif("avx2" not in _native.cpu_features(), reason="not an x86 processor")
@pytest.mark.slow  # disassembles the library
def test_the_instructions_that_no_emulation_sees() -> None:
    """In this notation the unsigned operand comes first, then the signed one, then the sums."""
    begin, end = ["ldtilecfg", "tilezero tmm0", "tilezero tmm1"], ["tilerelease"]
    first = ["tileloadd tmm2", "tileloadd tmm4", "tileloadd tmm5"]
    first += ["tdpbsud tmm4 tmm2 tmm0", "tdpbsud tmm5 tmm2 tmm1"]
    second = ["tileloadd tmm3", "tileloadd tmm6", "tileloadd tmm7"]
    second += ["tdpbsud tmm6 tmm3 tmm0", "tdpbsud tmm7 tmm3 tmm1"]
    stores = ["tilestored tmm0", "tilestored tmm1"]
    found = list(_tile_instructions())
    assert [*begin, *first, *second, *stores, *end] in found  # w8
    assert [*begin, *first, *stores, *end] in found  # w4, unpacked
    assert len(found) == 3  # and the roof
