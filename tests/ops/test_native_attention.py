"""Paged attention over bf16 and int8 pages: the twin's bits in every instruction set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo import _native
from octavo.backends import canonical_attention as twins
from octavo.backends.canonical_attention import (
    CHUNK_TOKENS,
    PAGE_TOKENS,
    SMALLEST_WEIGHT,
    ChunkResult,
)
from tests.ops.helpers import AWKWARD_VALUES, F32, assert_same_bits, at_end_of_page, normal
from tests.ops.packed import FLUSHING

I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

FORMATS = ["bf16", "int8"]
NAN = np.float32(np.nan)
MAX = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Unit:
    """Queries of one KV head and the chunk that they look at, in float32."""

    queries: F32  # (rows, head_dim)
    keys: F32  # (tokens, head_dim)
    values: F32
    first: I32  # (rows,)
    last: I32
    scale: float

    def rows(self, order: NDArray[np.int64] | list[int]) -> Unit:
        return Unit(
            self.queries[order],
            self.keys,
            self.values,
            self.first[order],
            self.last[order],
            self.scale,
        )


@dataclass(frozen=True, slots=True)
class Pages:
    """A pool in which the chunk's pages lie somewhere."""

    keys: U8  # (pages, bytes)
    values: U8
    table: I32  # (pages of the chunk,)


@pytest.fixture
def attention(pools: dict[int, _native.ThreadPool], instruction_set: str) -> Attention:
    return Attention(pools[1], instruction_set)


@pytest.fixture(params=FORMATS)
def kv_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def unit(rng: np.random.Generator, rows: int, head_dim: int, ranges: list[tuple[int, int]]) -> Unit:
    """Row r sees the range r modulo their number."""
    first = np.array([ranges[r % len(ranges)][0] for r in range(rows)], np.int32)
    last = np.array([ranges[r % len(ranges)][1] for r in range(rows)], np.int32)
    num_tokens = math.ceil(max(1, last.max()) / PAGE_TOKENS) * PAGE_TOKENS
    queries, keys = normal(rng, rows, head_dim), normal(rng, num_tokens, head_dim)
    values = normal(rng, num_tokens, head_dim)
    return Unit(queries, keys, values, first, last, head_dim**-0.5)


