"""The safetensors reader: against the reference implementation, and on headers made up at random.

What it must refuse is in test_malformed.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import ModelError
from octavo.weights.safetensors import (
    DTYPE_BITS,
    TensorInfo,
    open_safetensors,
    parse_header,
)
from tests.unit.weights.files import entry, file_bytes, nothing_left_open, open_below, two_tensors

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (0, 4), (5, 0, 2)])
def test_reads_what_the_reference_writes(
    tmp_path: Path, dtype: type, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(dtype).reshape(shape)
    before = np.arange(3, dtype=np.float16)
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"before": before, "x": values}, path, metadata={"format": "pt"})

    file = open_safetensors(path)

    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == {"before", "x"}
    read = file.map_tensor("x")
    assert read.dtype == values.dtype
    assert read.shape == shape
    assert read.tobytes() == values.tobytes()


def test_tensor_at_an_odd_offset(tmp_path: Path) -> None:
    values = np.array([1.5, -2.25, np.inf], np.float32)
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        file_bytes(
            {"o": entry("U8", [1], 0, 1), "x": entry("F32", [3], 1, 13)}, b"!" + values.tobytes()
        )
    )
    assert open_safetensors(path).map_tensor("x").tolist() == [1.5, -2.25, np.inf]


def test_header_may_end_in_spaces(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = json.dumps({"x": entry("F32", [1], 0, 4)}).encode() + b" " * 13
    path.write_bytes(file_bytes(header, np.float32(3).tobytes()))
    assert open_safetensors(path).map_tensor("x").tolist() == [3.0]


def test_metadata_may_be_null(tmp_path: Path) -> None:
    """As in files of MLX; the reference implementation takes it too."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes({"__metadata__": None, "x": entry("F32", [1], 0, 4)}, bytes(4)))
    assert open_safetensors(path).metadata == {}
    with safetensors.safe_open(path, "np") as reference:
        assert reference.keys() == ["x"]


def test_file_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes({}))
    assert dict(open_safetensors(path).tensors) == {}


def test_header_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    """640 is 80 02 in the file: the beginning of a pickle too."""
    header = json.dumps({"x": entry("F32", [1], 0, 4)}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes(header.ljust(640), bytes(4)))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert open_safetensors(path).tensors["x"].shape == (1,)


def test_mapping_is_read_only_and_lives_as_long_as_its_array(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(two_tensors())
    file = open_safetensors(path)
    assert open_below(tmp_path) == []

    array = file.map_tensor("a")
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    part = array[1]
    expected = part.copy()
    del array, file
    path.unlink()
    assert part.tobytes() == expected.tobytes(), "a view keeps the mapping alive"

    del part
    assert open_below(tmp_path) == []


def test_unknown_type_is_an_error_only_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {
        "new": entry("F5_E2M2", [8], 0, 5),
        "q": entry("I8", [2], 5, 7),
        "x": entry("F32", [1], 7, 11),
    }
    path.write_bytes(file_bytes(header, bytes(11)))
    file = open_safetensors(path)
    assert file.map_tensor("x").tolist() == [0.0]
    with pytest.raises(ModelError, match=r"'new' has type 'F5_E2M2', which is not a type") as error:
        file.map_tensor("new")
    assert error.value.hint
    with pytest.raises(ModelError, match=r"'q' has type 'I8'; readable are F32, F16, BF16"):
        file.map_tensor("q")
    with pytest.raises(ModelError, match="no tensor 'y'"):
        file.map_tensor("y")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.unlink(), id="vanished"),
        pytest.param(lambda path: path.write_bytes(two_tensors()[:-30]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="emptied"),
        pytest.param(
            lambda path: path.rename(path.with_name("old")) and path.write_bytes(two_tensors()),
            id="replaced",
        ),
    ],
)
def test_file_that_changes_after_it_was_opened(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(two_tensors())
    file = open_safetensors(path)
    change(path)
    with nothing_left_open(tmp_path), pytest.raises(ModelError, match="'b'") as error:
        file.map_tensor("b")
    assert str(path) in error.value.message
    assert error.value.hint


sizes = st.lists(st.integers(0, 9), max_size=4)


@given(
    shapes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(sorted(DTYPE_BITS)), sizes),
        max_size=8,
    ),
    data=st.data(),
)
def test_any_sound_header_is_read(shapes: dict[str, Any], data: st.DataObject) -> None:
    header, position = {}, 0
    whole = {
        name: (dtype, shape)
        for name, (dtype, shape) in shapes.items()
        if math.prod(shape) * DTYPE_BITS[dtype] % 8 == 0  # no half bytes
    }
    for name in data.draw(st.permutations(sorted(whole))):
        dtype, shape = whole[name]
        end = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = entry(dtype, shape, position, end)
        position = end
    shuffled = {name: header[name] for name in data.draw(st.permutations(sorted(header)))}

    tensors, metadata = parse_header(json.dumps(shuffled).encode(), 100, 100 + position, "f")

    assert metadata == {}
    for name, (dtype, shape) in whole.items():
        begin, end = header[name]["data_offsets"]
        assert tensors[name] == TensorInfo(name, dtype, tuple(shape), 100 + begin, 100 + end)
    assert len(tensors) == len(whole)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.integers(2**62, 2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip
almost_entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F4", "U8", "?"]) | json_values,
        "shape": st.lists(st.integers(-1, 3) | json_values, max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 30), min_size=2, max_size=2) | json_values,
    },
)


@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]), almost_entries | json_values, max_size=3
    ),
    num_data_bytes=st.integers(0, 30),
)
def test_any_other_header_is_refused_or_covers_the_data(
    header: dict[str, Any], num_data_bytes: int
) -> None:
    refused = None
    try:
        tensors, _ = parse_header(json.dumps(header).encode(), 8, 8 + num_data_bytes, "f")
    except ModelError as error:
        refused = error
    if refused is None:
        assert sum(info.num_bytes for info in tensors.values()) == num_data_bytes
    else:
        assert refused.hint
        assert refused.message.startswith("f: ")
