"""Hub ids, for real: huggingface_hub's client against a server on loopback, and its cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo.core.errors import ModelNotFound
from octavo.models.folder import resolve
from octavo.models.hub import HubId, looks_like_hub_id
from tests.unit.models.hub_server import Asker, Hub, Repository

SMALL = {"config.json": b"{}", "tokenizer.json": b"{}", "chat_template.jinja": b"x"}
BALLAST = {
    "README.md": b"#",
    "pytorch_model.bin": b"\x80\x02",
    "consolidated.safetensors": b"twice",
    "original/model.safetensors": b"thrice",
    "onnx/config.json": b"{}",
    "model.fp16.safetensors": b"more",
}
INDEX = json.dumps(
    {"weight_map": {"a": "s[1].safetensors", "b": "s2.safetensors", "c": "s2.safetensors"}}
).encode()
OLD_COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    versions = Repository.of({**SMALL, "model.safetensors": b"new"})
    versions.commits[OLD_COMMIT] = {"config.json": b"{}", "model.safetensors": b"old"}
    versions.branches |= {"v1.0": OLD_COMMIT}
    running = Hub(
        {
            "owner/single": Repository.of({**SMALL, **BALLAST, "model.safetensors": b"numbers"}),
            "owner/sharded": Repository.of(
                {
                    **SMALL,
                    **BALLAST,
                    "model.safetensors.index.json": INDEX,
                    "s[1].safetensors": b"one",
                    "s1.safetensors": b"not this",
                    "s2.safetensors": b"two",
                }
            ),
            "owner/versions": versions,
            "owner/pickled": Repository.of({**SMALL, "pytorch_model.bin": b"\x80\x02"}),
            "owner/gguf": Repository.of({"model-q4.gguf": b"GGUF", "model.safetensors": b""}),
            "owner/evil": Repository.of(
                {
                    **SMALL,
                    "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}',
                }
            ),
            "owner/gated": Repository.of(SMALL, gated=True),
            "owner/broken": Repository.of(SMALL, broken=True),
        }
    )
    yield running
    running.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where relative paths begin: it has a folder whose name is nearly that of a repository."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "owner" / "nowhere-7B").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def online(hub: Hub, home: Path, working_folder: Path) -> Iterator[Asker]:
    asker = Asker(hub.url, home, working_folder)
    yield asker
    asker.close()


@pytest.fixture(scope="module")
def offline(hub: Hub, home: Path, working_folder: Path) -> Iterator[Asker]:
    """The same cache; the hub is there, but must not be asked."""
    asker = Asker(hub.url, home, working_folder, HF_HUB_OFFLINE="1")
    yield asker
    asker.close()


@pytest.fixture(scope="module")
def unreachable(home: Path, working_folder: Path) -> Iterator[Asker]:
    """The same cache; nobody listens."""
    asker = Asker("http://127.0.0.1:9", home, working_folder)
    yield asker
    asker.close()


def names_in(folder: str) -> set[str]:
    root = Path(folder)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_downloads_what_a_single_file_model_needs(online: Asker, home: Path) -> None:
    folder = online.resolve("owner/single")["folder"]
    assert names_in(folder) == {*SMALL, "model.safetensors"}
    assert (Path(folder) / "model.safetensors").read_bytes() == b"numbers"
    assert Path(folder).is_relative_to(home / "hub"), "HF_HOME is honoured"


def test_downloads_the_shards_that_the_index_names(online: Asker) -> None:
    folder = online.resolve("owner/sharded")["folder"]
    assert names_in(folder) == {
        *SMALL,
        "model.safetensors.index.json",
        "s[1].safetensors",
        "s2.safetensors",
    }


def test_leaves_the_weights_out_where_they_are_not_wanted(
    hub: Hub, tmp_path: Path, working_folder: Path
) -> None:
    asker = Asker(hub.url, tmp_path, working_folder)
    folder = asker.resolve("owner/pickled", weights=False)["folder"]
    asker.close()
    assert names_in(folder) == set(SMALL)


def test_what_is_cached_is_not_downloaded_again(online: Asker, hub: Hub) -> None:
    first = online.resolve("owner/single")
    num_downloads = len(hub.downloads)
    assert online.resolve("owner/single") == first
    assert len(hub.downloads) == num_downloads


@pytest.mark.parametrize("revision", ["v1.0", OLD_COMMIT])
def test_revisions(online: Asker, revision: str) -> None:
    folder = online.resolve(f"owner/versions@{revision}")["folder"]
    assert Path(folder).name == OLD_COMMIT
    assert (Path(folder) / "model.safetensors").read_bytes() == b"old"
    newest = online.resolve("owner/versions")["folder"]
    assert (Path(newest) / "model.safetensors").read_bytes() == b"new"


def test_offline_the_cache_answers_and_the_hub_is_not_asked(
    online: Asker, offline: Asker, unreachable: Asker, hub: Hub
) -> None:
    for model in ("owner/single", "owner/sharded", "owner/versions@v1.0"):
        folder = online.resolve(model)
        num_requests = hub.num_requests
        assert offline.resolve(model) == folder
        assert hub.num_requests == num_requests > 0
        assert unreachable.resolve(model) == folder


@pytest.mark.parametrize(
    ("model", "kind", "message", "hint"),
    [
        ("owner/nothing", "ModelNotFound", "no such repository", "check the spelling"),
        ("owner/versions@v9", "ModelNotFound", "no revision 'v9'", "leave it out"),
        ("owner/gated", "ModelNotFound", "is gated", "accept its terms"),
        ("owner/broken", "ModelNotFound", "cannot be reached", "check the network"),
        ("owner/pickled", "ModelError", "lacks model.safetensors", "only safetensors"),
        ("owner/gguf", "ModelError", "has no config.json", "GGUF"),
        ("owner/evil", "ModelError", "'../x.safetensors' is a path", "do not use"),
        ("owner/x@a b", "ModelNotFound", "'a b' is not a revision", "a branch, a tag"),
        ("owner/x@../../y", "ModelNotFound", "is not a revision", "a branch, a tag"),
        ("owner/Nowhere_7b", "ModelNotFound", "nor is there a folder", "'owner/nowhere-7B'"),
    ],
)
def test_what_the_hub_does_not_give(
    online: Asker, model: str, kind: str, message: str, hint: str
) -> None:
    answer = online.resolve(model)
    assert answer["error"] == kind
    assert message in answer["message"]
    assert hint in answer["hint"]


def test_not_cached(offline: Asker, unreachable: Asker, hub: Hub) -> None:
    num_requests = hub.num_requests
    answer = offline.resolve("owner/never-fetched")
    assert answer["error"] == "ModelNotFound"
    assert "not in the hub's cache, and HF_HUB_OFFLINE forbids" in answer["message"]
    assert "unset HF_HUB_OFFLINE" in answer["hint"]
    assert hub.num_requests == num_requests

    answer = unreachable.resolve("owner/never-fetched")
    assert answer["error"] == "ModelNotFound"
    assert "not in the hub's cache, and the hub cannot be reached" in answer["message"]
    assert "check the network" in answer["hint"]


def test_a_copy_without_its_weights_is_not_complete(
    hub: Hub, tmp_path: Path, working_folder: Path
) -> None:
    asker = Asker(hub.url, tmp_path, working_folder)
    whole = Path(asker.resolve("owner/sharded")["folder"])
    asker.close()
    (whole / "s2.safetensors").unlink()
    asker = Asker(hub.url, tmp_path, working_folder, HF_HUB_OFFLINE="1")
    answer = asker.resolve("owner/sharded")
    assert answer["error"] == "ModelNotFound"
    assert "only in part" in answer["message"]
    # Caches of older versions of the client list no files: then it is we who notice.
    shutil.rmtree(whole.parents[1] / "trees")
    asker.close()
    asker = Asker(hub.url, tmp_path, working_folder, HF_HUB_OFFLINE="1")
    answer = asker.resolve("owner/sharded")
    assert answer["error"] == "ModelError"
    assert "lacks s2.safetensors" in answer["message"]
    asker.close()


def test_cache_written_by_another_program(hub: Hub, tmp_path: Path, working_folder: Path) -> None:
    """The layout as documented: refs/main names the commit, snapshots/<commit> has the files."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / OLD_COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(OLD_COMMIT)
    for name in ("config.json", "model.safetensors"):
        blob = repository / "blobs" / name
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(b"{}")
        (snapshot / name).symlink_to(blob)
    asker = Asker(hub.url, tmp_path, working_folder, HF_HUB_OFFLINE="1")
    assert Path(asker.resolve("org/name")["folder"]) == snapshot
    asker.close()


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", None),
        ("a/b@refs/pr/4", "a/b", "refs/pr/4"),
        ("a_b/c_d@v1.0-rc.1", "a_b/c_d", "v1.0-rc.1"),
    ],
)
def test_hub_ids(name: str, repository: str, revision: str | None) -> None:
    assert looks_like_hub_id(name)
    assert HubId.parse(name) == HubId(repository, revision)
    assert str(HubId.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    ["gpt2", "/a/b", "./a", "../a", "~/a", "a/b/c", "a/", "/a", "a//b", "a\\b", "a/b c", "a/..",
     "a..b/c", "a--b/c", "-a/b", "a/b@", "a/b\n", "ä/b", "http://a/b", "a" * 300 + "/b"],
)  # fmt: skip
def test_not_hub_ids(name: str) -> None:
    assert not looks_like_hub_id(name)
    with pytest.raises(ModelNotFound) as error:
        resolve(name)
    assert error.value.hint


def test_the_client_is_imported_for_hub_ids_only() -> None:
    program = (
        "import sys, octavo.models.folder as folder\n"
        "try: folder.resolve('./nowhere')\n"
        "except folder.ModelNotFound: print('huggingface_hub' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