class Attention:
    """The kernels of one instruction set, from float32 to float32."""

    def __init__(self, pool: _native.ThreadPool, instruction_set: str) -> None:
        self.kernels = _native.AttentionKernels(pool, instruction_set)
        self.flushes = instruction_set in FLUSHING

    def pages(self, one: Unit, kv_format: str, *, pool_pages: int = 20, fill: int = 0xFF) -> Pages:
        """Keys and values written one by one into pages out of order; the rest of the pool, the
        pages that nobody sees among it, is `fill` (0xFF: NaN in bf16)."""
        head_dim = one.keys.shape[1]
        padded = math.ceil(head_dim / 4) * 4
        size = PAGE_TOKENS * (2 * head_dim if kv_format == "bf16" else padded + 4)
        keys = np.full((pool_pages, size), fill, np.uint8)
        values = keys.copy()
        num_pages = len(one.keys) // PAGE_TOKENS
        table = np.random.default_rng(len(one.keys)).permutation(pool_pages)[:num_pages]
        seen = np.zeros(len(one.keys), bool)
        for first, last in zip(one.first, one.last, strict=True):
            seen[first:last] = True
        write = getattr(self.kernels, f"write_kv_{kv_format}")
        for token in np.flatnonzero(seen).tolist():
            page = table[token // PAGE_TOKENS]
            key, value = one.keys[token], one.values[token]
            write(key, value, token % PAGE_TOKENS, keys[page], values[page])
        page_seen = seen.reshape(num_pages, PAGE_TOKENS).any(axis=1)
        return Pages(keys, values, np.where(page_seen, table, -1).astype(np.int32))

    def attend(
        self, one: Unit, pages: Pages, kv_format: str, *, values_are_finite: bool = True
    ) -> ChunkResult:
        rows, head_dim = one.queries.shape
        # Filled with a number: what nobody writes shows.
        peaks, sums = (at_end_of_page(np.full((1, rows), 9, np.float32)) for _ in range(2))
        out = at_end_of_page(np.full((1, rows, head_dim), 9, np.float32))
        first, last, table = one.first[None], one.last[None], pages.table[None]
        if kv_format == "bf16":
            queries = np.zeros((1, head_dim // 2, rows, 2), np.uint16)
            self.kernels.queries_bf16(one.queries, queries[0])
            self.kernels.attend_bf16(
                queries, pages.keys, pages.values, table, first, last, one.scale,
                values_are_finite, peaks, sums, out,
            )  # fmt: skip
        else:
            quads = np.zeros((1, math.ceil(head_dim / 4), rows, 4), np.int8)
            scales = np.zeros((1, rows), np.float32)
            corrections = np.zeros((1, rows), np.int32)
            self.kernels.queries_int8(one.queries, quads[0], scales[0], corrections[0])
            self.kernels.attend_int8(
                quads, scales, corrections, pages.keys, pages.values, table, first, last,
                one.scale, peaks, sums, out,
            )  # fmt: skip
        return ChunkResult(peaks[0].copy(), sums[0].copy(), out[0].copy())

    def run(self, one: Unit, kv_format: str, *, values_are_finite: bool = True) -> ChunkResult:
        pages = self.pages(one, kv_format)
        return self.attend(one, pages, kv_format, values_are_finite=values_are_finite)

    def twin(self, one: Unit, kv_format: str) -> ChunkResult:
        return twin(one, kv_format, flushes=self.flushes)


def twin(one: Unit, kv_format: str, *, flushes: bool = False) -> ChunkResult:
    if kv_format == "bf16":
        keys, values = twins.to_bf16(one.keys), twins.to_bf16(one.values)
        return twins.attend_bf16(
            one.queries, keys, values, one.first, one.last, one.scale, flushes=flushes
        )
    return twins.attend_int8(
        one.queries,
        twins.quantize(one.keys),
        twins.quantize(one.values),
        one.first,
        one.last,
        one.scale,
    )


def assert_same_result(actual: ChunkResult, expected: ChunkResult) -> None:
    assert_same_bits(actual.peaks, expected.peaks)
    assert_same_bits(actual.sums, expected.sums)
    assert_same_bits(actual.out, expected.out)


def row_of(result: ChunkResult, row: int) -> ChunkResult:
    rows = slice(row, row + 1)
    return ChunkResult(result.peaks[rows], result.sums[rows], result.out[rows])


# Rows on both sides of every tile height (4, 6, 12) and of the blocks of pages; head sizes on both
# sides of vectors (8, 16) and their blocks.
@pytest.mark.parametrize("rows", range(1, 13))
@pytest.mark.parametrize("head_dim", [2, 18, 64, 80])
def test_equals_the_twin(attention: Attention, kv_format: str, rows: int, head_dim: int) -> None:
    rng = np.random.default_rng([rows, head_dim])
    one = unit(rng, rows, head_dim, [(0, 80), (3, 71), (17, 33), (0, 1), (79, 80)])
    assert_same_result(attention.run(one, kv_format), attention.twin(one, kv_format))


@pytest.mark.parametrize(("rows", "head_dim"), [(1, 256), (7, 128), (12, 96), (12, 254)])
def test_whole_chunks_equal_the_twin(
    attention: Attention, kv_format: str, rows: int, head_dim: int
) -> None:
    rng = np.random.default_rng([rows, head_dim, 1])
    one = unit(rng, rows, head_dim, [(0, CHUNK_TOKENS)])
    assert_same_result(attention.run(one, kv_format), attention.twin(one, kv_format))


BORDERS = [
    [(0, 16)],
    [(15, 16), (16, 17)],
    [(0, 15), (1, 17), (31, 32)],
    [(16, 48)],
    [(200, 256), (201, 256), (255, 256)],
    [(10, 10), (0, 40)],  # one row sees nothing
    [(0, 5), (100, 105), (250, 256)],  # pages between them that nobody sees
    [(5, 5)],  # nobody sees anything
    [(40, 3), (0, 256)],
]


@pytest.mark.parametrize("ranges", BORDERS)
@pytest.mark.parametrize("rows", [1, 3, 11])
def test_ranges(
    attention: Attention, kv_format: str, ranges: list[tuple[int, int]], rows: int
) -> None:
    """What nobody sees is NaN in these pages, or not there at all."""
    rng = np.random.default_rng(rows)
    one = unit(rng, rows, 32, ranges)
    result = attention.run(one, kv_format)
    assert_same_result(result, attention.twin(one, kv_format))
    assert np.isfinite(result.out).all()
    blind = one.first >= one.last
    assert (result.peaks[blind] == -np.inf).all()
    assert_same_bits(result.sums[blind], np.zeros(blind.sum(), np.float32))
    assert_same_bits(result.out[blind], np.zeros_like(result.out[blind]))


@given(
    rows=st.integers(1, 12),
    half_head_dim=st.integers(1, 70),
    ranges=st.lists(
        st.tuples(st.integers(0, CHUNK_TOKENS), st.integers(0, CHUNK_TOKENS)),
        min_size=1,
        max_size=12,
    ),
    kv_format=st.sampled_from(FORMATS),
    fill=st.sampled_from([0, 0x7F, 0xFF]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sets_neighbours_and_page_tables_change_nothing(
    pools: dict[int, _native.ThreadPool],
    rows: int,
    half_head_dim: int,
    ranges: list[tuple[int, int]],
    kv_format: str,
    fill: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    one = unit(rng, rows, 2 * half_head_dim, ranges)
    expected = twin(one, kv_format)
    row = int(rng.integers(rows))
    order = rng.permutation(rows)
    for name in _native.instruction_sets():
        attention = Attention(pools[1], name)
        pages = attention.pages(one, kv_format, fill=fill, pool_pages=int(rng.integers(16, 40)))
        assert_same_result(attention.attend(one, pages, kv_format), expected)
        # Each row given only what it sees, as where some value is not finite.
        careful = attention.attend(one, pages, kv_format, values_are_finite=False)
        assert_same_result(careful, expected)
        alone = attention.attend(one.rows([row]), pages, kv_format)
        assert_same_result(alone, row_of(expected, row))
        shuffled = attention.attend(one.rows(order), pages, kv_format)
        assert_same_bits(shuffled.out, expected.out[order])
        assert_same_bits(shuffled.sums, expected.sums[order])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_units_in_one_call(
    pools: dict[int, _native.ThreadPool], instruction_set: str, threads: int
) -> None:
    """Units one after the other, on several threads, each fetching what the next one reads."""
    rng = np.random.default_rng(9)
    units = [unit(rng, 7, 64, [(0, 90 + i)]) for i in range(9)]
    attention = Attention(pools[threads], instruction_set)
    pages = [attention.pages(one, "bf16", pool_pages=7) for one in units]
    queries = np.zeros((9, 32, 7, 2), np.uint16)
    for i, one in enumerate(units):
        attention.kernels.queries_bf16(one.queries, queries[i])
    tables = np.full((9, 7), -1, np.int32)
    for i, each in enumerate(pages):
        tables[i, : len(each.table)] = np.where(each.table < 0, -1, each.table + 7 * i)
    peaks, sums = np.zeros((2, 9, 7), np.float32)
    out = np.zeros((9, 7, 64), np.float32)
    attention.kernels.attend_bf16(
        queries,
        np.concatenate([each.keys for each in pages]),
        np.concatenate([each.values for each in pages]),
        tables,
        np.stack([one.first for one in units]),
        np.stack([one.last for one in units]),
        units[0].scale,
        True,
        peaks,
        sums,
        out,
    )
    for i, one in enumerate(units):
        result = ChunkResult(peaks[i], sums[i], out[i])
        assert_same_result(result, attention.twin(one, "bf16"))


@pytest.mark.parametrize("where", ["queries", "keys", "values"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_only_the_rows_that_see_it(
    attention: Attention, kv_format: str, where: str, bad: float
) -> None:
    rng = np.random.default_rng(3)
    # Rows 0 and 3 end before token 21, rows 1 and 4 see it, rows 2 and 5 begin after it.
    good = unit(rng, 6, 48, [(0, 21), (0, 40), (22, 40)])
    spoilt = Unit(
        good.queries.copy(), good.keys.copy(), good.values.copy(), good.first, good.last, good.scale
    )
    victims = [1, 4]
    if where == "queries":
        spoilt.queries[4, 7] = bad
        victims = [4]
    elif where == "keys":
        spoilt.keys[21, 7] = bad
    else:
        spoilt.values[21, 7] = bad
    result = attention.run(spoilt, kv_format, values_are_finite=where != "values")
    assert_same_result(result, attention.twin(spoilt, kv_format))
    expected = attention.run(good, kv_format)
    for row in range(6):
        if row in victims and where == "keys" and not np.isnan(bad):
            continue  # the score may be -inf, and its weight 0
        if row in victims:
            assert not np.isfinite(result.out[row]).all()
        else:
            assert_same_result(row_of(result, row), row_of(expected, row))


def test_awkward_values(attention: Attention, kv_format: str) -> None:
    """Denormals, infinities, NaN and the largest numbers, in every place."""
    rng = np.random.default_rng(4)
    one = unit(rng, 9, 34, [(0, 48), (5, 30), (47, 48)])
    for array in (one.queries, one.keys, one.values):
        holes = rng.random(array.shape) < 0.02
        array[holes] = rng.choice(AWKWARD_VALUES, int(holes.sum()))
    for scale in (0.1, -0.5, 0.0, 1e30, 1e-40, math.nan):
        scaled = Unit(one.queries, one.keys, one.values, one.first, one.last, scale)
        result = attention.run(scaled, kv_format, values_are_finite=False)
        assert_same_result(result, attention.twin(scaled, kv_format))


def test_small_numbers(attention: Attention, kv_format: str) -> None:
    """Where products are denormal: bf16 keeps or flushes them as its twin says, int8 has none."""
    rng = np.random.default_rng(5)
    one = unit(rng, 5, 32, [(0, 32), (3, 29)])
    for size in (1e-19, 1e-25, 1e-30, 1e-36, 1e-39, 1e-45):
        factor = np.float32(size)
        small = Unit(one.queries, one.keys * factor, one.values * factor, one.first, one.last, 1.0)
        result = attention.run(small, kv_format)
        assert_same_result(result, attention.twin(small, kv_format))
        if kv_format == "int8":
            sizes = np.abs(result.out[result.out != 0])
            assert (sizes >= 2.0**-107).all()


def test_small_weights_of_int8(attention: Attention) -> None:
    """Weights around 2^-100 after their scales: 0 below, and nothing denormal above."""
    one = unit(np.random.default_rng(6), 4, 16, [(0, 64)])
    # Scores fall by 2 a token, so that weights run from 1 down to 0.
    one.queries[:] = 1
    one.keys[:] = -np.arange(64, dtype=np.float32)[:, None]
    for scale in (1.0, 2.0**-40, 2.0**-90, 2.0**-99):
        scaled = Unit(
            one.queries, one.keys, one.values * np.float32(scale), one.first, one.last, 0.125
        )
        result = attention.run(scaled, "int8")
        assert_same_result(result, twin(scaled, "int8"))
        assert (np.abs(result.out[result.out != 0]) >= 2.0**-107).all()


def test_overflow_stays_in_its_row(attention: Attention, kv_format: str) -> None:
    rng = np.random.default_rng(7)
    one = unit(rng, 6, 32, [(0, 16), (0, 32)])
    expected = attention.run(one, kv_format)
    one.values[16:] = np.float32(3.38e38)  # the largest bf16, nearly; rows 1, 3 and 5 see them
    one.queries[1::2] *= np.float32(1e-3)  # and weigh them alike, so that the sum overflows
    result = attention.run(one, kv_format)
    assert_same_result(result, attention.twin(one, kv_format))
    assert not np.isfinite(result.out[1::2]).all()
    for row in (0, 2, 4):
        assert_same_result(row_of(result, row), row_of(expected, row))


def test_scales_of_unseen_tokens_may_be_anything(attention: Attention) -> None:
    one = unit(np.random.default_rng(8), 5, 20, [(3, 30)])
    pages = attention.pages(one, "int8", fill=0)
    expected = attention.attend(one, pages, "int8")
    for page in pages.table:
        for array in (pages.keys, pages.values):
            scales = array[page].view(np.float32)[-PAGE_TOKENS:]
            scales[scales == 0] = NAN
    assert_same_result(attention.attend(one, pages, "int8"), expected)


def test_operands_may_end_at_a_protected_page(attention: Attention, kv_format: str) -> None:
    for rows, head_dim in ((1, 2), (5, 18), (12, 66), (7, 80)):
        rng = np.random.default_rng([rows, head_dim])
        one = unit(rng, rows, head_dim, [(0, 16)])
        pages = attention.pages(one, kv_format, pool_pages=1)
        keys = at_end_of_page(pages.keys.view(np.float32)).view(np.uint8)
        values = at_end_of_page(pages.values.view(np.float32)).view(np.uint8)
        guarded = Pages(keys, values, pages.table)
        result = attention.attend(one, guarded, kv_format)
        assert_same_result(result, attention.twin(one, kv_format))


@pytest.mark.parametrize("head_dim", [2, 6, 64, 66, 100])
def test_pages_lie_as_the_layout_says(attention: Attention, kv_format: str, head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    one = unit(rng, 1, head_dim, [(0, 16)])
    one.keys[3] = 0
    one.values[5, 0] = np.inf
    one.keys[6, 1] = 1e-42
    pages = attention.pages(one, kv_format, pool_pages=1)
    if kv_format == "bf16":
        key_page = twins.key_page_bf16(twins.to_bf16(one.keys))
        value_page = twins.value_page_bf16(twins.to_bf16(one.values))
    else:
        key_page = twins.key_page_int8(twins.quantize(one.keys))
        value_page = twins.value_page_int8(twins.quantize(one.values))
    np.testing.assert_array_equal(pages.keys[0], key_page)
    np.testing.assert_array_equal(pages.values[0], value_page)


@pytest.mark.parametrize(("rows", "head_dim"), [(1, 2), (5, 18), (12, 256)])
def test_queries_lie_as_the_layout_says(attention: Attention, rows: int, head_dim: int) -> None:
    queries = normal(np.random.default_rng(rows), rows, head_dim)
    queries[-1] = 0
    queries[0, 0] = -np.inf
    pairs = np.zeros((head_dim // 2, rows, 2), np.uint16)
    attention.kernels.queries_bf16(queries, pairs)
    expected = twins.to_bf16(queries).reshape(rows, -1, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(pairs, expected)
    padded = math.ceil(head_dim / 4) * 4
    quads = np.full((padded // 4, rows, 4), 9, np.int8)
    scales, corrections = np.zeros(rows, np.float32), np.zeros(rows, np.int32)
    attention.kernels.queries_int8(queries, quads, scales, corrections)
    quantized = twins.quantize(queries)
    values = np.pad(quantized.values, ((0, 0), (0, padded - head_dim)))
    np.testing.assert_array_equal(quads, values.reshape(rows, -1, 4).transpose(1, 0, 2))
    np.testing.assert_array_equal(corrections, -128 * values.sum(axis=1, dtype=np.int32))
    assert_same_bits(scales, quantized.scales)


def test_quantize_edges() -> None:
    rows = np.array(
        [[1, -2], [0, 0], [1e-31, 0], [np.nan, 1], [1, np.inf], [MAX, -MAX]], np.float32
    )
    quantized = twins.quantize(rows)
    expected = [[64, -127], [0, 0], [0, 0], [0, 0], [0, 0], [127, -127]]
    np.testing.assert_array_equal(quantized.values, expected)
    scale = np.float32(MAX) / np.float32(127)
    assert_same_bits(
        quantized.scales, np.array([np.float32(2) / np.float32(127), 0, 0, NAN, NAN, scale], "f4")
    )
    assert SMALLEST_WEIGHT > 1e-31


def test_to_bf16_rounds_to_even() -> None:
    x = np.array([1.00390625, 1.01171875, 3.4e38, -0.0, np.nan], np.float32)
    back = twins.from_bf16(twins.to_bf16(x))
    assert_same_bits(back, np.array([1.0, 1.015625, np.inf, -0.0, np.nan], np.float32))


def test_exp_nonpositive_equals_its_twin(attention: Attention) -> None:
    x = np.concatenate(
        [
            -np.abs(np.arange(0, 2**31, 99_991, np.uint32).view(np.float32)),
            np.linspace(-90, 0, 20_001, dtype=np.float32),
            np.array([-0.0, 0.0, -86.0, -86.00001, -np.inf, np.nan], np.float32),
        ]
    )
    out = np.empty_like(x)
    attention.kernels.exp_nonpositive(x, out)
    assert_same_bits(out, twins.exp_nonpositive(x))


def test_error_of_exp_nonpositive(attention: Attention) -> None:
    x = np.linspace(-86, 0, 1_000_001, dtype=np.float32)
    out = np.empty_like(x)
    attention.kernels.exp_nonpositive(x, out)
    truth = np.exp(x.astype(np.float64))
    ulps = np.abs(out - truth) / np.spacing(truth.astype(np.float32))
    assert ulps.max() <= 2.2, f"{ulps.max()} at {x[ulps.argmax()]!r}"
    assert out.max() == 1.0
    assert out.min() >= 2.0**-125


# The largest error of an output, in units of the largest value: bf16 has 8 bits, int8 has about 7
# and the keys' errors sit in an exponent.
@pytest.mark.parametrize(("kv_format", "bound"), [("bf16", 0.01), ("int8", 0.03)])
def test_accuracy(attention: Attention, kv_format: str, bound: float) -> None:
    rng = np.random.default_rng(11)
    one = unit(rng, 12, 64, [(0, 256), (7, 250)])
    result = attention.run(one, kv_format)
    q, k, v = (array.astype(np.float64) for array in (one.queries, one.keys, one.values))
    scores = q @ k.T * one.scale
    tokens = np.arange(len(k))
    visible = (tokens >= one.first[:, None]) & (tokens < one.last[:, None])
    weights = np.where(visible, np.exp(scores - scores.max(axis=1, keepdims=True)), 0.0)
    truth = weights @ v / weights.sum(axis=1, keepdims=True)
    error = np.abs(result.out / result.sums[:, None] - truth).max() / np.abs(v).max()
    assert error < bound, error


def test_arguments_are_checked(attention: Attention) -> None:
    kernels = attention.kernels
    x = np.zeros((3, 8), np.float32)
    with pytest.raises(TypeError, match="queries: dtype is not uint16"):
        kernels.queries_bf16(x, np.zeros((4, 3, 2), np.float32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"queries: shape is \(4, 3, 3\), expected \(4, 3, 2\)"):
        kernels.queries_bf16(x, np.zeros((4, 3, 3), np.uint16))
    with pytest.raises(ValueError, match="between 1 and 12 rows"):
        kernels.queries_bf16(np.zeros((13, 8), np.float32), np.zeros((4, 13, 2), np.uint16))
    with pytest.raises(ValueError, match="head_dim must be even"):
        kernels.queries_bf16(np.zeros((1, 7), np.float32), np.zeros((3, 1, 2), np.uint16))
    page = np.zeros(256, np.uint8)
    with pytest.raises(ValueError, match="slot"):
        kernels.write_kv_bf16(x[0], x[0], 16, page, page.copy())
    with pytest.raises(ValueError, match="key_page: shares memory with value_page"):
        kernels.write_kv_bf16(x[0], x[0], 0, page, page)
    one = unit(np.random.default_rng(0), 2, 8, [(0, 20)])
    pages = attention.pages(one, "bf16")
    with pytest.raises(ValueError, match="a row sees a page that is not there"):
        attention.attend(one, Pages(pages.keys, pages.values, -pages.table - 1), "bf16")
    with pytest.raises(ValueError, match="there is no such page"):
        attention.attend(one, Pages(pages.keys, pages.values, pages.table + 20), "bf16")
    with pytest.raises(ValueError, match="outside of the chunk"):
        attention.attend(one, Pages(pages.keys, pages.values, pages.table[:1]), "bf16")
