"""The native backend in float32 against the reference backend: equal to the bit, on every model."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo._native import ThreadPool, instruction_sets
from octavo.backends.native import NativeBackend
from octavo.backends.native_sampler import NativeSampler
from octavo.core.errors import ConfigError, ModelError, UnsupportedModel
from octavo.program.fuse import NO_FUSIONS, Fusions, Product, fuse
from octavo.program.ir import Add, Glu, Linear
from tests.architectures import CASES, Case
from tests.forward import TinyRun, no_sampling
from tests.tiny import write_tiny_model


def parts_of(case: Case) -> list[list[int]]:
    """The prompt cut into uneven parts."""
    ids = case.prompt_ids()
    cuts = sorted({0, min(1, len(ids)), min(4, len(ids)), len(ids) * 2 // 3, len(ids)})
    return [ids[a:b] for a, b in itertools.pairwise(cuts) if a < b]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_reference(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path)
    expected = TinyRun(folder, max_model_len=case.max_model_len).prompt_logits(case.prompt_ids())
    for backend in (NativeBackend(2), NativeBackend(1, fusions=NO_FUSIONS)):
        run = TinyRun(folder, max_model_len=case.max_model_len, backend=backend)
        whole = run.prompt_logits(case.prompt_ids())
        np.testing.assert_array_equal(whole, expected)
        sequences = run.sequences()
        seq = sequences.add()
        parts = [sequences.logits([(seq, part)])[0] for part in parts_of(case)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("name", ["llama_two_chunks", "llama_odd_sizes", "gpt2"])
def test_every_instruction_set(name: str, instruction_set: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    folder = case.write(tmp_path)
    expected = TinyRun(folder).prompt_logits(case.prompt_ids())
    run = TinyRun(folder, backend=NativeBackend(2, instruction_set))
    np.testing.assert_array_equal(run.prompt_logits(case.prompt_ids()), expected)


def test_sequences_of_one_step_do_not_meet(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama_two_chunks")
    folder = case.write(tmp_path)
    prompts = [case.prompt_ids()[:n] for n in (300, 1, 17, 33)]
    run = TinyRun(folder, num_pages=60, backend=NativeBackend(2))
    together = run.sequences()
    parts = together.logits([(together.add(), prompt) for prompt in prompts])
    for prompt, part in zip(prompts, parts, strict=True):
        alone = TinyRun(folder, backend=NativeBackend(1)).prompt_logits(prompt)
        np.testing.assert_array_equal(part, alone)


def test_a_value_that_is_not_finite_reaches_no_token_before_it(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama_two_chunks")
    folder = case.write(tmp_path)
    prompt = case.prompt_ids()[:40]
    expected = TinyRun(folder).prompt_logits(prompt)
    for poison in (np.nan, np.inf):
        run = TinyRun(folder, backend=NativeBackend(2))
        sequences = run.sequences()
        seq = sequences.add()
        sequences.logits([(seq, prompt[:1])])
        # Slots behind the only token, of keys and values alike, before they are written.
        page = run.executable.page(0, sequences.tables[seq][0]).view(np.float32)
        heads = page.reshape(-1, 2, run.spec.num_kv_heads, 16 * run.spec.head_dim)
        keys = heads[:, 0].reshape(-1, run.spec.head_dim, 16)
        values = heads[:, 1].reshape(-1, 16, run.spec.head_dim)
        keys[:, :, 1:], values[:, 1:] = poison, poison
        got = sequences.logits([(seq, prompt[1:])])[0]
        np.testing.assert_array_equal(got, expected[1:])


def test_fusions_are_made(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama")
    program = TinyRun(case.write(tmp_path)).program
    layers = len(program.attention_layers())
    fused = [operation for _, operation in fuse(program, Fusions()).operations]
    products = [operation for operation in fused if isinstance(operation, Product)]
    assert len(products) == 4 * layers + 1
    assert sum(product.gate is not None for product in products) == layers
    assert sum(product.addend is not None for product in products) == 2 * layers
    assert not any(isinstance(operation, Add | Glu | Linear) for operation in fused)
    plain = [operation for _, operation in fuse(program, NO_FUSIONS).operations]
    assert sum(isinstance(operation, Product) for operation in plain) == 7 * layers + 1
    assert len(plain) == len(program.operations)


FORMATS = [
    *(("bf16", "bf16"), ("bf16", "int8")),
    *(("w8", "f32"), ("w8", "bf16"), ("w8", "int8")),
    *(("w4", "bf16"), ("w4", "int8")),
]


@pytest.mark.parametrize(("weights", "kv"), FORMATS)
def test_parts_threads_and_fusions_change_no_bit(weights: str, kv: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama_two_chunks")
    folder = case.write(tmp_path)
    runs = [
        TinyRun(folder, backend=NativeBackend(threads, weights=weights, kv=kv, fusions=fusions))
        for threads, fusions in ((1, Fusions()), (2, Fusions()), (3, NO_FUSIONS))
    ]
    expected = runs[0].prompt_logits(case.prompt_ids())
    for run in runs[1:]:
        np.testing.assert_array_equal(run.prompt_logits(case.prompt_ids()), expected)
    for run in runs:
        sequences = run.sequences()
        seq = sequences.add()
        parts = [sequences.logits([(seq, part)])[0] for part in parts_of(case)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize(("weights", "kv"), FORMATS)
def test_packed_formats_stay_near_float32(weights: str, kv: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "qwen2")
    folder = case.write(tmp_path)
    exact = TinyRun(folder).prompt_logits(case.prompt_ids())
    packed = TinyRun(folder, backend=NativeBackend(2, weights=weights, kv=kv))
    error = np.abs(packed.prompt_logits(case.prompt_ids()) - exact)
    limits = {"bf16": 0.02, "w8": 0.02, "w4": 0.3}
    assert 0 < error.mean() / exact.std() < limits[weights]


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2"])
@pytest.mark.parametrize("weights", ["f32", "bf16", "w8", "w4"])
def test_weights_in_memory_are_those_announced(name: str, weights: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    backend = NativeBackend(1, weights=weights, kv="int8")
    run = TinyRun(case.write(tmp_path), backend=backend)
    announced = backend.weight_bytes(run.program)
    # A table of float32 rows is announced in whole panels.
    assert 0 <= announced - run.executable.weight_bytes < 32 * 4 * run.spec.hidden_size


def test_heads_of_odd_size_are_refused_where_keys_lie_in_pairs(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "gpt2", n_embd=36, n_head=4)  # nine numbers a head
    with pytest.raises(UnsupportedModel, match="heads here have 9 numbers"):
        TinyRun(folder, backend=NativeBackend(1, weights="w8", kv="bf16"))
    prompt = list(range(3, 40))
    exact = TinyRun(folder).prompt_logits(prompt)
    packed = TinyRun(folder, backend=NativeBackend(1, weights="f32", kv="int8"))
    assert np.abs(packed.prompt_logits(prompt) - exact).mean() < 0.05 * exact.std()


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown weight format 'w5'"):
        NativeBackend(1, weights="w5")


def test_a_damaged_checkpoint_names_its_tensor(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama")
    folder = case.write(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name][3, 1] = np.nan
    save_file(tensors, path)
    with pytest.raises(ModelError, match=f"tensor '{name}' holds NaN or infinity"):
        TinyRun(folder, backend=NativeBackend(1, weights="w8", kv="bf16"))


def test_a_weight_that_bf16_cannot_hold_names_its_tensor(tmp_path: Path) -> None:
    """The largest float32 numbers round to infinity."""
    case = next(case for case in CASES if case.name == "llama")
    folder = case.write(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name][3, 1] = np.finfo(np.float32).max
    save_file(tensors, path)
    with pytest.raises(ModelError, match=f"tensor '{name}' holds NaN or infinity"):
        TinyRun(folder, backend=NativeBackend(1, weights="bf16", kv="bf16"))
    TinyRun(folder, backend=NativeBackend(1, weights="f32", kv="bf16"))


def test_a_step_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Nothing is written past the memory of the program."""
    case = next(case for case in CASES if case.name == "llama")
    run = TinyRun(case.write(tmp_path), num_pages=80, backend=NativeBackend(1))
    sequences = run.sequences()
    parts = [(sequences.add(), [1] * 100) for _ in range(6)]
    with pytest.raises(ValueError, match="more than the program was compiled for"):
        sequences.logits(parts)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("token_ids", [1, -1, 2], "token_ids: not in the vocabulary"),
        ("token_ids", [1, 10**6, 2], "token_ids: not in the vocabulary"),
        ("positions", [0, 1, 10**6], "positions: beyond the longest sequence"),
        ("positions", [0, 1, 20], "tables: too narrow for a position"),
        ("positions", [20, 0, 1], "positions: not ascending"),  # the last one has its page
        ("row_starts", [0, 100, 3], "row_starts: not ascending"),
        ("row_starts", [0, 2], "do not fit each other"),
        ("page_tables", [[10**6]], "tables: a page that there is not"),
        ("page_tables", [[-1]], "tables: a page that there is not"),
    ],
)
def test_a_step_with_wrong_numbers_is_refused(
    field: str, value: list[int], message: str, tmp_path: Path
) -> None:
    """A bug in the bookkeeping fails its step, and reads and writes nothing elsewhere."""
    case = next(case for case in CASES if case.name == "llama")
    run = TinyRun(case.write(tmp_path), backend=NativeBackend(1))
    sequences = run.sequences()
    batch = sequences.batch([(sequences.add(), [1, 2, 3])])
    wrong = np.array(value, np.int32)
    setattr(batch, field, [wrong] if field == "page_tables" else wrong)
    if len(batch.row_starts) == 3:
        batch.page_tables = [np.repeat(table, 2, axis=0) for table in batch.page_tables]
    with pytest.raises(ValueError, match=message):
        run.executable.logits(batch, np.array([2], np.int32))


