"""Weights packed into one block, and read from the cache: the same bytes, the same answers."""

from __future__ import annotations

import errno
import gc
import hashlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo._native import Products, ThreadPool
from octavo.backends import packed_weights
from octavo.backends.memory import zeroed_bytes
from octavo.backends.native import NativeBackend, NativeExecutable
from octavo.backends.packed_weights import PackedWeights
from octavo.core.errors import Misuse, ModelError
from octavo.core.request import SamplingParams
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.program.fuse import NO_FUSIONS, Fusions, fuse
from octavo.runtime.llm import LLM
from octavo.weights import identity, pack_cache
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.dummy import DummyWeights
from octavo.weights.formats import FORMATS, pack
from octavo.weights.pack_cache import PackCache
from octavo.weights.recipes import formats_of
from tests.architectures import CASES, Case
from tests.forward import TinyRun
from tests.small_model import write_small_model
from tests.tiny import write_tiny_model

TICK_S = 0.02
"""More than a step of the file system's clock."""
FORMAT_NAMES = ("f32", "bf16", "w8", "w4")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """New checkpoints are trusted, and nobody waits for quiet."""
    monkeypatch.setattr(identity, "SETTLED_NS", 0)
    monkeypatch.setattr(packed_weights, "QUIET_S", 0.0)
    monkeypatch.setattr(packed_weights, "_POLL_S", 0.001)


@pytest.fixture
def cache(tmp_path: Path) -> PackCache:
    return PackCache(tmp_path / "cache", most_bytes=2**26, least_bytes=0)


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def run(
    folder: Path, case: Case, cache: PackCache | None, weights: str, fusions: Fusions | None = None
) -> tuple[NativeExecutable, np.ndarray]:
    """The executable, and the logits of the case's prompt."""
    backend = NativeBackend(2, weights=weights, pack_cache=cache, fusions=fusions)
    tiny = TinyRun(folder, max_model_len=case.max_model_len, backend=backend)
    assert isinstance(tiny.executable, NativeExecutable)
    logits = tiny.prompt_logits(case.prompt_ids())
    wait_for_writers()
    return tiny.executable, logits


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "octavo-pack-cache"]


def wait_for_writers() -> None:
    for thread in writers():
        thread.join(10)
        assert not thread.is_alive()


class Blocks:
    """Every block of memory that weights are packed into, for as long as somebody holds it."""

    def __init__(self) -> None:
        self._blocks: list[weakref.ref[Any]] = []

    def zeroed_bytes(self, size: int) -> np.ndarray:
        found = zeroed_bytes(size)
        self._blocks.append(weakref.ref(found.base))  # what every view of it holds
        return found

    def are_held(self) -> bool:
        assert self._blocks
        return any(block() is not None for block in self._blocks)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    found = Blocks()
    monkeypatch.setattr(packed_weights, "zeroed_bytes", found.zeroed_bytes)
    return found


@pytest.mark.parametrize("weights", FORMAT_NAMES)
@pytest.mark.parametrize("name", ["llama_odd_sizes", "llama_tied", "qwen2", "gpt2"])
def test_a_second_start_reads_and_answers_the_same(
    name: str, weights: str, tmp_path: Path, cache: PackCache
) -> None:
    case = case_of(name)
    folder = case.write(tmp_path / "model")
    plain, expected = run(folder, case, None, weights)
    first, of_first = run(folder, case, cache, weights)
    second, of_second = run(folder, case, cache, weights)
    found = (plain.weights_from_cache, first.weights_from_cache, second.weights_from_cache)
    assert found == (False, False, True)
    np.testing.assert_array_equal(of_first, expected)
    np.testing.assert_array_equal(of_second, expected)
    assert plain.weight_bytes == first.weight_bytes == second.weight_bytes
    assert plain.numerics() == first.numerics() == second.numerics()


