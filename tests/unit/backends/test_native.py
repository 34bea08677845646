"""The native backend in float32 against the reference backend: equal to the bit, on every model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo._native import instruction_sets
from octavo.backends.native import NativeBackend
from octavo.core.errors import ModelError
from octavo.program.fuse import NO_FUSIONS, Fusions, Product, fuse
from octavo.program.ir import Add, Glu, Linear
from tests.architectures import CASES, Case
from tests.forward import TinyRun


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


def test_weights_in_memory_are_those_announced(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "llama_tied")
    folder = case.write(tmp_path)
    for weights in ("f32", "bf16", "w8", "w4"):
        backend = NativeBackend(1, weights=weights, kv="bf16")
        run = TinyRun(folder, backend=backend)
        announced = backend.weight_bytes(run.program)
        # A table of float32 rows is kept beside the head's panels; norms are not counted twice.
        assert run.executable.weight_bytes >= announced > 0


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


def test_a_step_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Nothing is written past the memory of the program."""
    case = next(case for case in CASES if case.name == "llama")
    run = TinyRun(case.write(tmp_path), num_pages=80, backend=NativeBackend(1))
    sequences = run.sequences()
    parts = [(sequences.add(), [1] * 100) for _ in range(6)]
    with pytest.raises(ValueError, match="more than the program was compiled for"):
        sequences.logits(parts)


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
