"""Products of packed weights against their twins: equal bits whatever tile, panel and thread."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import _native
from octavo.backends.products import multiply, prepare
from octavo.weights import formats
from tests.ops.helpers import assert_same_bits, at_end_of_page, normal
from tests.ops.packed import FLUSHING, SHAPES, expected_product, packed, product, weights

FORMATS = ["f32", "bf16", "w8", "w4"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
def test_equals_the_twin(
    products: _native.Products, name: str, rows: int, depth: int, columns: int
) -> None:
    rng = np.random.default_rng([rows, depth, columns])
    x = normal(rng, rows, depth)
    panels = packed(products, name, weights(rng, columns, depth))
    expected = expected_product(products.instruction_set, name, x, panels)
    assert_same_bits(product(products, name, x, panels, unpack=False), expected)
    assert_same_bits(product(products, name, x, panels, unpack=True), expected)
    exact = x @ formats.unpack(name, panels, columns, depth).T
    error = np.abs(expected[:, :columns] - exact).max()
    assert error <= 0.02 * max(1.0, np.abs(exact).max())


@settings(max_examples=25)
@given(
    name=st.sampled_from(FORMATS),
    rows=st.integers(1, 64),
    depth=st.integers(1, 300),
    columns=st.integers(1, 100),
    threads=st.sampled_from([1, 2, 3]),
    row=st.integers(0, 63),
    seed=st.integers(0, 2**32 - 1),
)
def test_sets_threads_and_neighbours_change_nothing(
    pools: dict[int, _native.ThreadPool],
    name: str,
    rows: int,
    depth: int,
    columns: int,
    threads: int,
    row: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    row %= rows
    x, matrix = normal(rng, rows, depth), weights(rng, columns, depth)
    scalar = _native.Products(pools[1], "scalar")
    panels = packed(scalar, name, matrix)
    expected = product(scalar, name, x, panels)
    for instruction_set in _native.instruction_sets():
        products = _native.Products(pools[threads], instruction_set)
        np.testing.assert_array_equal(packed(products, name, matrix), panels)
        out = product(products, name, x, panels)
        if name != "bf16" or instruction_set not in FLUSHING:
            assert_same_bits(out, expected)
        alone = product(products, name, x[row : row + 1], panels)
        assert_same_bits(alone, out[row : row + 1])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_row_is_bad_alone(products: _native.Products, name: str, bad: float) -> None:
    rng = np.random.default_rng(3)
    for rows in (1, 5, 12, 30):
        x = normal(rng, rows, 200)
        panels = packed(products, name, weights(rng, 40, 200))
        expected = product(products, name, x, panels)
        x[rows // 2, 150] = bad
        out = product(products, name, x, panels)
        columns = slice(0, 40)  # those of the padding may be NaN or not
        spoilt = out[rows // 2, columns]
        assert np.isnan(spoilt).all() if name in ("w8", "w4") else not np.isfinite(spoilt).any()
        others = np.arange(rows) != rows // 2
        assert_same_bits(out[others], expected[others])


def test_extreme_integers_do_not_saturate(products: _native.Products) -> None:
    """Every product at its largest, of either sign: 16 bits would overflow."""
    signs = np.where(np.arange(256) % 3 == 0, -1, 1).astype(np.float32)
    for row_signs, column_signs in ((1, 1), (signs, signs), (signs, -signs)):
        x = np.full((7, 256), 127.0, np.float32) * row_signs
        for name in ("w8", "w4"):
            matrix = np.full((33, 256), 7.0, np.float32) * column_signs
            panels = packed(products, name, matrix)
            expected = expected_product(products.instruction_set, name, x, panels)
            assert_same_bits(product(products, name, x, panels), expected)
    # Bytes that no packer writes may come from other quantisers: 255 and 15 are values too.
    for name in ("w8", "w4"):
        panels = packed(products, name, np.ones((32, 256), np.float32))
        by_group = panels.reshape(1, -1, 64 + (4096 if name == "w8" else 512))
        by_group[..., 64:] = 0xFF
        expected = expected_product(products.instruction_set, name, x, panels)
        assert_same_bits(product(products, name, x, panels), expected)


def test_hardware_bf16_takes_denormals_as_zeros(products: _native.Products) -> None:
    x = np.full((2, 4), 1e-39, np.float32)
    x[1] = 1.0
    panels = packed(products, "bf16", np.full((3, 4), 0.5, np.float32))
    expected = expected_product(products.instruction_set, "bf16", x, panels)
    assert_same_bits(product(products, "bf16", x, panels), expected)
    assert (expected[0, 0] == 0) == (products.instruction_set in FLUSHING)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("unpack", [False, True])
def test_stays_inside_its_arrays(products: _native.Products, name: str, unpack: bool) -> None:
    rng = np.random.default_rng(4)
    for rows, depth, columns in ((1, 130, 32), (5, 128, 64), (12, 3, 30), (13, 40, 33)):
        x = normal(rng, rows, depth)
        panels = at_end_of_page(packed(products, name, weights(rng, columns, depth)))
        operand = prepare(products, name, x)
        arrays = [
            None if one is None else at_end_of_page(one)
            for one in (
                *(operand.values, operand.scales),
                *(operand.corrections, operand.corrections_4),
            )
        ]
        out = at_end_of_page(np.zeros((rows, len(panels) * 32), np.float32))
        products.multiply(name, *arrays, panels, out, unpack)
        assert_same_bits(out.copy(), product(products, name, x, panels.copy()))


@pytest.mark.parametrize("argument", ["values", "scales", "corrections", "panels", "out"])
def test_what_does_not_fit_is_refused_by_name(products: _native.Products, argument: str) -> None:
    operand = prepare(products, "w8", np.ones((3, 128), np.float32))
    arguments = {
        "values": operand.values,
        "scales": operand.scales,
        "corrections": operand.corrections,
        "corrections_4": operand.corrections_4,
        "panels": packed(products, "w8", np.ones((32, 128), np.float32)),
        "out": np.zeros((3, 32), np.float32),
    }
    good = arguments[argument]
    assert good is not None
    for wrong in (good.astype(np.float64), good[..., ::2], np.concatenate([good, good]), None):
        with pytest.raises(TypeError, match=rf"^({argument}|out|values|panels): "):
            products.multiply("w8", **(arguments | {argument: wrong}))
    with pytest.raises(ValueError, match="unknown format 'w5'"):
        products.multiply("w5", **arguments)


def test_outputs_must_not_overlap_inputs(products: _native.Products) -> None:
    operand = prepare(products, "f32", np.ones((1, 32), np.float32))
    panels = packed(products, "f32", np.ones((32, 32), np.float32))
    with pytest.raises(ValueError, match="out: shares memory with values"):
        multiply(products, operand, panels, operand.values.reshape(1, 32))


def test_roofs_count_and_sum(products: _native.Products) -> None:
    memory = np.ones(4096, np.uint8)
    assert products.read(memory) == 1024 * 0x01010101
    memory[:4] += 1
    assert products.read(memory) == 1025 * 0x01010101
    for kind in ("int8", "bf16", "f32"):
        assert products.spin(kind, 20) == 2 * products.spin(kind, 10) > 0
    with pytest.raises(TypeError, match=r"^memory: "):
        products.read(memory[:100])


def _innermost_loops(mnemonic: str) -> Iterator[list[str]]:
    """Bodies of loops of the library without a jump inside that have this instruction and prefetch:
    those of the products are the only ones."""
    listing = subprocess.check_output(
        ["objdump", "-d", "--no-show-raw-insn", _native.__file__], text=True
    )
    body: list[str] = []
    where: dict[str, int] = {}
    for line in listing.splitlines():
        match = re.match(r"\s+([0-9a-f]+):\s+(.*)", line)
        if not match:
            body, where = [], {}
            continue
        where[match[1]] = len(body)
        body.append(match[2])
        jump = re.match(r"j\w+\s+([0-9a-f]+)", match[2])
        if jump:
            if jump[1] in where:
                loop = body[where[jump[1]] :]
                if all(any(word in one for one in loop) for word in (mnemonic, "prefetcht0")):
                    yield loop
            body, where = [], {}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="other machine code")
@pytest.mark.skipif("avx512bf16" not in _native.instruction_sets(), reason="another machine")
@pytest.mark.slow  # disassembles the library
@pytest.mark.parametrize("mnemonic", ["vpdpbusd", "vdpbf16ps"])
def test_hot_loops_keep_their_sums_in_registers(mnemonic: str) -> None:
    """gcc 12 likes to copy accumulators to the stack and back around these instructions."""
    counted = 0
    for loop in _innermost_loops(mnemonic):
        products = sum(mnemonic in one for one in loop)
        if not any("zmm" in one for one in loop) or products < 8:
            continue
        counted += 1
        text = "\n".join(loop)
        assert not re.search(r"\bv\w+ .*%r[sb]p", text), text
        assert sum(one.startswith(("vmovdqa", "vmovaps")) for one in loop) <= products // 2, text
    assert counted >= 8
