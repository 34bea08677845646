"""The cache of packed weights: whatever happens to its files, it gives the bytes or nothing."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.weights import pack_cache, packed_file
from octavo.weights.pack_cache import Blocked, PackCache
from octavo.weights.packed_file import BrokenOff, Contents

NUM_BYTES = 64 * 1000
CONTENTS = Contents("/models/one", "ab" * 16, "w8", "packer 1", ("w8 + 2x32000 a b",), "cd" * 16)


def weights(num_bytes: int = NUM_BYTES, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)


def contents(place: str) -> Contents:
    return dataclasses.replace(CONTENTS, place=place)


def load(
    cache: PackCache, wanted: Contents = CONTENTS, num_bytes: int = NUM_BYTES
) -> NDArray[np.uint8] | None:
    memory = np.zeros(num_bytes, np.uint8)
    return None if cache.load(wanted, memory, 2) is None else memory


def only_file(cache: PackCache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


@pytest.fixture
def cache(tmp_path: Path) -> PackCache:
    return PackCache(tmp_path / "octavo" / "packed", most_bytes=2**24)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "PIECE_BYTES", 4096)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("num_bytes", [64, 4096, 4160, NUM_BYTES])
def test_gives_back_what_it_was_given(cache: PackCache, num_bytes: int) -> None:
    memory = weights(num_bytes)
    assert load(cache, num_bytes=num_bytes) is None
    assert cache.store(CONTENTS, memory)
    open_question = dataclasses.replace(CONTENTS, fingerprint=None)
    found = np.zeros(num_bytes, np.uint8)
    assert cache.load(open_question, found, 3) == CONTENTS
    np.testing.assert_array_equal(found, memory)


def test_a_later_file_replaces_the_one_before(cache: PackCache) -> None:
    changed = dataclasses.replace(CONTENTS, state="ef" * 16)
    assert cache.store(CONTENTS, weights(seed=1))
    assert cache.store(changed, weights(seed=2))
    found = load(cache, changed)
    assert found is not None
    np.testing.assert_array_equal(found, weights(seed=2))
    assert len(cache.entries()) == 1


@pytest.mark.parametrize(
    "other",
    [{"state": "00" * 16}, {"packer": "packer 2"}],
    ids=["checkpoint that changed", "packer"],
)
def test_what_is_outdated_is_deleted(
    cache: PackCache, other: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    cache.store(CONTENTS, weights())
    assert load(cache, dataclasses.replace(CONTENTS, **other)) is None  # type: ignore[arg-type]
    assert list(cache.folder.iterdir()) == []
    assert not caplog.records  # nothing is wrong


@pytest.mark.parametrize(
    "other",
    [{"recipe": "w4"}, {"arrays": ("w8 / 2x32000 a b",)}, {"place": "/models/two"}],
    ids=["recipe", "order of panels", "folder"],
)
def test_other_weights_have_other_files(cache: PackCache, other: dict[str, str]) -> None:
    cache.store(CONTENTS, weights())
    assert load(cache, dataclasses.replace(CONTENTS, **other)) is None  # type: ignore[arg-type]
    assert load(cache) is not None


def test_another_version_of_the_file_is_not_read(
    cache: PackCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.store(CONTENTS, weights())
    with monkeypatch.context() as context:
        context.setattr(packed_file, "VERSION", packed_file.VERSION + 1)
        with caplog.at_level(logging.INFO):
            assert load(cache) is None
    assert "is of version 1, not 2" in caplog.text
    assert list(cache.folder.iterdir()) == []


def flipped(data: bytes, position: int, bits: int) -> bytes:
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
def test_a_flipped_byte_is_a_miss(cache: PackCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cache.logger, "disabled", True)  # thousands of warnings
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    data = path.read_bytes()
    header_bytes = len(data) - NUM_BYTES
    random = np.random.default_rng(7)
    anywhere = random.integers(0, len(data), 1000).tolist()
    for position in [*range(header_bytes), *anywhere]:
        path.write_bytes(flipped(data, position, int(random.integers(1, 256))))
        assert load(cache) is None, position
        assert not path.exists(), position
    path.write_bytes(data)
    assert load(cache) is not None  # the file as it was: the flips were what was noticed


@pytest.mark.usefixtures("small_pieces")
def test_checks_matter(cache: PackCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without checksums the flips above would be read: the positive control."""
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 1, 1))

    class NoChecks:
        crc32 = staticmethod(lambda data: 0)

    header = packed_file.Header
    monkeypatch.setattr(packed_file, "zlib", NoChecks)
    monkeypatch.setattr(
        packed_file, "Header", lambda *facts: header(*facts[:3], (0,) * len(facts[3]))
    )
    found = load(cache)
    assert found is not None
    assert found[-1] == weights()[-1] ^ 1


