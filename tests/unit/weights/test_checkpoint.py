"""Checkpoint: weights as float32, what does not fit, and the fingerprint.

The oracle is the ``safetensors`` package, for slices NumPy.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
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
from octavo.weights.inventory import group_by_layer
from tests.unit.weights.files import entry, file_bytes, nothing_left_open, open_below

Arrays = Mapping[str, NDArray[Any]]
DATA = Path(__file__).parents[4] / "shared" / "data" / "models"


def write(folder: Path, arrays: Arrays, *, num_shards: int = 1) -> Path:
    """A model folder as transformers writes it."""
    folder.mkdir(exist_ok=True)
    if num_shards == 1:
        safetensors.numpy.save_file(dict(arrays), folder / "model.safetensors")
        return folder
    weight_map = {}
    for shard in range(num_shards):
        name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {tensor: arrays[tensor] for tensor in sorted(arrays)[shard::num_shards]}
        safetensors.numpy.save_file(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def whole(name: str, array: NDArray[Any]) -> Weight:
    return Weight(name, array.shape)


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


# check()


def layers(numbers: range, shape: tuple[int, ...] = (2, 2)) -> dict[str, NDArray[Any]]:
    return {f"model.layers.{n}.up.weight": np.ones(shape, np.float32) for n in numbers}


def wanted(arrays: Arrays) -> list[Weight]:
    return [whole(name, array) for name, array in arrays.items()]


def problems(folder: Path, weights: list[Weight]) -> ModelError:
    with nothing_left_open(folder), pytest.raises(ModelError) as error:
        Checkpoint(folder).check(weights)
    assert error.value.message.startswith(str(folder))
    assert error.value.hint
    return error.value


def test_check_accepts_what_fits(tmp_path: Path) -> None:
    arrays = some_arrays()
    Checkpoint(write(tmp_path / "m", arrays)).check(wanted(arrays))


def test_check_reports_everything_at_once(tmp_path: Path) -> None:
    arrays = layers(range(8)) | {
        "model.norm.weight": np.ones(5, np.float32),
        "model.scales": np.ones(2, np.int8),
        "vision.patch.weight": np.ones(1, np.float32),
    }
    weights = [
        *wanted(layers(range(12))),
        Weight("model.norm.weight", (6,)),
        Weight("model.scales", (2,)),
        Weight("lm_head.weight", (3, 2)),
    ]
    message = problems(write(tmp_path / "m", arrays), weights).message
    assert message.splitlines()[1:] == [
        "  5 tensors missing:",
        "    model.layers.[8-11].up.weight",
        "    lm_head.weight",
        "  1 tensor of another shape:",
        "    model.norm.weight is (5,), the model needs (6,)",
        "  1 tensor of a type that is none of F32, F16, BF16:",
        "    model.scales has type I8",
        "  1 tensor that the model has no use for:",
        "    vision.patch.weight",
    ]


def test_check_counts_a_fused_tensor_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"qkv": np.ones((4, 6), np.float32)})
    slices = [
        Weight("qkv", (2, 4), transposed=True, first_row=row, num_tensor_rows=6)
        for row in (0, 2, 4)
    ]
    Checkpoint(folder).check(slices)
    wrong = [
        Weight("qkv", (3, 4), transposed=True, first_row=row, num_tensor_rows=9)
        for row in (0, 3, 6)
    ]
    message = problems(folder, wrong).message
    assert message.splitlines()[1:] == [
        "  1 tensor of another shape:",
        "    qkv is (4, 6), the model needs (4, 9)",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "h.3.attn.bias",
        "transformer.h.3.attn.masked_bias",
    ],
)
def test_check_tolerates_harmless_buffers(tmp_path: Path, name: str) -> None:
    arrays = layers(range(2))
    folder = write(tmp_path / "m", {**arrays, name: np.ones(3, np.float32)})
    Checkpoint(folder).check(wanted(arrays))


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.bias", "model.layers.0.self_attn.q_proj.bias"])
def test_check_does_not_tolerate_real_biases(tmp_path: Path, name: str) -> None:
    arrays = layers(range(2))
    folder = write(tmp_path / "m", {**arrays, name: np.ones(3, np.float32)})
    assert name in problems(folder, wanted(arrays)).message


def test_head_of_a_tied_model_must_repeat_the_embedding(tmp_path: Path) -> None:
    embedding = np.arange(6, dtype=np.float32).reshape(3, 2)
    weights = [Weight("model.embed_tokens.weight", (3, 2))]
    arrays = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.copy()}
    Checkpoint(write(tmp_path / "same", arrays)).check(weights)

    arrays["lm_head.weight"][2, 1] += 1
    error = problems(write(tmp_path / "other", arrays), weights)
    assert "has an lm_head.weight of its own" in error.message
    assert "tie_word_embeddings" in (error.hint or "")


def test_embedding_of_a_tied_model_may_be_saved_as_its_head(tmp_path: Path) -> None:
    head = np.arange(6, dtype=np.float32).reshape(3, 2)
    weight = Weight("model.embed_tokens.weight", (3, 2), also_named="lm_head.weight")
    source = Checkpoint(write(tmp_path / "m", {"lm_head.weight": head}))
    source.check([weight])
    np.testing.assert_array_equal(source.load(weight), head)


@pytest.mark.parametrize(
    ("stored", "asked", "says"),
    [
        ("language_model.model.", "model.", "begin with 'language_model.'"),
        ("layers.", "deep.layers.", "lack the prefix 'deep.'"),
    ],
)
def test_check_suggests_the_prefix(tmp_path: Path, stored: str, asked: str, says: str) -> None:
    names = ["0.up.weight", "1.up.weight", "2.up.weight"]
    folder = write(tmp_path / "m", {stored + name: np.ones(2, np.float32) for name in names})
    error = problems(folder, [Weight(asked + name, (2,)) for name in names])
    assert says in (error.hint or "")


def test_check_suggests_a_similar_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"model.final_norm.weight": np.ones(2, np.float32)})
    error = problems(folder, [Weight("model.finalnorm.weight", (2,))])
    assert "did you mean 'model.final_norm.weight'" in (error.hint or "")


def test_report_of_a_thousand_tensors_stays_readable(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"x": np.ones(2, np.float32)})
    weights = [Weight(f"odd{n}name", (2,)) for n in range(1000)]
    lines = problems(folder, weights).message.splitlines()
    assert lines[1] == "  1000 tensors missing:"
    assert len(lines) < 40
    assert "    and 970 more lines like these" in lines


def test_group_by_layer() -> None:
    names = [f"h.{n}.w" for n in (3, 0, 1, 2, 7, 9)] + ["0.b", "2.b", "x", "h.4.v"]
    assert group_by_layer(names) == ["h.[0-3,7,9].w", "[0,2].b", "x", "h.4.v"]


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
    source.check(wanted(expected))
    for tensor, array in expected.items():
        np.testing.assert_array_equal(source.load(whole(tensor, array)), array)
