"""exp, log, tanh and sigmoid: equal bits in every instruction set, and close to the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo import _native
from octavo.backends import canonical
from tests.ops.helpers import AWKWARD_VALUES, F32, assert_same_bits, at_end_of_page

F64 = NDArray[np.float64]


def true_sigmoid(x: F64) -> F64:
    power = np.exp(-np.abs(x))
    return np.where(x < 0, power, 1.0) / (1.0 + power)


TWINS: dict[str, Callable[[F32], F32]] = {
    "exp": canonical.exp,
    "log": canonical.log,
    "tanh": canonical.tanh,
    "sigmoid": canonical.sigmoid,
}
TRUTHS: dict[str, Callable[[F64], F64]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": true_sigmoid,
}
# Units in the last place; octavo/_native.pyi promises them.
MAX_ULPS = {"exp": 1.01, "log": 0.83, "tanh": 1.33, "sigmoid": 2.41}

INF = np.inf
EDGES = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (88.8, INF), (-104.0, 0.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, np.nan), (-1e-45, np.nan), (1.0, 0.0)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (20.0, 1.0), (1e-45, 1e-45)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (100.0, 1.0), (-104.0, 0.0)],
}


@pytest.fixture(params=TWINS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(kernels: _native.Kernels, name: str, x: F32) -> F32:
    out = np.empty_like(x)
    getattr(kernels, name)(x, out)
    return out


def every_kind_of_float(step: int) -> F32:
    """All float32 bit patterns, `step` apart: every exponent and sign, NaNs and denormals."""
    return np.arange(0, 2**32, step, np.uint32).view(np.float32)


def dense_sample() -> F32:
    rng = np.random.default_rng(3)
    return np.concatenate(
        [
            every_kind_of_float(9973),
            rng.uniform(-105, 90, 200_000).astype(np.float32),
            rng.standard_normal(200_000, np.float32),
        ]
    )


def test_every_instruction_set_gives_the_bits_of_the_twin(
    kernels: _native.Kernels, name: str
) -> None:
    x = np.concatenate(
        [AWKWARD_VALUES, every_kind_of_float(150_001), np.linspace(-104.5, 89, 5_003, dtype="f4")]
    )
    assert_same_bits(run(kernels, name, x), TWINS[name](x))


def test_instruction_sets_agree_densely(pools: dict[int, _native.ThreadPool], name: str) -> None:
    x = dense_sample()
    expected = run(_native.Kernels(pools[1], "scalar"), name, x)
    for instruction_set in _native.instruction_sets():
        assert_same_bits(run(_native.Kernels(pools[3], instruction_set), name, x), expected)


def test_error_is_within_the_documented_bound(kernels: _native.Kernels, name: str) -> None:
    x = dense_sample()
    x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        truth = TRUTHS[name](x.astype(np.float64))
        nearest = truth.astype(np.float32)
        actual = run(kernels, name, x)
        finite = np.isfinite(nearest)
        ulps = np.abs(actual[finite] - truth[finite]) / np.spacing(np.abs(nearest[finite]))
    assert ulps.max() <= MAX_ULPS[name], f"at {x[finite][ulps.argmax()]!r}"
    assert_same_bits(actual[~finite], nearest[~finite])


@pytest.mark.parametrize(("name", "x", "expected"), [(n, x, y) for n in EDGES for x, y in EDGES[n]])
def test_edges(kernels: _native.Kernels, name: str, x: float, expected: float) -> None:
    # 17 copies: a full vector and a tail.
    actual = run(kernels, name, np.full(17, x, np.float32))
    assert_same_bits(actual, np.full(17, expected, np.float32))


def test_exp_underflows_gradually(kernels: _native.Kernels) -> None:
    x = np.linspace(-103.9, -87.4, 3_001, dtype=np.float32)
    actual = run(kernels, "exp", x)
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    assert np.abs(actual - np.exp(x.astype(np.float64))).max() <= 0.8 * smallest
    assert actual.max() < np.finfo(np.float32).tiny


def test_in_place_and_any_shape(kernels: _native.Kernels, name: str) -> None:
    x = np.linspace(0.01, 3, 3 * 5 * 7, dtype=np.float32).reshape(3, 5, 7)
    expected = run(kernels, name, x)
    getattr(kernels, name)(x, x)
    assert_same_bits(x, expected)
    scalar = np.full((), 0.5, np.float32)
    assert_same_bits(run(kernels, name, scalar), TWINS[name](np.atleast_1d(scalar)).reshape(()))
    assert run(kernels, name, np.empty((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("count", [1, 7, 8, 15, 17])
def test_stays_inside_its_operands(kernels: _native.Kernels, name: str, count: int) -> None:
    x = at_end_of_page(np.linspace(0.1, 2, count, dtype=np.float32))
    out = at_end_of_page(np.zeros(count, np.float32))
    getattr(kernels, name)(x, out)
    assert_same_bits(out.copy(), TWINS[name](x))