@pytest.mark.usefixtures("small_pieces")
def test_a_file_of_another_length_is_a_miss(cache: PackCache) -> None:
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    data = path.read_bytes()
    for length in (0, 1, 31, 32, 4095, 4096, 4097, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert load(cache) is None
        assert not path.exists()
    path.write_bytes(data + b"\0")
    assert load(cache) is None


def test_damage_is_told(cache: PackCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    path.write_bytes(flipped(path.read_bytes(), 5000, 1))
    assert load(cache) is None
    assert "has a damaged piece at byte 4096: it is deleted, and made anew" in caplog.text


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        (CONTENTS, r"is damaged \(has a damaged piece at byte 4096\)"),
        (
            dataclasses.replace(CONTENTS, packer="packer 2"),
            r"is outdated \(is by packer 1, not packer 2\)",
        ),
    ],
)
def test_what_is_of_no_use_in_a_folder_that_cannot_be_written(
    cache: PackCache, monkeypatch: pytest.MonkeyPatch, wanted: Contents, kind: str
) -> None:
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    path.write_bytes(flipped(path.read_bytes(), 5000, 1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as context:  # root may write to every folder
        context.setattr(os, "unlink", refuse)
        with pytest.raises(Blocked, match=kind) as told:
            load(cache, wanted)
    assert "its folder cannot be written (Read-only file system)" in str(told.value)
    assert f"make {cache.folder} writable for this user" in str(told.value)
    assert path.exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room on the disk, set XDG_CACHE_HOME"),
        (errno.EACCES, "writable for this user, set XDG_CACHE_HOME"),
        (errno.EIO, "set XDG_CACHE_HOME"),
    ],
)
def test_what_helps_whoever_cannot_write(cache: PackCache, number: int, advice: str) -> None:
    assert advice in cache.advice(OSError(number, "told"))


def test_writing_can_be_broken_off(cache: PackCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "PIECE_BYTES", 4096)
    monkeypatch.setattr(packed_file, "_PIECES_OF_A_SYNC", 2)
    assert cache.store(CONTENTS, weights(), lambda: True)
    answers = iter([True, True, True])
    with pytest.raises(BrokenOff):
        cache.store(contents("other"), weights(), lambda: next(answers, False))
    assert next(answers, None) is None  # it was asked while it was writing
    found = load(cache)
    assert found is not None
    np.testing.assert_array_equal(found, weights())
    assert only_file(cache).suffix == ".packed"  # and nothing else


def test_files_are_for_their_owner_only(cache: PackCache) -> None:
    before = os.umask(0)
    try:
        cache.store(CONTENTS, weights())
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert only_file(cache).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_may_enter_is_not_used(cache: PackCache) -> None:
    cache.store(CONTENTS, weights())
    cache.folder.chmod(0o750)
    with pytest.raises(
        Blocked, match=r"chmod 700\): the weights are packed in memory at each start"
    ):
        load(cache)
    with pytest.raises(PermissionError):
        cache.store(CONTENTS, weights())
    cache.folder.chmod(0o700)
    assert load(cache) is not None