def test_the_fingerprint_is_kept_if_it_was_known(tmp_path: Path, cache: PackCache) -> None:
    folder = write_tiny_model(tmp_path / "model")
    backend = NativeBackend(1, weights="w8", pack_cache=cache)
    first = TinyRun(folder, backend=backend)
    expected = first.executable.numerics()["weights"]
    first.prompt_logits([1, 2])
    wait_for_writers()
    second = TinyRun(folder, backend=backend)
    Path(folder / "model.safetensors").unlink()  # nothing to compute it from
    assert second.executable.numerics()["weights"] == expected


def test_a_fingerprint_that_is_known_later_is_kept_then(tmp_path: Path, cache: PackCache) -> None:
    folder = write_tiny_model(tmp_path / "model")
    backend = NativeBackend(1, weights="w8", pack_cache=cache)
    TinyRun(folder, backend=backend).prompt_logits([1, 2])  # nobody asks: no prefix cache, say
    wait_for_writers()
    second = TinyRun(folder, backend=backend)
    assert second.executable.weights_from_cache
    expected = second.executable.numerics()["weights"]
    second.prompt_logits([1, 2])
    wait_for_writers()
    third = TinyRun(folder, backend=backend)
    Path(folder / "model.safetensors").unlink()  # nothing to compute it from
    assert third.executable.numerics()["weights"] == expected
    assert len(cache.entries()) == 1


def test_other_formats_and_fusions_have_files_of_their_own(
    tmp_path: Path, cache: PackCache
) -> None:
    case = case_of("llama")
    folder = case.write(tmp_path / "model")
    for weights in ("w8", "w4"):
        for fusions in (Fusions(), NO_FUSIONS):
            executable, _ = run(folder, case, cache, weights, fusions)
            assert not executable.weights_from_cache
    assert len(cache.entries()) == 4
    for weights in ("w8", "w4"):
        for fusions in (Fusions(), NO_FUSIONS):
            assert run(folder, case, cache, weights, fusions)[0].weights_from_cache


def test_a_new_checkpoint_in_the_same_place_is_packed(tmp_path: Path, cache: PackCache) -> None:
    case = case_of("llama")
    folder = case.write(tmp_path / "model")
    _, before = run(folder, case, cache, "w8")
    time.sleep(TICK_S)
    write_tiny_model(folder, seed=5)
    executable, after = run(folder, case, cache, "w8")
    assert not executable.weights_from_cache
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, run(folder, case, None, "w8")[1])
    assert len(cache.entries()) == 1


def test_a_checkpoint_that_changes_meanwhile_is_not_kept(
    tmp_path: Path, cache: PackCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "LONGEST_WAIT_S", 30.0)
    folder = write_tiny_model(tmp_path / "model")
    backend = NativeBackend(1, weights="w8", pack_cache=cache)
    tiny = TinyRun(folder, backend=backend)
    time.sleep(TICK_S)
    write_tiny_model(folder, seed=5)
    tiny.prompt_logits([1, 2])
    wait_for_writers()
    assert cache.entries() == []


def damage(cache: PackCache) -> bytes:
    """What is in the only file, now that its last byte is another one."""
    (path,) = cache.folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return bytes(data)


def test_a_damaged_file_is_made_anew(
    tmp_path: Path, cache: PackCache, caplog: pytest.LogCaptureFixture
) -> None:
    case = case_of("qwen2")
    folder = case.write(tmp_path / "model")
    _, expected = run(folder, case, cache, "w8")
    damage(cache)
    executable, logits = run(folder, case, cache, "w8")
    assert not executable.weights_from_cache
    assert "made anew" in caplog.text
    np.testing.assert_array_equal(logits, expected)
    assert run(folder, case, cache, "w8")[0].weights_from_cache


