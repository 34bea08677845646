"""Starts of real processes: packed, read from the cache, packed again after damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.small_model import write_small_model

pytestmark = pytest.mark.timeout(900)  # more than all processes of a test may take together
TIMEOUT_S = 120
SETTLED_S = 2.1
"""A checkpoint that was written later is not trusted yet."""
LARGE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
}
"""Over 32 MiB in float32: worth a file."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_small_model(tmp_path_factory.mktemp("large-model"), **LARGE)
    time.sleep(SETTLED_S)
    return folder


def octavo(home: Path, *words: object) -> subprocess.CompletedProcess[bytes]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "octavo", *map(str, words)],
        capture_output=True,
        timeout=TIMEOUT_S,
        env={**kept, "HOME": str(home), "PYTHONUTF8": "1"},
        cwd=home,
    )


def generate(home: Path, model: Path, *flags: str) -> subprocess.CompletedProcess[bytes]:
    words = ("abc", "--max-tokens", 8, "--seed", 3, "--weights", "f32")
    done = octavo(home, "generate", model, *words, *flags)
    assert done.returncode == 0, done.stderr
    return done


def files(home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(octavo(home, "cache", "ls", "--json").stdout)["files"]
    return found


@pytest.mark.slow
def test_the_second_start_reads_what_the_first_packed(model: Path, tmp_path: Path) -> None:
    expected = generate(tmp_path, model, "--no-pack-cache")
    assert files(tmp_path) == []
    assert generate(tmp_path, model).stdout == expected.stdout
    (kept,) = files(tmp_path)
    assert (kept["model"], kept["weights"]) == (str(model), "f32")
    assert kept["bytes"] > 2**25
    path = tmp_path / ".cache" / "octavo" / "packed" / kept["file"]
    os.utime(path, (1, 1))
    second = generate(tmp_path, model)
    assert (second.stdout, second.stderr) == (expected.stdout, expected.stderr)
    assert path.stat().st_mtime > 1  # it was read, and not made anew:
    inode = path.stat().st_ino
    assert generate(tmp_path, model).stdout == expected.stdout
    assert path.stat().st_ino == inode


@pytest.mark.slow
def test_damage_is_told_and_mended(model: Path, tmp_path: Path) -> None:
    expected = generate(tmp_path, model)
    (kept,) = files(tmp_path)
    path = tmp_path / ".cache" / "octavo" / "packed" / kept["file"]
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 0x40]))
    mended = generate(tmp_path, model)
    assert mended.stdout == expected.stdout
    assert b"has a damaged piece" in mended.stderr
    again = generate(tmp_path, model)
    assert (again.stdout, again.stderr) == (expected.stdout, expected.stderr)