def test_links_and_pipes_are_not_followed(cache: PackCache, tmp_path: Path) -> None:
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert load(cache) is None
    path.unlink()
    os.mkfifo(path)
    assert load(cache) is None
    linked = PackCache(tmp_path / "link", most_bytes=2**24)
    linked.folder.symlink_to(cache.folder)
    with pytest.raises(NotADirectoryError):
        linked.store(CONTENTS, weights())


def test_the_least_recently_used_go_first(cache: PackCache) -> None:
    cache = PackCache(cache.folder, most_bytes=4 * (NUM_BYTES + 4096))
    for index, place in enumerate("abc"):
        cache.store(contents(place), weights())
        newest = cache.entries()[0].name if index == 0 else newest_of(cache, place)
        os.utime(cache.folder / newest, (1000 + index, 1000 + index))
    assert load(cache, contents("a")) is not None  # now used later than b and c
    cache.store(contents("d"), weights())
    cache.store(contents("e"), weights())
    left = {entry.contents.place for entry in cache.entries() if entry.contents}
    assert left == {"a", "d", "e"}
    assert sum(entry.num_bytes for entry in cache.entries()) <= cache.most_bytes()


def newest_of(cache: PackCache, place: str) -> str:
    return next(
        entry.name
        for entry in cache.entries()
        if entry.contents is not None and entry.contents.place == place
    )


def test_what_never_fits_is_not_written(cache: PackCache) -> None:
    cache = PackCache(cache.folder, most_bytes=2 * NUM_BYTES)
    assert cache.store(CONTENTS, weights())
    assert not cache.store(contents("large"), weights(3 * NUM_BYTES))
    assert load(cache) is not None  # nothing went for it


def test_the_bound_is_a_share_of_the_disk(cache: PackCache) -> None:
    cache.store(CONTENTS, weights())
    disk = os.statvfs(cache.folder)
    bound = PackCache(cache.folder).most_bytes()
    assert 0 < bound <= 20 * 2**30
    assert bound <= 0.11 * (disk.f_bavail * disk.f_frsize + 2**20)


def test_small_weights_are_not_worth_a_file(tmp_path: Path) -> None:
    assert not PackCache(tmp_path).wants(2**20)
    assert PackCache(tmp_path).wants(2**25)


def test_where_the_user_has_it() -> None:
    def folder_of(**environment: str) -> str:
        cache = PackCache.of_user(environment)
        assert cache is not None
        return str(cache.folder)

    assert folder_of(XDG_CACHE_HOME="/c") == "/c/octavo/packed"
    usual = os.path.expanduser("~/.cache/octavo/packed")
    assert folder_of() == folder_of(XDG_CACHE_HOME="") == folder_of(XDG_CACHE_HOME="c") == usual


def test_clear_deletes_everything_but_what_others_put_there(cache: PackCache) -> None:
    assert cache.clear() == []
    cache.store(contents("a"), weights())
    cache.store(contents("b"), weights())
    (cache.folder / "note.txt").write_text("mine")
    (cache.folder / "left.part").write_bytes(b"half")
    assert len(cache.clear()) == 2
    assert [path.name for path in cache.folder.iterdir()] == ["note.txt"]
    assert cache.entries() == []


def test_a_file_in_the_place_of_the_folder(cache: PackCache) -> None:
    cache.folder.parent.mkdir()
    cache.folder.write_text("mine")
    with pytest.raises(Blocked, match=r"cannot be used \(Not a directory\).*set XDG_CACHE_HOME"):
        load(cache)
    with pytest.raises(FileExistsError):
        cache.store(CONTENTS, weights())
    assert cache.folder.read_text() == "mine"


