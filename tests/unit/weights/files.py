"""Safetensors files written byte by byte, right and wrong, and a check that nothing stays open.

The ``safetensors`` package writes right ones only; it is the oracle where a test needs no fault.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


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
