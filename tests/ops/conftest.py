"""Kernels under every instruction set of this machine."""

from __future__ import annotations

import pytest

from octavo import _native


@pytest.fixture(scope="session")
def pools() -> dict[int, _native.ThreadPool]:
    """Pools of one, two and three threads."""
    return {threads: _native.ThreadPool(threads) for threads in (1, 2, 3)}


@pytest.fixture(params=_native.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kernels(pools: dict[int, _native.ThreadPool], instruction_set: str) -> _native.Kernels:
    """One instruction set on two threads."""
    return _native.Kernels(pools[2], instruction_set)


@pytest.fixture
def products(pools: dict[int, _native.ThreadPool], instruction_set: str) -> _native.Products:
    """One instruction set on two threads."""
    return _native.Products(pools[2], instruction_set)
