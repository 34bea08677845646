"""Each check of the doctor on machines that are well and on machines that are not."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from octavo._native import (
    best_instruction_set,
    cpu_features,
    instruction_sets,
    instruction_sets_only_by_name,
)
from octavo.cli import checks, doctor
from octavo.cli.checks import Check, Verdict
from octavo.cli.machine import Machine
from octavo.weights.pack_cache import PackCache
from octavo.weights.packed_file import Contents
from tests.command_line import CommandLine

OK, WARNING, PROBLEM = Verdict.OK, Verdict.WARNING, Verdict.PROBLEM
WELL = Machine(
    version="1",
    python="3.11",
    system="Linux",
    cpu="a processor",
    features=("avx2", "fma", "f16c"),
    instruction_sets=("scalar", "avx2"),
    only_by_name=(),
    instruction_set="avx2",
    logical_cpus=8,
    usable_cores=4,
    total_bytes=2**36,
    available_bytes=2**35,
    cgroup_limit_bytes=None,
    huge_pages="madvise",
    libraries={"numpy": "2"},
)


def machine(**changes: object) -> Machine:
    return dataclasses.replace(WELL, **changes)  # type: ignore[arg-type]


AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c")
BF16 = (*AVX512, "avx512_vnni", "avx512_bf16")
SETS = ("scalar", "avx2", "avx512", "avx512vnni", "avx512bf16")
WITH_TILES = machine(
    features=(*BF16, "amx_tile", "amx_int8", "amx_bf16"),
    instruction_sets=(*SETS, "amx"),
    only_by_name=("amx",),
    instruction_set="avx512bf16",
)
CASES: list[tuple[Check, Verdict, str]] = [
    (checks.check_python((3, 11)), OK, ""),
    (checks.check_python((3, 10)), PROBLEM, "3.11 or newer"),
    (checks.check_libraries(WELL.libraries), OK, ""),
    (checks.check_libraries({"numpy": "missing"}), PROBLEM, "pip install"),
    (checks.check_kernels(WELL), OK, ""),
    (checks.check_kernels(machine(features=AVX512)), WARNING, "newer compiler"),
    (checks.check_kernels(machine(instruction_set="scalar")), WARNING, "OCTAVO_CPU_ISA"),
    (
        checks.check_kernels(
            machine(features=BF16, instruction_sets=SETS, instruction_set="avx512bf16")
        ),
        OK,
        "",
    ),
    (checks.check_kernels(WITH_TILES), OK, ""),
    (
        checks.check_kernels(dataclasses.replace(WITH_TILES, instruction_set="amx")),
        WARNING,
        "unset OCTAVO_CPU_ISA",
    ),
    (
        checks.check_kernels(dataclasses.replace(WITH_TILES, instruction_set="avx512")),
        WARNING,
        "unset OCTAVO_CPU_ISA",
    ),
    (
        checks.check_kernels(
            machine(features=(), instruction_sets=("scalar",), instruction_set="scalar")
        ),
        WARNING,
        "",
    ),
    (checks.check_threads(WELL, None), OK, ""),
    (checks.check_threads(WELL, 4), OK, ""),
    (checks.check_threads(WELL, 5), WARNING, "num_threads to 4"),
    (checks.check_huge_pages("always"), OK, ""),
    (checks.check_huge_pages(None), OK, ""),
    (checks.check_huge_pages("never"), WARNING, "echo madvise"),
    (checks.check_memory(WELL), OK, ""),
    (checks.check_memory(machine(available_bytes=2**30)), WARNING, "octavo plan"),
    (checks.check_memory(machine(available_bytes=2**28)), PROBLEM, "octavo plan"),
    (checks.check_disk("cache", "/c", 2**40, True), OK, ""),
    (checks.check_disk("cache", "/c", 2**31, True), WARNING, "will not fit"),
    (checks.check_disk("cache", "/c", 2**20, True), PROBLEM, "HF_HOME"),
    (checks.check_disk("cache", "/c", 2**40, False), PROBLEM, "HF_HOME"),
    (checks.check_disk("cache", "/c", None, True), PROBLEM, "HF_HOME"),
    (checks.check_open_files(65536), OK, ""),
    (checks.check_open_files(64), WARNING, "ulimit -n"),
    (
        checks.check_variables(
            {
                "OCTAVO_MAX_NUM_SEQS": "1",
                "OCTAVO_SEED": "1",
                "OCTAVO_CONFIG": "f",
                "OCTAVO_SERVE_PORT": "1",
                "HOME": "/",
            },
            ["serve"],
        ),
        OK,
        "",
    ),
    (
        checks.check_variables({"OCTAVO_MAX_NUM_SEQ": "1"}, ["serve"]),
        WARNING,
        "'OCTAVO_MAX_NUM_SEQS'",
    ),
    (checks.check_variables({"OCTAVO_ABRACADABRA": "1"}, []), WARNING, "octavo info --settings"),
]


@pytest.mark.parametrize(("check", "verdict", "advice"), CASES)
def test_checks(check: Check, verdict: Verdict, advice: str) -> None:
    assert check.verdict is verdict
    assert advice in check.advice
    assert bool(advice) == bool(check.advice)
    assert check.finding


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = checks.check_port(port)
        assert check.verdict is WARNING
        assert "--port" in check.advice
    assert checks.check_port(port).verdict is OK


def test_the_report(octavo: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_check_hub_cache", lambda: Check("model cache", OK, "room"))
    monkeypatch.setattr(checks, "check_memory", lambda _: Check("memory", OK, "enough"))
    ended = octavo("doctor", "--port", 0)
    assert ended.status == 0
    assert ended.out.splitlines()[0].startswith("ok       python")
    told = json.loads(octavo("doctor", "--port", 0, "--json", OCTAVO_SED="1").out)
    assert told["healthy"] is True
    [variables] = [one for one in told["checks"] if one["name"] == "variables"]
    assert variables["verdict"] == "warning"
    assert "OCTAVO_SEED" in variables["advice"]

    problem = Check("memory", PROBLEM, "none left", "buy some")
    monkeypatch.setattr(checks, "check_memory", lambda _: problem)
    ended = octavo("doctor", "--port", 0)
    assert ended.status == 1
    assert "-> buy some" in ended.out


def test_a_machine_is_read_from_its_files(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 2000 kB\nMemAvailable: 1000 kB\n",
        "proc/cpuinfo": "model name : Best 1\n\nmodel name : Other\n",
        "sys/fs/cgroup/memory.max": "900000\n",
        "sys/fs/cgroup/memory.high": "max\n",
        "sys/fs/cgroup/memory.current": "100000\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = Machine.look(tmp_path)
    assert found.cpu == "Best 1"
    assert (found.total_bytes, found.available_bytes) == (2_048_000, 800_000)
    assert found.cgroup_limit_bytes == 900_000
    assert found.huge_pages == "never"
    assert found.instruction_set in found.instruction_sets
    assert found.libraries["numpy"] != "missing"


def test_the_doctor_says_what_no_processor_has_tried() -> None:
    told = checks.check_kernels(WITH_TILES).finding
    assert told.startswith("avx512bf16 is used, the best")
    assert "amx, never tried on a real one, only by OCTAVO_CPU_ISA=amx" in told
    told = checks.check_kernels(dataclasses.replace(WITH_TILES, instruction_set="amx")).finding
    assert "amx is used, which has never run on a real processor" in told


@pytest.mark.skipif("avx2" not in cpu_features(), reason="not an x86 processor")
def test_the_doctor_asks_as_much_of_a_processor_as_the_kernels_do() -> None:
    """Else it would tell people to unset what they never set."""
    for name, needed in checks.FAST_FEATURES.items():
        assert best_instruction_set(needed) == name
        for feature in needed:
            assert best_instruction_set(set(needed) - {feature}) != name, feature
    everything = [*cpu_features(), "tile_permission"]
    chosen = set(instruction_sets(everything)) - set(instruction_sets_only_by_name())
    assert chosen == {"scalar", *checks.FAST_FEATURES}


def row(octavo: CommandLine, name: str, **variables: str) -> dict[str, str]:
    told = json.loads(octavo("doctor", "--port", 0, "--json", **variables).out)
    [found] = [one for one in told["checks"] if one["name"] == name]
    return dict(found)


def test_an_instruction_set_that_is_not_there(octavo: CommandLine) -> None:
    ended = octavo("doctor", "--port", 0, OCTAVO_CPU_ISA="abacus")
    assert (ended.status, ended.err) == (1, "")
    assert "OCTAVO_CPU_ISA=abacus cannot be used; usable: scalar" in ended.out
    assert "-> unset OCTAVO_CPU_ISA" in ended.out
    assert "settings file" in ended.out  # all other rows are there too
    for words in (("info",), ("plan",), ("plan", "--backend", "reference")):
        ended = octavo(*words, OCTAVO_CPU_ISA="AVX2")
        assert ended.status == 2
        assert "instruction set 'AVX2' (from OCTAVO_CPU_ISA) is unknown" in ended.err
        assert "unset OCTAVO_CPU_ISA for the best of this machine" in ended.err


@pytest.mark.skipif("avx2" not in instruction_sets(), reason="not an x86 processor")
def test_an_instruction_set_that_is_nearly_right(octavo: CommandLine) -> None:
    hint = "hint: did you mean 'avx2'?; unset OCTAVO_CPU_ISA for the best of this machine"
    assert octavo("info", OCTAVO_CPU_ISA="AVX2").err.splitlines()[1] == hint


def test_where_packed_weights_are_kept(octavo: CommandLine, tmp_path: Path) -> None:
    home = str(tmp_path / "caches")
    cache = PackCache(tmp_path / "caches" / "octavo" / "packed")
    found = row(octavo, "packed weights", XDG_CACHE_HOME=home)
    assert (found["verdict"], found["finding"]) == ("ok", f"none yet in {cache.folder}")
    contents = Contents("/model", "s", "w8", "packer", ("all",), None)
    cache.store(contents, np.zeros(6400, np.uint8))
    found = row(octavo, "packed weights", XDG_CACHE_HOME=home)
    assert (found["verdict"], found["advice"]) == ("ok", "")
    assert found["finding"].startswith("1 file, 10.2 KiB of at most ")
    assert found["finding"].endswith(f" in {cache.folder}")
    (cache.folder / cache.entries()[0].name).write_bytes(b"nothing")
    found = row(octavo, "packed weights", XDG_CACHE_HOME=home)
    assert (found["verdict"], found["advice"][:16]) == ("warning", "octavo cache ls ")
    found = row(octavo, "packed weights", XDG_CACHE_HOME=home, OCTAVO_PACK_CACHE="off")
    assert (found["verdict"], found["finding"][:17]) == ("ok", "pack_cache is off")


def test_packed_weights_that_cannot_be_kept(
    octavo: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(tmp_path / "caches")
    folder = tmp_path / "caches" / "octavo" / "packed"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    found = row(octavo, "packed weights", XDG_CACHE_HOME=home)
    assert (found["verdict"], found["advice"][:10]) == ("warning", "chmod 700 ")
    folder.chmod(0o700)
    with monkeypatch.context() as context:  # root may write everywhere
        context.setattr(doctor.os, "access", lambda *_: False)
        found = row(octavo, "packed weights", XDG_CACHE_HOME=home)
    assert "cannot be written: weights are packed anew at each start" in found["finding"]
    assert "writable" in found["advice"]
    folder.rmdir()
    folder.write_text("a file")
    found = row(octavo, "packed weights", XDG_CACHE_HOME=home)
    assert (found["verdict"], found["advice"][:16]) == ("warning", "make it a folder")
    monkeypatch.setattr(PackCache, "of_user", lambda _: None)
    assert "set XDG_CACHE_HOME" in row(octavo, "packed weights")["advice"]
