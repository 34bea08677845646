"""``octavo cache``: what it lists, and what it deletes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from octavo.weights.pack_cache import PackCache
from octavo.weights.packed_file import Contents
from tests.command_line import CommandLine


@pytest.fixture
def kept(tmp_path: Path) -> PackCache:
    """Two files, of which one is damaged."""
    cache = PackCache(tmp_path / "caches" / "octavo" / "packed")
    memory = np.zeros(6400, np.uint8)
    for place in ("/models/\x1b[31mone", "/models/two"):
        cache.store(Contents(place, "s", "w8", "packer", ("all",), None), memory)
    two = next(one for one in cache.entries() if one.contents and "two" in one.contents.place)
    (cache.folder / two.name).write_bytes(b"nothing")
    return cache


def test_nothing_is_kept_yet(octavo: CommandLine, tmp_path: Path) -> None:
    ended = octavo("cache", "ls", XDG_CACHE_HOME=str(tmp_path / "none"))
    assert (ended.status, ended.out) == (0, "")
    assert ended.err == f"0 files, 0 B in {tmp_path}/none/octavo/packed\n"
    ended = octavo("cache", "clear", "--json", XDG_CACHE_HOME=str(tmp_path / "none"))
    assert json.loads(ended.out)["deleted"] == []
    assert not (tmp_path / "none").exists()


def test_lists_and_deletes(octavo: CommandLine, kept: PackCache, tmp_path: Path) -> None:
    home = str(tmp_path / "caches")
    listed = octavo("cache", "ls", XDG_CACHE_HOME=home)
    assert listed.status == 0
    assert "/models/\\x1b[31mone  " in listed.out
    assert "w8  10.2 KiB" in listed.out
    assert "of no use" in listed.out
    assert "2 files, 10.3 KiB of at most" in listed.err
    found = json.loads(octavo("cache", "ls", "--json", XDG_CACHE_HOME=home).out)
    assert found["folder"] == str(kept.folder)
    assert found["most_bytes"] > 0
    by_model = {entry["model"]: entry for entry in found["files"]}
    assert by_model["/models/\x1b[31mone"]["bytes"] == 10496
    assert by_model["/models/\x1b[31mone"]["weights"] == "w8"
    assert by_model[None]["bytes"] == 7
    deleted = octavo("cache", "clear", XDG_CACHE_HOME=home)
    assert (deleted.status, deleted.out) == (0, "")
    assert deleted.err == f"deleted 2 files, 10.3 KiB in {kept.folder}\n"
    assert list(kept.folder.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_listed_and_deleted(
    octavo: CommandLine, kept: PackCache, tmp_path: Path
) -> None:
    home = str(tmp_path / "caches")
    path = kept.folder / kept.entries()[0].name
    path.unlink()
    (path / "inner").mkdir(parents=True)
    assert f"{path.name}  of no use" in octavo("cache", "ls", XDG_CACHE_HOME=home).out
    assert octavo("cache", "clear", XDG_CACHE_HOME=home).err.startswith("deleted 2 files")
    assert list(kept.folder.iterdir()) == []


def test_a_folder_that_others_may_enter_is_refused(
    octavo: CommandLine, kept: PackCache, tmp_path: Path
) -> None:
    kept.folder.chmod(0o755)
    ended = octavo("cache", "clear", XDG_CACHE_HOME=str(tmp_path / "caches"))
    assert ended.status == 1
    assert "must be this user's and nobody else's (chmod 700)" in ended.err
    assert "hint: mend that, set XDG_CACHE_HOME" in ended.err
    assert len(list(kept.folder.iterdir())) == 2


def test_a_file_in_the_place_of_the_folder_is_told(octavo: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "octavo").mkdir()
    (tmp_path / "octavo" / "packed").write_text("mine")
    for command in ("ls", "clear"):
        ended = octavo("cache", command, XDG_CACHE_HOME=str(tmp_path))
        assert ended.status == 1
        error, hint = ended.err.splitlines()
        assert error == f"error: {tmp_path}/octavo/packed: Not a directory"
        assert hint.startswith("hint: mend that, set XDG_CACHE_HOME")