def test_a_cache_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = case_of("llama")
    folder = case.write(tmp_path / "model")
    nowhere = PackCache(Path("/proc/octavo"), least_bytes=0)
    with caplog.at_level(logging.WARNING):
        _, logits = run(folder, case, nowhere, "w8")
    np.testing.assert_array_equal(logits, run(folder, case, None, "w8")[1])
    [told] = [record.getMessage() for record in caplog.records]
    assert "are not kept (No such file or directory), and are packed anew at each start" in told
    assert told.endswith("set XDG_CACHE_HOME to another folder, or switch pack_cache off")


def test_damage_that_cannot_be_mended_is_told_once(
    tmp_path: Path,
    cache: PackCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = case_of("llama")
    folder = case.write(tmp_path / "model")
    _, expected = run(folder, case, cache, "w8")
    damaged = damage(cache)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pack_cache.os, "unlink", refuse)
    executable, logits = run(folder, case, cache, "w8")
    np.testing.assert_array_equal(logits, expected)
    assert not executable.weights_from_cache
    assert next(cache.folder.iterdir()).read_bytes() == damaged
    [told] = [record.getMessage() for record in caplog.records]
    assert "is damaged" in told
    assert "cannot be replaced, as its folder cannot be written (Permission denied)" in told
    assert "packed in memory at each start; make" in told


def test_writing_waits_until_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "QUIET_S", 0.05)
    steps = iter([0, 0, 0, *range(1, 40)])
    seen: list[int] = []

    def count() -> int:
        seen.append(next(steps, 39))
        return seen[-1]

    packed_weights._wait_until_quiet(count, lambda: False)
    assert seen[-2:] == [39, 39]  # not before the first, and not between two
    steps = itertools.count()
    monkeypatch.setattr(packed_weights, "LONGEST_WAIT_S", 0.01)
    packed_weights._wait_until_quiet(count, lambda: False)  # never quiet
    packed_weights._wait_until_quiet(lambda: 0, lambda: False)  # never a step