def test_a_damaged_file_that_somebody_else_deletes_is_a_miss(
    cache: PackCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(CONTENTS, weights())
    only_file(cache).write_bytes(b"nothing")
    unlink = os.unlink

    def second(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", second)
    assert load(cache) is None


def test_a_folder_in_the_place_of_a_file(cache: PackCache) -> None:
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    path.unlink()
    (path / "inner").mkdir(parents=True)
    (path.parent / "mine.packed").mkdir()  # no name of ours
    with pytest.raises(Blocked, match=r"is a folder, not a file.*octavo cache clear"):
        load(cache)
    [entry] = cache.entries()
    assert (entry.name, entry.contents) == (path.name, None)
    cache.store(contents("other"), weights(), lambda: True)
    assert {one.name for one in cache.clear()} >= {path.name}
    assert [left.name for left in cache.folder.iterdir()] == ["mine.packed"]
    assert cache.store(CONTENTS, weights())
    assert load(cache) is not None


def test_a_link_in_the_place_of_a_file_is_cleared_and_what_it_names_is_not(
    cache: PackCache, tmp_path: Path
) -> None:
    cache.store(CONTENTS, weights())
    path = only_file(cache)
    path.unlink()
    (tmp_path / "precious").mkdir()
    path.symlink_to(tmp_path / "precious")
    assert load(cache) is None
    assert [entry.name for entry in cache.clear()] == [path.name]
    assert not path.is_symlink()
    assert (tmp_path / "precious").is_dir()


def test_a_folder_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    cache = PackCache(Path("/proc/octavo"))  # not even root makes folders there
    assert load(cache) is None
    with pytest.raises(FileNotFoundError):
        cache.store(CONTENTS, weights())


# Processes.

HEAD = """
import os, resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from octavo.weights import packed_file
from octavo.weights.pack_cache import PackCache
from tests.unit.weights.test_pack_cache import CONTENTS, weights
cache = PackCache(Path(sys.argv[1]), most_bytes=2**24)
"""


def process(cache: PackCache, script: str) -> subprocess.Popen[str]:
    head = HEAD.format(root=str(Path(__file__).parents[3]))
    command = [sys.executable, "-c", head + script, str(cache.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_nothing(cache: PackCache) -> None:
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    cache.store(CONTENTS, weights())
except OSError as error:
    print(error.errno, os.listdir(cache.folder))
"""
    with process(cache, script) as writer:
        out, _ = writer.communicate(timeout=120)
    assert out == "27 []\n"  # EFBIG


def test_killed_while_it_writes(cache: PackCache) -> None:
    script = """
write, count = packed_file._write_all, 0
packed_file.PIECE_BYTES = 4096
def slowly(*arguments):
    global count
    count += 1
    if count == 5:
        print("in the middle", flush=True)
        time.sleep(50)
    write(*arguments)
packed_file._write_all = slowly
cache.store(CONTENTS, weights())
"""
    with process(cache, script) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "in the middle\n"
        half = only_file(cache)
        assert half.stat().st_size > 0
        assert load(cache) is None
        assert cache.entries() == []
        cache.store(contents("other"), weights())
        assert half.exists()  # its writer lives
        writer.send_signal(signal.SIGKILL)
    assert load(cache) is None
    assert cache.store(CONTENTS, weights())
    assert not half.exists()
    assert load(cache) is not None


@pytest.mark.slow
def test_many_write_at_once(cache: PackCache) -> None:
    script = """
count = 0
while count < 30 or (count < 10_000 and not (cache.folder.parent / "enough").exists()):
    cache.store(CONTENTS, weights())
    count += 1
"""
    with process(cache, script) as one, process(cache, script) as other:
        found = 0
        while one.poll() is None or other.poll() is None:
            memory = load(cache)
            if memory is not None:
                found += 1
                (cache.folder.parent / "enough").touch()
                np.testing.assert_array_equal(memory, weights())
    assert (one.returncode, other.returncode) == (0, 0)
    assert found > 0
    assert only_file(cache).suffix == ".packed"
    memory = load(cache)
    assert memory is not None
    np.testing.assert_array_equal(memory, weights())
