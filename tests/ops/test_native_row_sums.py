"""Sums of rows and of their squares against the NumPy twins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo import _native
from octavo.backends import canonical
from tests.ops.helpers import AWKWARD_VALUES, F32, assert_same_bits, at_end_of_page, normal

Twin = Callable[[F32], np.float32]
TWINS: dict[str, Twin] = {
    "row_sums": canonical.row_sum,
    "row_sums_of_squares": canonical.row_sum_of_squares,
}


@pytest.fixture(params=TWINS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(kernels: _native.Kernels, name: str, x: F32) -> F32:
    out = np.full(x.shape[0], np.nan, np.float32)
    getattr(kernels, name)(x, out)
    return out


def twin(name: str, x: F32) -> F32:
    return np.array([TWINS[name](row) for row in x], np.float32)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 100, 896])
def test_equals_the_twin(kernels: _native.Kernels, name: str, n: int) -> None:
    x = normal(np.random.default_rng(n), 5, n)
    assert_same_bits(run(kernels, name, x), twin(name, x))


def test_lanes_are_folded_in_the_documented_order(kernels: _native.Kernels) -> None:
    # 2^24 in lane 8 meets lane 0 first: 1 + 2^24 rounds to 2^24, and -2^24 in lane 4 leaves 0.
    # Summed from left to right the ones would survive.
    x = np.zeros((1, 16), np.float32)
    x[0, 0], x[0, 8], x[0, 4] = 1.0, 2.0**24, -(2.0**24)
    assert run(kernels, "row_sums", x)[0] == 0.0
    x[0, 0], x[0, 1] = 0.0, 1.0
    assert run(kernels, "row_sums", x)[0] == 1.0


def test_awkward_values(kernels: _native.Kernels, name: str) -> None:
    x = np.random.default_rng(1).choice(AWKWARD_VALUES, (40, 21))
    assert_same_bits(run(kernels, name, x), twin(name, x))


@given(
    rows=st.integers(0, 64),
    n=st.integers(0, 400),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sets_threads_and_neighbours_change_nothing(
    pools: dict[int, _native.ThreadPool], rows: int, n: int, threads: int, seed: int
) -> None:
    x = normal(np.random.default_rng(seed), rows, n)
    for name in TWINS:
        expected = run(_native.Kernels(pools[1], "scalar"), name, x)
        for instruction_set in _native.instruction_sets():
            kernels = _native.Kernels(pools[threads], instruction_set)
            assert_same_bits(run(kernels, name, x), expected)
            if rows > 0:
                assert_same_bits(run(kernels, name, x[-1:].copy()), expected[-1:])


@pytest.mark.parametrize("n", [1, 13, 16, 35])
def test_stays_inside_its_operands(kernels: _native.Kernels, name: str, n: int) -> None:
    x = at_end_of_page(normal(np.random.default_rng(n), 3, n))
    out = at_end_of_page(np.zeros(3, np.float32))
    getattr(kernels, name)(x, out)
    assert_same_bits(out.copy(), twin(name, x))