@pytest.mark.parametrize("num_steps", [0, 1])
def test_a_closed_engine_writes_its_weights_and_lets_go_of_them(
    num_steps: int,
    tmp_path: Path,
    cache: PackCache,
    blocks: Blocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing waits for quiet any more, nor for a step; the model may still be there."""
    monkeypatch.setattr(packed_weights, "QUIET_S", 600.0)
    monkeypatch.setattr(packed_weights, "LONGEST_WAIT_S", 600.0)
    monkeypatch.setattr(PackCache, "of_user", lambda _: cache)
    folder = write_tiny_model(tmp_path / "model")
    llm = LLM(folder, weights="w8", num_pages=8)
    for _ in range(num_steps):
        llm.generate([[1, 2]], SamplingParams(max_tokens=1))
    assert len(writers()) == 1
    assert blocks.are_held()
    llm.close()
    wait_for_writers()
    assert len(cache.entries()) == 1
    assert not blocks.are_held()
    with pytest.raises(Misuse, match="was closed"):
        llm.generate([[1, 2]])


def test_weights_that_nobody_holds_are_let_go_of(
    tmp_path: Path, cache: PackCache, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is dropped without being closed."""
    monkeypatch.setattr(packed_weights, "LONGEST_WAIT_S", 600.0)
    backend = NativeBackend(1, weights="w8", pack_cache=cache)
    tiny = TinyRun(write_tiny_model(tmp_path / "model"), backend=backend)
    assert len(writers()) == 1
    del tiny
    gc.collect()
    wait_for_writers()
    assert len(cache.entries()) == 1
    assert not blocks.are_held()


def test_weights_are_held_while_they_are_written(
    tmp_path: Path, cache: PackCache, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing neither waits for the disk nor breaks off what was begun."""
    begun, goes_on = threading.Event(), threading.Event()
    write_packed = pack_cache.write_packed

    def slow(*arguments: Any) -> None:
        begun.set()
        assert goes_on.wait(10)
        write_packed(*arguments)

    monkeypatch.setattr(pack_cache, "write_packed", slow)
    folder = write_tiny_model(tmp_path / "model")
    backend = NativeBackend(1, weights="w8", pack_cache=cache)
    tiny = TinyRun(folder, backend=backend)
    expected = tiny.prompt_logits([1, 2])
    assert begun.wait(10)
    tiny.executable.close()
    assert blocks.are_held()
    goes_on.set()
    wait_for_writers()
    assert not blocks.are_held()
    second = TinyRun(folder, backend=backend)
    assert second.executable.weights_from_cache  # type: ignore[attr-defined]
    np.testing.assert_array_equal(second.prompt_logits([1, 2]), expected)


SLOW_WRITER = """
import signal, sys, time
from octavo.backends import packed_weights
from octavo.weights import identity, pack_cache

def slow(*arguments):
    time.sleep(0.2)
    write_packed(*arguments)

write_packed, pack_cache.write_packed = pack_cache.write_packed, slow
packed_weights.QUIET_S = packed_weights.LONGEST_WAIT_S = 600.0
identity.SETTLED_NS = 0
pack_cache.PackCache.wants = lambda self, num_bytes: True
"""
A_COMMAND = """
from octavo.cli.main import main
raise SystemExit(main(["generate", sys.argv[1], "Hi", "--max-tokens", "1", "--weights", "w8"]))
"""
NEITHER_CLOSED_NOR_ASKED = """
from octavo.runtime.llm import LLM
llm = LLM(sys.argv[1], weights="w8")
"""


@pytest.mark.parametrize(
    "end", [A_COMMAND, NEITHER_CLOSED_NOR_ASKED], ids=["a command", "neither closed nor asked"]
)
def test_a_process_that_ends_leaves_packed_weights_for_the_next(end: str, tmp_path: Path) -> None:
    """Its end waits for no quiet, but for the writer, with or without a step or a close before."""
    folder = write_small_model(tmp_path / "model")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-c", SLOW_WRITER + end, str(folder)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(PackCache(tmp_path / "octavo" / "packed").entries()) == 1


INTERRUPTED = """
from octavo.weights import packed_file
inner, packed_file.PIECE_BYTES = packed_file._write_all, 4096

def slow(*arguments):
    print("writing", flush=True)
    time.sleep(0.2)
    inner(*arguments)

packed_file._write_all = slow
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def test_ctrl_c_breaks_off_what_is_being_written(tmp_path: Path) -> None:
    """After the answer, while the process only waits for the disk."""
    folder = write_small_model(tmp_path / "model")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-c", SLOW_WRITER + INTERRUPTED + A_COMMAND, str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert any(line.endswith(b"writing\n") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
    assert (process.returncode, said) == (130, b"")
    assert list((tmp_path / "octavo" / "packed").iterdir()) == []


def test_whoever_waits_for_the_disk_is_told(
    tmp_path: Path, cache: PackCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a command waits for no quiet, says what it waits for, and is kept."""
    monkeypatch.setattr(packed_weights, "PATIENCE_S", 0.0)
    monkeypatch.setattr(packed_weights, "LONGEST_WAIT_S", 600.0)
    told = threading.Event()
    write_packed = pack_cache.write_packed

    def slow(*arguments: Any) -> None:
        assert told.wait(10)
        write_packed(*arguments)

    monkeypatch.setattr(pack_cache, "write_packed", slow)
    backend = NativeBackend(1, weights="w8", pack_cache=cache)
    tiny = TinyRun(write_tiny_model(tmp_path / "model"), backend=backend)
    assert len(writers()) == 1
    packed_weights.finish_writing(told.set)
    assert told.is_set()
    assert len(cache.entries()) == 1
    packed_weights.finish_writing(pytest.fail)  # nothing is left to wait for
    tiny.executable.close()


def test_dummy_weights_are_never_kept(tmp_path: Path, cache: PackCache) -> None:
    spec = ModelSpec.read(write_tiny_model(tmp_path / "model"))
    program = build(spec, 64)
    made = packed(program, DummyWeights(), "w8", cache)
    assert not made.from_cache
    assert not made.keep()


def packed(
    program: object,
    source: object,
    weights: str,
    cache: PackCache | None = None,
    fusions: Fusions | None = None,
) -> PackedWeights:
    formats = formats_of(program, weights)  # type: ignore[arg-type]
    fused = fuse(program, fusions or Fusions(), lambda linear: formats[linear.weight])  # type: ignore[arg-type]
    packer = Products(ThreadPool(2))
    return PackedWeights(fused, source, packer, formats, weights, cache, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", FORMAT_NAMES)
@pytest.mark.parametrize("block_bytes", [1, packed_weights.BLOCK_BYTES])
@pytest.mark.parametrize("name", ["llama_odd_sizes", "gpt2", "qwen2_tied"])
def test_panels_are_those_of_the_twin(
    name: str, block_bytes: int, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a matrix is packed at once or panel by panel; stacked, in turns, or alone."""
    monkeypatch.setattr(packed_weights, "BLOCK_BYTES", block_bytes)
    case = case_of(name)
    folder = case.write(tmp_path)
    program = build(ModelSpec.read(folder), 64)
    source = Checkpoint(folder)
    formats = formats_of(program, weights)
    made = packed(program, source, weights)
    num_turns = num_stacked = num_bytes = 0
    for stack in made._views:
        parts = [pack(formats[weight], source.load(weight)) for weight in stack.weights]
        panels = made.panels(stack)
        num_bytes += panels.size
        assert panels.ctypes.data % 64 == 0
        if stack.takes_turns:
            num_turns += 1
            np.testing.assert_array_equal(panels[0::2], parts[0])
            np.testing.assert_array_equal(panels[1::2], parts[1])
        else:
            num_stacked += len(parts) > 1
            np.testing.assert_array_equal(panels, np.concatenate(parts))
    assert made.num_bytes == num_bytes
    assert num_stacked > 0
    assert (num_turns > 0) == (name != "gpt2")
    matrices = {weight: FORMATS[form].shape(*weight.shape) for weight, form in formats.items()}
    if name == "qwen2_tied" and weights != "f32":
        assert num_bytes == sum(panels * size for panels, size in matrices.values())


def test_whoever_changes_panels_raises_the_version() -> None:
    """Files of another version are made anew; those of this one hold these bytes."""
    matrix = np.random.default_rng(11).integers(-99, 99, (70, 300)).astype(np.float32) / 64
    digests = {}
    for name in FORMAT_NAMES:
        panels = np.zeros(FORMATS[name].shape(*matrix.shape), np.uint8)
        assert Products(ThreadPool(1)).pack(name, matrix, panels)
        digests[name] = hashlib.blake2b(panels.data, digest_size=8).hexdigest()
    assert (packed_weights.PACKER, digests) == (
        "octavo panels 1",
        {
            "f32": "2a721fee7b3b2748",
            "bf16": "e0cb89004993925e",
            "w8": "e88d02de702016f7",
            "w4": "6a33edbe417e6a7b",
        },
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_named(poison: float, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    program = build(ModelSpec.read(folder), 64)
    source = Poisoned(Checkpoint(folder).load_rows, poison)
    with pytest.raises(ModelError, match=r"up_proj.weight' holds NaN or infinity"):
        packed(program, source, "w8")


class Poisoned:
    """One number of one tensor is none."""

    def __init__(self, load_rows: Callable[..., np.ndarray], poison: float) -> None:
        self._load_rows = load_rows
        self._poison = poison

    def load_rows(self, weight: object, begin: int, end: int) -> np.ndarray:
        rows = self._load_rows(weight, begin, end).copy()
        if "layers.1.mlp.up_proj" in weight.tensor:  # type: ignore[attr-defined]
            rows[-1, -1] = self._poison
        return rows
