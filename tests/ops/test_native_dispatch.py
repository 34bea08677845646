"""Choosing an instruction set by name, by environment, or as the best there is."""

from __future__ import annotations

import pytest

from octavo import _native


@pytest.fixture(autouse=True)
def _no_forced_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTAVO_CPU_ISA", raising=False)


@pytest.fixture
def pool(pools: dict[int, _native.ThreadPool]) -> _native.ThreadPool:
    return pools[1]


def test_the_best_one_by_default(pool: _native.ThreadPool) -> None:
    assert _native.Kernels(pool).instruction_set == _native.instruction_sets()[-1]


def test_by_name(pool: _native.ThreadPool, instruction_set: str) -> None:
    assert _native.Kernels(pool, instruction_set).instruction_set == instruction_set


def test_by_environment(pool: _native.ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_CPU_ISA", "scalar")
    assert _native.Kernels(pool).instruction_set == "scalar"
    best = _native.instruction_sets()[-1]
    assert _native.Kernels(pool, best).instruction_set == best  # the argument is stronger


def test_unknown_names_list_the_usable_ones(
    pool: _native.ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = ", ".join(_native.instruction_sets())
    with pytest.raises(ValueError, match=f"'quantum' is unknown.*usable: {usable}"):
        _native.Kernels(pool, "quantum")
    monkeypatch.setenv("OCTAVO_CPU_ISA", "AVX2")
    with pytest.raises(ValueError, match=f"'AVX2' .from OCTAVO_CPU_ISA.*usable: {usable}"):
        _native.Kernels(pool)


@pytest.mark.skipif("amx" in _native.instruction_sets(), reason="this machine has AMX")
def test_amx_is_refused_where_there_is_none(
    pool: _native.ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _native.cpu_features().get("amx_int8", False)
    monkeypatch.setenv("OCTAVO_CPU_ISA", "amx")
    usable = ", ".join(_native.instruction_sets())
    with pytest.raises(ValueError, match=f"'amx' .from OCTAVO_CPU_ISA.*usable: {usable}$"):
        _native.Kernels(pool)
