"""A checkpoint's identity: the same while nothing happened, another or none when something did."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from octavo.weights import identity as identity_module
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.identity import Identity, identify
from octavo.weights.shards import open_folder
from tests.unit.weights.files import write

ARRAYS = {
    "a": np.arange(60, dtype=np.float32).reshape(6, 10),
    "b": np.ones(8, np.float16),
}

TICK_S = 0.02
"""More than a step of the file system's clock."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(identity_module, "SETTLED_NS", 0)
    return write(tmp_path / "m", ARRAYS, num_shards=2)


def identity_of(folder: Path) -> Identity:
    found = Checkpoint(folder).identity()
    assert found is not None
    return found


def test_stays_while_nothing_happens(folder: Path) -> None:
    first = identity_of(folder)
    assert identity_of(folder) == first
    assert first.place == str(folder)


def test_numbers_written_in_place_are_noticed(folder: Path) -> None:
    before = identity_of(folder)
    path = sorted(folder.glob("*.safetensors"))[1]
    time.sleep(TICK_S)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert identity_of(folder).state != before.state


def test_another_file_is_another_state(folder: Path) -> None:
    before = identity_of(folder)
    path = sorted(folder.glob("*.safetensors"))[0]
    shutil.copy2(path, folder / "copy")
    (folder / "copy").rename(path)
    assert identity_of(folder).state != before.state


def test_a_checkpoint_that_was_opened_before_a_change_has_none(folder: Path) -> None:
    opened = Checkpoint(folder)
    assert opened.identity() is not None
    path = sorted(folder.glob("*.safetensors"))[0]
    os.utime(path, ns=(1, 1))
    assert opened.identity() is None
    path.unlink()
    assert opened.identity() is None


def test_other_tensors_are_another_state(folder: Path, tmp_path: Path) -> None:
    tensors = open_folder(folder)
    renamed = {**tensors}
    now = 2**63
    first = identify(folder, tensors, now)
    del renamed["a"]
    assert first != identify(folder, renamed, now)


def test_what_changed_just_now_may_change_again(folder: Path) -> None:
    tensors = open_folder(folder)
    changed = max(path.stat().st_ctime_ns for path in folder.glob("*.safetensors"))
    identity_module.SETTLED_NS = 2_000_000_000  # undone by the fixture
    assert identify(folder, tensors, changed + 1_999_999_999) is None
    assert identify(folder, tensors, changed + 2_000_000_000) is not None
