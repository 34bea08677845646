"""Folders and files that must be refused, each with its own error; and files hit by stray bits."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from octavo.core.errors import ModelError, UnsupportedModel
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.safetensors import READABLE, open_safetensors
from tests.unit.weights.files import entry, file_bytes, nothing_left_open, two_tensors

F32_1 = entry("F32", [1], 0, 4)


def one(described: Any, data: bytes = bytes(4), **more: Any) -> bytes:
    """A file whose tensor "x" is described like this."""
    return file_bytes({"x": described, **more}, data)


def torch_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return stream.getvalue()


# (name, content of model.safetensors, what the message must say)
BAD_FILES: list[tuple[str, bytes, str]] = [
    # the length
    ("empty", b"", "is empty"),
    ("seven bytes", bytes(7), "has only 7 bytes"),
    ("only a length", (2).to_bytes(8, "little"), "header has 2 bytes, but the whole file has 8"),
    ("header past the end", file_bytes({"x": F32_1}, length=10_000), "header has 10000 bytes"),
    ("header of a terabyte", file_bytes(b"{}", length=2**40), "at most 100000000 are read"),
    ("header of 2**64 - 1", b"\xff" * 8 + b"{}", "at most 100000000 are read"),
    ("no header", file_bytes(b"", b"{}"), "does not begin with '{'"),
    # the JSON
    ("no brace", file_bytes(b' {"x": 1}'), "does not begin with '{'"),
    ("an array", file_bytes(b"[1]"), "does not begin with '{'"),
    ("cut JSON", file_bytes(b'{"x": '), "not valid JSON"),
    ("two objects", file_bytes(b"{}{}"), "not valid JSON"),
    ("zero bytes after", file_bytes(b"{}\0\0"), "not valid JSON"),
    ("not UTF-8", file_bytes(b'{"\xff": 1}'), "not UTF-8 at byte 2"),
    ("nested 100,000 deep", file_bytes(b'{"x":' + b"[" * 100_000), "nested too deeply"),
    ("number of 10,000 digits", file_bytes(b'{"x":' + b"1" * 10_000 + b"}"), "not valid JSON"),
    ("NaN", file_bytes(b'{"x": NaN}'), "NaN is not a JSON number"),
    ("name twice", file_bytes(b'{"x": 1, "x": 2}'), "'x' is given twice"),
    ("field twice", file_bytes(b'{"x": {"dtype": "F32", "dtype": "U8"}}'), "'dtype' is given"),
    ("metadata a list", file_bytes({"__metadata__": []}), "__metadata__ must map"),
    ("metadata a number", file_bytes({"__metadata__": {"n": 1}}), "__metadata__ must map"),
    # a tensor's description
    ("description a number", one(3), "tensor 'x' is not described by"),
    ("no dtype", one({"shape": [1], "data_offsets": [0, 4]}), "tensor 'x' is not described by"),
    ("no shape", one({"dtype": "F32", "data_offsets": [0, 4]}), "tensor 'x' is not described"),
    ("no offsets", one({"dtype": "F32", "shape": [1]}), "tensor 'x' is not described by"),
    ("dtype null", one(entry(None, [1], 0, 4)), "tensor 'x' has a dtype that"),
    ("shape a number", one(entry("F32", 1, 0, 4)), "tensor 'x' has a shape that"),
    ("shape of a float", one(entry("F32", [1.0], 0, 4)), "tensor 'x' has a shape that"),
    ("shape of true", one(entry("F32", [True], 0, 4)), "tensor 'x' has a shape that"),
    ("negative shape", one(entry("F32", [-1], 0, 4)), "tensor 'x' has a shape that"),
    ("two negative sizes", one(entry("F32", [-1, -1], 0, 4)), "tensor 'x' has a shape that"),
    ("product of 2**80", one(entry("F32", [2**40, 2**40], 0, 4)), "beyond all bounds"),
    ("product that wraps to 1", one(entry("F32", [2**32 + 1] * 2, 0, 4)), "beyond all bounds"),
    ("absurd but empty", one(entry("F32", [0, 2**62, 2**62], 0, 0)), "beyond all bounds"),
    ("size of 2**64", one(entry("F32", [2**64], 0, 4)), "tensor 'x' has a shape that"),
    ("1,000 dimensions", one(entry("F32", [1] * 1000, 0, 4)), "beyond all bounds"),
    ("three offsets", one({**F32_1, "data_offsets": [0, 4, 4]}), "'x' has data_offsets that"),
    ("offsets a string", one({**F32_1, "data_offsets": "04"}), "'x' has data_offsets that"),
    ("negative offset", one(entry("F32", [1], -4, 0)), "'x' has data_offsets that"),
    ("float offset", one(entry("F32", [1], 0, 4.0)), "'x' has data_offsets that"),
    ("offset of 2**70", one(entry("F32", [1], 0, 2**70)), "'x' has data_offsets that"),
    ("end before begin", one(entry("F32", [1], 4, 0)), "'x' ends (at 0) before it begins (at 4)"),
    ("past the end", one(entry("F32", [2], 0, 8)), "it is truncated"),
    ("offset near 2**63", one(entry("F32", [1], 2**63 - 5, 2**63 - 1)), "it is truncated"),
    ("too few bytes", one(entry("F32", [2], 0, 4)), "has 4 bytes, but F32 (2,) needs 8"),
    ("too many bytes", one(entry("F16", [1], 0, 4)), "has 4 bytes, but F16 (1,) needs 2"),
    ("half a byte", one(entry("F4", [3], 0, 2), bytes(2)), "F4 (3,) needs 1.5"),
    ("name not Unicode", file_bytes(b'{"\\ud800": {}}'), "has a name that is not Unicode"),
    ("name of 2,000 letters", file_bytes({"n" * 2000: F32_1}, bytes(4)), "has a name that"),
    # how tensors lie
    ("hole before", one(entry("F32", [1], 4, 8), bytes(8)), "leaves a hole after the header"),
    (
        "hole between",
        one(F32_1, bytes(12), y=entry("F32", [1], 8, 12)),
        "'y' leaves a hole after 'x",
    ),
    ("bytes at the end", one(F32_1, bytes(5)), "1 bytes that belong to no tensor, after 'x'"),
    ("bytes, no tensor", file_bytes({}, b"!"), "1 bytes that belong to no tensor"),
    ("same place", one(F32_1, bytes(4), y=F32_1), "tensor 'y' overlaps 'x'"),
    ("overlap", one(entry("U8", [3], 0, 3), bytes(4), y=entry("U8", [2], 2, 4)), "'y' overlaps 'x"),
    ("inside", one(entry("U8", [4], 0, 4), bytes(4), y=entry("U8", [1], 1, 2)), "'y' overlaps 'x'"),
    ("last byte missing", two_tensors()[:-1], "tensor 'b' ends at byte"),
    # other formats
    ("GGUF inside", b"GGUF\x03\0\0\0" + bytes(64), "GGUF files cannot be read yet"),
    ("torch archive inside", torch_archive(), "holds a pickle or a PyTorch archive"),
    ("pickle inside", pickle.dumps({"x": [1.0] * 9}, protocol=2), "holds a pickle or a PyTorch"),
    ("git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
    ("web page", b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_bad_file(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with nothing_left_open(tmp_path), pytest.raises(ModelError) as error:
        Checkpoint(tmp_path)
    assert says in error.value.message
    assert error.value.message.startswith(str(path))
    assert error.value.hint
    assert len(str(error.value)) < 2_000


SHARDS = {
    "s1.safetensors": file_bytes({"a": F32_1}, bytes(4)),
    "s2.safetensors": file_bytes({"b": F32_1}, bytes(4)),
}
GOOD_MAP = {"a": "s1.safetensors", "b": "s2.safetensors"}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class BadFolder:
    name: str
    says: str
    index: Any = None
    """The weight_map; or bytes, the whole index."""
    files: dict[str, bytes] | None = None
    kind: type[ModelError] = ModelError


BAD_FOLDERS = [
    BadFolder("nothing", "has neither model.safetensors nor", files={}),
    BadFolder("only a pickle", "refused", files={"pytorch_model.bin": b"\x80\x02"}),
    BadFolder("only .pth", "refused", files={"consolidated.00.pth": b"\x80\x02"}),
    BadFolder("only GGUF", "GGUF", files={"m-q4.gguf": b"GGUF"}, kind=UnsupportedModel),
    BadFolder("another name", "only weights.safetensors", files={"weights.safetensors": b""}),
    BadFolder("shards without index", "only s1.safetensors, s2.safetensors"),
    BadFolder("index not JSON", "not valid JSON", index=b"{"),
    BadFolder("index an array", "holds a JSON list", index=b"[]"),
    BadFolder("index empty", "not valid JSON", index=b""),
    BadFolder("no weight_map", "has no weight_map", index=b'{"metadata": {}}'),
    BadFolder("weight_map a list", "has no weight_map", index=b'{"weight_map": ["a"]}'),
    BadFolder("weight_map empty", "has no weight_map", index={}),
    BadFolder("tensor twice", "'a' is given twice", index=b'{"weight_map": {"a": "x", "a": "y"}}'),
    BadFolder("shard a number", "'a': its shard is not a string", index={"a": 1}),
    BadFolder("shard missing", "1 of 3 shards are missing", {**GOOD_MAP, "c": "s3.safetensors"}),
    BadFolder("shard's name too long", "shards are missing", {"a": "n" * 300 + ".safetensors"}),
    BadFolder("shard not Unicode", "shards are missing", {"a": "\ud800.safetensors"}),
    BadFolder("shard above", "is a path", {"a": "../s1.safetensors"}),
    BadFolder("shard absolute", "is a path", {"a": "/etc/s1.safetensors"}),
    BadFolder("shard below", "is a path", {"a": "sub/s1.safetensors"}),
    BadFolder("shard with dot", "is a path", {"a": "./s1.safetensors"}),
    BadFolder("shard with backslash", "is a path", {"a": "..\\s1.safetensors"}),
    BadFolder("shard with NUL", "is a path", {"a": "s1\0.safetensors"}),
    BadFolder("shard is the parent", "is not safetensors", {"a": ".."}),
    BadFolder("shard a pickle", "is not safetensors", {"a": "pytorch_model-00001.bin"}),
    BadFolder("shard empty", "is not safetensors", {"a": ""}),
    BadFolder(
        "shard damaged", "s2.safetensors: is empty", GOOD_MAP, {**SHARDS, "s2.safetensors": b""}
    ),
    BadFolder(
        "listed but absent", "no shard has: 'c' (not in s2.safetensors)",
        {**GOOD_MAP, "c": "s2.safetensors"},
    ),
    BadFolder(
        "wrong shard", "wrong shard: 'a' (in s1.safetensors, not in s2.safetensors)",
        {"a": "s2.safetensors", "b": "s1.safetensors"},
    ),
    BadFolder(
        "in two shards", "tensor 'a' is in two shards, s1.safetensors and s2.safetensors",
        GOOD_MAP, {**SHARDS, "s2.safetensors": SHARDS["s1.safetensors"]},
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", BAD_FOLDERS, ids=lambda row: row.name)
def test_bad_folder(tmp_path: Path, row: BadFolder) -> None:
    for name, content in (SHARDS if row.files is None else row.files).items():
        (tmp_path / name).write_bytes(content)
    if row.index is not None:
        raw = row.index if isinstance(row.index, bytes) else json.dumps({"weight_map": row.index})
        (tmp_path / INDEX).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with nothing_left_open(tmp_path), pytest.raises(ModelError) as error:
        Checkpoint(tmp_path)
    assert type(error.value) is row.kind
    assert row.says in error.value.message
    assert error.value.message.startswith(str(tmp_path))
    assert error.value.hint


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_directory, "Is a directory"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["a folder", "dangling link", "link to itself"],
)
@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_not_a_file(tmp_path: Path, name: str, make: Callable[[Path], None], says: str) -> None:
    make(tmp_path / name)
    with pytest.raises(ModelError, match=says) as error:
        Checkpoint(tmp_path)
    assert name in error.value.message


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        Checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".PKL", ".ckpt"])
def test_pickles_are_refused_by_name_whatever_is_in_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(two_tensors())
    with pytest.raises(ModelError, match="can run any code") as error:
        open_safetensors(path)
    assert "convert to safetensors" in (error.value.hint or "")


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_raise_model_error_or_give_arrays_of_the_right_size(
    tmp_path: Path, seed: int
) -> None:
    random_number = random.Random(seed)
    good = two_tensors()
    path = tmp_path / "model.safetensors"
    refused: list[ModelError] = []
    num_read = 0
    with nothing_left_open(tmp_path):
        for _ in range(500):
            bad = bytearray(good)
            # Mostly in the header, where it matters; sometimes a cut or a tail as well.
            for _ in range(random_number.choice([1, 1, 1, 2, 5])):
                bad[random_number.randrange(len(bad))] = random_number.choice(
                    [random_number.randrange(256), *b'0123456789{}[]",:']
                )
            if random_number.random() < 0.1:
                del bad[random_number.randrange(len(bad)) :]
            if random_number.random() < 0.05:
                bad += random_number.randbytes(3)
            path.write_bytes(bad)
            try:
                file = open_safetensors(path)
                for name, info in file.tensors.items():
                    if info.dtype in READABLE:
                        array = file.map_tensor(name)
                        assert array.shape == info.shape
                        assert array.nbytes == info.num_bytes == len(array.tobytes())
                        num_read += 1
                        del array  # its mapping must not outlive this turn
            except ModelError as error:
                refused.append(error)
    assert all(error.hint and error.message.startswith(str(path)) for error in refused)
    assert len(refused) > 100
    assert num_read > 100
