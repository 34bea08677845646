"""Choosing an instruction set by name, by environment, or as the best there is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from octavo import _native

NOT_X86 = "avx2" not in _native.cpu_features()
EVERYTHING = {*_native.cpu_features(), "tile_permission"}
ANSWERED_BY_A_FILTER = """
import ctypes, struct, sys
from octavo import _native

def step(code, true, false, value):
    return struct.pack("=HBBI", code, true, false, value)

# Answers arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) with argv[1], and no other call.
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
filter = b"".join([
    step(LOAD, 0, 0, 0), step(EQUAL, 0, 5, 158),
    step(LOAD, 0, 0, 16), step(EQUAL, 0, 3, 0x1023),
    step(LOAD, 0, 0, 24), step(EQUAL, 0, 1, 18),
    step(RETURN, 0, 0, 0x00050000 | int(sys.argv[1])), step(RETURN, 0, 0, 0x7FFF0000),
])
code = ctypes.create_string_buffer(filter, len(filter))
program = struct.pack("HxxxxxxP", len(filter) // 8, ctypes.addressof(code))
NO_NEW_PRIVILEGES, SECCOMP, BY_FILTER = 38, 22, 2
prctl = ctypes.CDLL(None).prctl
prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
if prctl(NO_NEW_PRIVILEGES, 1, None, 0, 0) or prctl(SECCOMP, BY_FILTER, program, 0, 0):
    sys.exit(77)
print(_native.request_tiles())
print(*_native.instruction_sets())
try:
    _native.Kernels(_native.ThreadPool(1), "amx")
    print("none")
except ValueError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def _no_forced_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTAVO_CPU_ISA", raising=False)


@pytest.fixture
def pool(pools: dict[int, _native.ThreadPool]) -> _native.ThreadPool:
    return pools[1]


def test_the_best_one_by_default(pool: _native.ThreadPool) -> None:
    only_by_name = _native.instruction_sets_only_by_name()
    best = [name for name in _native.instruction_sets() if name not in only_by_name][-1]
    assert _native.Kernels(pool).instruction_set == best
    assert _native.best_instruction_set() == best


@pytest.mark.skipif(NOT_X86, reason="not an x86 processor")
def test_the_best_one_is_never_one_that_is_only_used_by_name() -> None:
    assert _native.instruction_sets_only_by_name() == ["amx"]
    usable = _native.instruction_sets(EVERYTHING)
    assert usable[-2:] == ["avx512bf16", "amx"]
    assert _native.best_instruction_set(EVERYTHING) == "avx512bf16"


@pytest.mark.skipif(NOT_X86, reason="not an x86 processor")
def test_tiles_need_all_their_features_and_the_permission_of_the_system() -> None:
    for missing in ("amx_tile", "amx_int8", "amx_bf16", "tile_permission"):
        assert "amx" not in _native.instruction_sets(EVERYTHING - {missing})


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
    monkeypatch.setenv("OCTAVO_CPU_ISA", "amx")
    usable = ", ".join(_native.instruction_sets())
    reason = ".from OCTAVO_CPU_ISA. is (unknown|not usable on this machine, which has no [a-z])"
    with pytest.raises(ValueError, match=f"'amx' {reason}.*; usable: {usable}$"):
        _native.Kernels(pool)


@pytest.mark.skipif(sys.platform != "linux" or NOT_X86, reason="Linux on x86 asks for permission")
@pytest.mark.parametrize(("errno", "granted"), [(0, True), (1, False), (22, False), (28, False)])
def test_the_answer_of_the_system_to_who_asks_for_tiles(errno: int, granted: bool) -> None:
    """A filter answers in its place (EPERM, EINVAL, ENOSPC), as it has no tiles to give here."""
    ended = subprocess.run(
        [sys.executable, "-c", ANSWERED_BY_A_FILTER, str(errno)], capture_output=True, text=True
    )
    if ended.returncode == 77:
        pytest.skip("this system lets nobody filter its calls")
    assert ended.returncode == 0, ended.stderr
    asked, usable, error = ended.stdout.splitlines()
    assert asked == str(granted)
    if not granted:
        assert "amx" not in usable.split()
        assert "'amx' is not usable on this machine, which has no " in error
