"""The native product against its NumPy twin: equal bits for every shape, thread and neighbour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo import _native
from octavo.backends import canonical
from tests.ops.helpers import AWKWARD_VALUES, F32, assert_same_bits, at_end_of_page, normal

# Rows on both sides of every tile height (4, 6, 12) and of the packing thresholds (2, 4); columns
# on both sides of vectors (8, 16), panels (32) and blocks (64 to 256); depths around the block of
# 128.
SHAPES = [
    (1, 0, 1),
    (1, 1, 1),
    (1, 300, 70),
    (2, 17, 33),
    (3, 127, 16),
    (4, 128, 31),
    (5, 129, 8),
    (5, 257, 8),
    (6, 64, 9),
    (7, 3, 65),
    (8, 100, 64),
    (12, 77, 32),
    (13, 5, 48),
    (15, 256, 7),
    (16, 33, 15),
    (17, 300, 1),
    (25, 129, 47),
    (48, 2, 70),
    (64, 60, 63),
    (31, 0, 5),
    (16, 513, 40),
    (2, 9, 300),
    (200, 8, 130),
]


def run(kernels: _native.Kernels, a: F32, b: F32, bias: F32 | None = None) -> F32:
    # Filled with NaN: an element that nobody writes, or that is read before it is written, shows.
    out = np.full((*a.shape[:-1], b.shape[-1]), np.nan, np.float32)
    kernels.product(a, b, out, bias)
    return out


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_equals_the_twin(kernels: _native.Kernels, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng([m, k, n])
    a, b, bias = normal(rng, m, k), normal(rng, k, n), normal(rng, n)
    assert_same_bits(run(kernels, a, b), canonical.product(a, b))
    assert_same_bits(run(kernels, a, b, bias), canonical.product(a, b, bias))


def test_the_chain_is_fused_and_ascending(kernels: _native.Kernels) -> None:
    # 1 + 2^-12 squared needs 25 bits: rounded before the addition, the difference is lost.
    x = np.float32(1 + 2.0**-12)
    a = np.array([[-1.0, x]], np.float32)
    b = np.array([[np.float32(1 + 2.0**-11)], [x]], np.float32)
    assert run(kernels, a, b)[0, 0] == np.float32(2.0**-24)
    # 2^24 first swallows the ones that follow; in any other order they would count.
    a = np.array([[2.0**24, 1.0, 1.0, 1.0]], np.float32)
    assert run(kernels, a, np.ones((4, 1), np.float32))[0, 0] == np.float32(2.0**24)


@given(
    m=st.integers(1, 64),
    n=st.integers(1, 70),
    k=st.integers(0, 300),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
    row=st.integers(0, 63),
    with_bias=st.booleans(),
)
def test_sets_threads_and_neighbours_change_nothing(
    pools: dict[int, _native.ThreadPool],
    m: int,
    n: int,
    k: int,
    threads: int,
    seed: int,
    row: int,
    with_bias: bool,
) -> None:
    rng = np.random.default_rng(seed)
    row %= m
    a, b = normal(rng, m, k), normal(rng, k, n)
    bias = normal(rng, n) if with_bias else None
    expected = run(_native.Kernels(pools[1], "scalar"), a, b, bias)
    for name in _native.instruction_sets():
        kernels = _native.Kernels(pools[threads], name)
        assert_same_bits(run(kernels, a, b, bias), expected)
        assert_same_bits(run(kernels, a[row : row + 1], b, bias), expected[row : row + 1])
    assert_same_bits(
        canonical.product_row(a[row], b[:, :3], None if bias is None else bias[:3]),
        expected[row, :3],
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_of_rows_columns_and_depth(
    pools: dict[int, _native.ThreadPool], instruction_set: str, threads: int
) -> None:
    """Larger than every block, so that all of them and their remainders occur."""
    rng = np.random.default_rng(5)
    a, b, bias = normal(rng, 211, 393), normal(rng, 393, 1061), normal(rng, 1061)
    out = run(_native.Kernels(pools[threads], instruction_set), a, b, bias)
    for row in (0, 191, 192, 210):
        assert_same_bits(out[row], canonical.product_row(a[row], b, bias))


def test_batch_equals_its_matrices_alone(kernels: _native.Kernels) -> None:
    rng = np.random.default_rng(6)
    a, b = normal(rng, 5, 19, 40), normal(rng, 5, 40, 21)
    out = run(kernels, a, b)
    for i in range(5):
        assert_same_bits(out[i], run(kernels, a[i].copy(), b[i].copy()))
    assert_same_bits(out[3], canonical.product(a[3], b[3]))


@pytest.mark.parametrize("m", [1, 3, 20])
def test_awkward_values(kernels: _native.Kernels, m: int) -> None:
    rng = np.random.default_rng(7)
    a = rng.choice(AWKWARD_VALUES, (m, 6))
    b = rng.choice(AWKWARD_VALUES, (6, 67))
    assert_same_bits(run(kernels, a, b), canonical.product(a, b))


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0)])
def test_empty_operands(kernels: _native.Kernels, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    out = run(kernels, np.ones((m, k), np.float32), np.ones((k, n), np.float32))
    assert_same_bits(out, np.zeros((m, n), np.float32))


@pytest.mark.parametrize(("m", "k", "n"), [(1, 5, 130), (3, 7, 9), (12, 4, 33), (37, 9, 35)])
def test_stays_inside_its_operands(kernels: _native.Kernels, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng([m, k, n])
    a, b, bias = (at_end_of_page(normal(rng, *shape)) for shape in ((m, k), (k, n), (n,)))
    out = at_end_of_page(np.zeros((m, n), np.float32))
    kernels.product(a, b, out, bias)
    assert_same_bits(out.copy(), canonical.product(a, b, bias))
