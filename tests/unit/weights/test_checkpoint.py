"""Checkpoint: weights as float32, and the fingerprint.

The oracle is the ``safetensors`` package, for slices NumPy.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo.backends.base import WeightSource
from octavo.core.errors import ModelError
from octavo.program.ir import Weight
from octavo.weights import checkpoint as checkpoint_module
from octavo.weights.checkpoint import Checkpoint
from tests.unit.weights.files import (
    entry,
    file_bytes,
    nothing_left_open,
    open_below,
    whole,
    write,
)

DATA = Path(__file__).parents[4] / "shared" / "data" / "models"


def some_arrays() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(3)
    return {
        "model.embed_tokens.weight": random.standard_normal((11, 6)).astype(np.float32),
        "model.layers.0.mlp.up_proj.weight": random.standard_normal((5, 6)).astype(np.float16),
        "model.layers.1.mlp.up_proj.weight": random.standard_normal((5, 6)).astype(
            ml_dtypes.bfloat16
        ),
        "model.norm.weight": random.standard_normal(6).astype(np.float32),
    }


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_loads_float32_from_one_file_or_several(tmp_path: Path, num_shards: int) -> None:
    arrays = some_arrays()
    source: WeightSource = Checkpoint(write(tmp_path / "m", arrays, num_shards=num_shards))
    with nothing_left_open(tmp_path):
        for name, array in arrays.items():
            loaded = source.load(whole(name, array))
            assert loaded.dtype == np.float32
            assert loaded.flags.c_contiguous
            assert loaded.flags.owndata
            assert loaded.flags.writeable
            np.testing.assert_array_equal(loaded, array.astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float16, "F16"), (ml_dtypes.bfloat16, "BF16"), (np.float32, "F32")]
)
def test_every_bit_pattern_is_converted_exactly(tmp_path: Path, dtype: Any, name: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    if name == "F32":
        patterns = np.repeat(patterns, 2)[1:-1]  # every upper half with some lower half
    data = patterns.tobytes()
    size = len(data) // np.dtype(dtype).itemsize
    (tmp_path / "model.safetensors").write_bytes(
        file_bytes({"x": entry(name, [size], 0, len(data))}, data)
    )
    loaded = Checkpoint(tmp_path).load(Weight("x", (size,)))
    if name == "BF16":  # by definition the upper half of a float32
        expected = (patterns.astype(np.uint32) << 16).view(np.float32)
    elif name == "F16":
        with np.errstate(invalid="ignore"):
            expected = patterns.view(np.float16).astype(np.float32)
    else:
        expected = patterns.view(np.float32)
    number = ~np.isnan(expected)
    assert np.array_equal(np.isnan(loaded), ~number)
    assert np.array_equal(loaded.view(np.uint32)[number], expected.view(np.uint32)[number])


@given(data=st.data())
def test_slices_and_transposing_agree_with_numpy(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
    transposed = data.draw(st.booleans())
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1 + transposed, max_size=2)))
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    folder = write(tmp_path_factory.mktemp("m"), {"x": values})
    oriented = values.T if transposed else values
    first = data.draw(st.integers(0, len(oriented) - 1))
    last = data.draw(st.integers(first + 1, len(oriented)))
    expected = oriented[first:last].astype(np.float32)

    loaded = Checkpoint(folder).load(
        Weight("x", expected.shape, transposed, first_row=first, num_tensor_rows=len(oriented))
    )

    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_tensors_larger_than_a_block(tmp_path: Path, dtype: type) -> None:
    num_rows = 2 * checkpoint_module.BLOCK_BYTES // (96 * np.dtype(dtype).itemsize) + 5
    values = np.arange(num_rows * 96, dtype=np.uint32).reshape(num_rows, 96) % 251
    folder = write(tmp_path / "m", {"pad": np.ones(3, dtype), "x": values.astype(dtype)})
    source = Checkpoint(folder)
    np.testing.assert_array_equal(source.load(Weight("x", values.shape)), values)
    part = Weight("x", (num_rows - 9, 96), first_row=7, num_tensor_rows=num_rows)
    np.testing.assert_array_equal(source.load(part), values[7:-2])


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    arrays = {"model.norm.weight": np.ones(6, np.float32), "model.q.weight": np.ones(6, np.int8)}
    source = Checkpoint(write(tmp_path / "m", arrays))
    with pytest.raises(ModelError, match=r"no tensor 'model\.nrom\.weight'") as error:
        source.load(Weight("model.nrom.weight", (6,)))
    assert "did you mean 'model.norm.weight'" in (error.value.hint or "")
    with pytest.raises(ModelError, match=r"has the shape \(6,\); the model needs \(7,\)") as error:
        source.load(Weight("model.norm.weight", (7,)))
    assert error.value.hint
    with pytest.raises(ModelError, match=r"'model\.q\.weight' has type 'I8'"):
        source.load(Weight("model.q.weight", (6,)))


def test_names_saved_without_the_head_of_the_model(tmp_path: Path) -> None:
    """The first GPT-2 on the hub has h.0.ln_1.weight for transformer.h.0.ln_1.weight."""
    source = Checkpoint(write(tmp_path / "m", {"h.0.ln_1.weight": np.ones(3, np.float32)}))
    weight = Weight("transformer.h.0.ln_1.weight", (3,))
    source.check([weight])
    assert source.load(weight).tolist() == [1, 1, 1]


def test_prefix_is_not_dropped_where_some_names_have_it(tmp_path: Path) -> None:
    arrays = {"norm.weight": np.ones(3, np.float32), "model.other": np.ones(3, np.float32)}
    source = Checkpoint(write(tmp_path / "m", arrays))
    with pytest.raises(ModelError, match=r"no tensor 'model\.norm\.weight'"):
        source.load(Weight("model.norm.weight", (3,)))


# the fingerprint


def test_fingerprint_names_the_content_only(tmp_path: Path) -> None:
    arrays = some_arrays()
    first = Checkpoint(write(tmp_path / "one", arrays), num_threads=1).fingerprint
    assert len(bytes.fromhex(first)) == 16
    reordered = dict(reversed(arrays.items()))
    assert Checkpoint(write(tmp_path / "again", reordered)).fingerprint == first
    sharded = write(tmp_path / "sharded", arrays, num_shards=3)
    with nothing_left_open(tmp_path):
        assert Checkpoint(sharded, num_threads=4).fingerprint == first


def test_fingerprint_tells_any_change(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
    flipped = arrays["a"].copy()
    flipped.view(np.uint8)[1, 5] ^= 1
    variants: list[dict[str, NDArray[Any]]] = [
        arrays,
        {**arrays, "a": flipped},
        {**arrays, "a": arrays["a"].reshape(3, 2)},
        {**arrays, "b": np.zeros(2, np.int32)},
        {"A": arrays["a"], "b": arrays["b"]},
        {"a": arrays["a"]},
        {**arrays, "c": np.zeros(0, np.float32)},
    ]
    prints = [
        Checkpoint(write(tmp_path / str(number), variant)).fingerprint
        for number, variant in enumerate(variants)
    ]
    assert len(set(prints)) == len(variants)


def test_fingerprint_tells_where_a_name_ends(tmp_path: Path) -> None:
    prints = set()
    for name, dtype in (("x", "F32"), ("xF", "32")):
        folder = tmp_path / name
        folder.mkdir()
        data = file_bytes({name: entry(dtype, [1], 0, 4)}, bytes(4))
        (folder / "model.safetensors").write_bytes(data)
        prints.add(Checkpoint(folder).fingerprint)
    assert len(prints) == 2


def test_fingerprint_of_tensors_larger_than_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "PIECE_BYTES", 1000)
    values = np.arange(1300, dtype=np.float32)
    prints = set()
    for position in (None, 0, 249, 250, 1299):
        changed = values.copy()
        if position is not None:
            changed[position] += 0.5
        folder = write(tmp_path / str(position), {"x": changed})
        prints |= {Checkpoint(folder, num_threads=threads).fingerprint for threads in (1, 3)}
    assert len(prints) == 5


def test_fingerprint_of_a_file_that_vanished(tmp_path: Path) -> None:
    source = Checkpoint(write(tmp_path / "m", some_arrays()))
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        _ = source.fingerprint


# resources


def test_a_file_that_there_is_no_room_for_is_not_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    source = Checkpoint(write(tmp_path / "m", some_arrays()))
    monkeypatch.setattr(mmap, "mmap", no_room)
    with pytest.raises(MemoryError, match="no room to map tensor"):
        _ = source.fingerprint


def test_threads_may_load_at_once_and_leave_nothing_open(tmp_path: Path) -> None:
    arrays = some_arrays()
    source = Checkpoint(write(tmp_path / "m", arrays, num_shards=2))
    start = threading.Barrier(4)

    def load_all(_: int) -> list[bytes]:
        start.wait()
        return [source.load(whole(name, array)).tobytes() for name, array in arrays.items()]

    with nothing_left_open(tmp_path), ThreadPoolExecutor(4) as pool:
        results = list(pool.map(load_all, range(4)))
    assert all(result == results[0] for result in results)


def test_the_leak_check_sees_a_leak(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", some_arrays())
    source = Checkpoint(folder)
    assert open_below(tmp_path) == []
    stored = source._tensors["model.norm.weight"]
    leaked = stored.file.map_tensor("model.norm.weight")
    assert len(open_below(tmp_path)) >= 1
    del leaked
    descriptor = os.open(folder / "model.safetensors", os.O_RDONLY)
    assert open_below(tmp_path) == [str(folder / "model.safetensors")]
    os.close(descriptor)


@pytest.mark.parametrize("name", ["stories260K", "story-656k"])
def test_trained_models(name: str) -> None:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs the trained model {name} in ../shared/data/models")
    expected = safetensors.numpy.load_file(folder / "model.safetensors")
    source = Checkpoint(folder)
    source.check([whole(name, array) for name, array in expected.items()])
    for tensor, array in expected.items():
        np.testing.assert_array_equal(source.load(whole(tensor, array)), array)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_as_they_are_stored(tmp_path: Path, dtype: type, transposed: bool) -> None:
    whole_rows = np.random.default_rng(1).standard_normal((12, 7)).astype(dtype)
    arrays = {"t": whole_rows.T.copy() if transposed else whole_rows}
    source = Checkpoint(write(tmp_path / "m", arrays))
    weight = Weight("t", (6, 7), transposed, first_row=4, num_tensor_rows=12)
    with nothing_left_open(tmp_path):
        for begin, end in ((0, 6), (1, 4), (5, 6), (3, 3)):
            rows = source.load_rows(weight, begin, end)
            is_bf16 = dtype is ml_dtypes.bfloat16
            assert rows.dtype == (np.uint16 if is_bf16 else dtype)
            assert rows.flags.c_contiguous
            assert rows.flags.aligned
            numbers = rows.view(dtype) if is_bf16 else rows
            np.testing.assert_array_equal(numbers, whole_rows[4 + begin : 4 + end])
            del rows, numbers


def test_rows_that_lie_unaligned_are_copied_others_are_not(tmp_path: Path) -> None:
    data = np.arange(6, dtype=np.float32).tobytes()
    for folder, padding in (("even", 0), ("odd", 1)):
        header = json.dumps({"a": entry("F32", [3, 2], 0, 24)}).encode()
        header += b" " * (-len(header) % 8 + padding)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(file_bytes(header, data))
        rows = Checkpoint(tmp_path / folder).load_rows(Weight("a", (3, 2)), 1, 3)
        assert rows.flags.aligned
        assert bool(open_below(tmp_path / folder)) == (padding == 0)
        np.testing.assert_array_equal(rows, [[2, 3], [4, 5]])


def test_rows_of_a_misshapen_tensor_are_refused(tmp_path: Path) -> None:
    source = Checkpoint(write(tmp_path / "m", {"t": np.ones((3, 4), np.float32)}))
    with pytest.raises(ModelError, match="has the shape"):
        source.load_rows(Weight("t", (4, 3)), 0, 1)
