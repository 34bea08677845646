"""Counting usable cores, and what CPUID and the operating system say about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo import _native
from octavo.backends import cpu


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_allowed_cpus", lambda: set(range(8)))


@pytest.mark.usefixtures("eight_cpus")
class TestAvailableCores:
    def test_affinity_alone(self, tmp_path: Path) -> None:
        assert cpu.available_cores(tmp_path) == 8

    def test_hyper_threads_count_once(self, tmp_path: Path) -> None:
        for i in range(8):
            path = f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list"
            write(tmp_path, path, f"{i % 4},{i % 4 + 4}\n")
        assert cpu.available_cores(tmp_path) == 4

    @pytest.mark.parametrize(
        ("limit", "cores"),
        [("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)],
    )
    def test_cgroup_2(self, tmp_path: Path, limit: str, cores: int) -> None:
        write(tmp_path, "proc/self/cgroup", "0::/pod/app\n")
        write(tmp_path, "sys/fs/cgroup/pod/app/cpu.max", limit + "\n")
        assert cpu.available_cores(tmp_path) == cores

    def test_the_tightest_ancestor_wins(self, tmp_path: Path) -> None:
        write(tmp_path, "proc/self/cgroup", "0::/pod/app\n")
        write(tmp_path, "sys/fs/cgroup/pod/app/cpu.max", "600000 100000\n")
        write(tmp_path, "sys/fs/cgroup/pod/cpu.max", "200000 100000\n")
        assert cpu.available_cores(tmp_path) == 2

    def test_cgroup_2_whose_path_the_container_does_not_see(self, tmp_path: Path) -> None:
        write(tmp_path, "proc/self/cgroup", "0::/outer/hidden\n")
        write(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000\n")
        assert cpu.available_cores(tmp_path) == 2

    @pytest.mark.parametrize(("quota", "cores"), [("500000", 5), ("-1", 8)])
    def test_cgroup_1(self, tmp_path: Path, quota: str, cores: int) -> None:
        write(tmp_path, "proc/self/cgroup", "4:memory:/pod\n3:cpu,cpuacct:/pod\n")
        write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", quota + "\n")
        write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n")
        assert cpu.available_cores(tmp_path) == cores


def test_this_machine_has_at_least_one_core() -> None:
    assert cpu.available_cores() >= 1


def test_features_agree_with_the_kernel() -> None:
    """Linux lists a flag only if it saves the registers as well, as we do."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    if not lines:
        pytest.skip("no x86 flags in /proc/cpuinfo")
    flags = set(lines[0].split())
    features = _native.cpu_features()
    assert len(features) >= 10
    assert features == {name: name in flags for name in features}


def test_instruction_sets_follow_the_features() -> None:
    features = _native.cpu_features()
    sets = _native.instruction_sets()
    assert sets[0] == "scalar"
    assert ("avx2" in sets) == (features.get("avx2", False) and features["fma"])
    needed = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
    assert ("avx512" in sets) == all(features.get(name, False) for name in needed)
    tiles = ("avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
    has_tiles = "avx512" in sets and all(features.get(name) for name in tiles)
    assert ("amx" in sets) == (has_tiles and _native.request_tiles())
    assert set(cpu.instruction_sets_only_by_name()) == {"amx"} & set(sets)
