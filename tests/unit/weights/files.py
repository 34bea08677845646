"""Model folders for tests, right and wrong, and a check that nothing stays open.

The ``safetensors`` package writes right files only; wrong ones are made byte by byte.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray

from octavo.program.ir import Weight

Entry = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> Entry:
    """How a header describes one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header (bytes as they are, anything else as JSON) and these data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def two_tensors() -> bytes:
    """A sound file: a (2, 3) and b (3,), both F32."""
    header = {"a": entry("F32", [2, 3], 0, 24), "b": entry("F32", [3], 24, 36)}
    return file_bytes(header, bytes(range(36)))


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


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found


def open_below(folder: Path) -> list[str]:
    """Descriptors and mappings of this process that belong to files in ``folder``."""
    gc.collect()
    inside = f"{folder.resolve()}/"
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [target for _, target in _descriptors() if target.startswith(inside)] + [
        line for line in maps if inside in line
    ]


@contextmanager
def nothing_left_open(folder: Path) -> Iterator[None]:
    """Fail if the block leaves a descriptor or a mapping of a file in ``folder`` behind."""
    yield
    assert open_below(folder) == []