def test_rows_that_are_not_there_have_no_logits(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama")
    run = TinyRun(case.write(tmp_path), backend=NativeBackend(1))
    sequences = run.sequences()
    batch = sequences.batch([(sequences.add(), [1, 2, 3])])
    for row in (3, -1):
        with pytest.raises(ValueError, match="head_rows: not a row of the step"):
            run.executable.logits(batch, np.array([row], np.int32))


def test_profiles_tell_where_time_goes(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama")
    run = TinyRun(case.write(tmp_path), backend=NativeBackend(2, profile=True))
    run.prompt_logits(case.prompt_ids())
    seconds = run.executable.seconds()
    assert {"rows", "product", "product and gate", "product and sum", "attention"} < set(seconds)
    assert "head: product" in seconds
    assert all(value > 0 for kind, value in seconds.items() if kind != "sampling")


def test_without_a_profile_nothing_is_measured(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama")
    run = TinyRun(case.write(tmp_path), backend=NativeBackend(2))
    run.prompt_logits(case.prompt_ids())
    assert run.executable.seconds() == {}


def test_a_forked_child_samples_while_the_parent_did(tmp_path: Path) -> None:
    """Another thread of the parent may hold the sampler's lock at the moment of the fork."""
    vocab = 200_000
    sampler = NativeSampler(ThreadPool(2), vocab)
    logits = np.zeros((16, vocab), np.float32)
    batch = replace(no_sampling(16, vocab), typical_p=np.full(16, 0.5, np.float32))
    batch = replace(batch, temperature=np.ones(16, np.float32))
    busy = threading.Thread(target=lambda: [sampler.sample(logits, batch) for _ in range(4)])
    busy.start()
    time.sleep(0.01)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        token_ids, _, _ = sampler.sample(logits[:1], no_sampling(1, vocab))
        os._exit(0 if token_ids.tolist() == [0] else 1)
    busy.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
