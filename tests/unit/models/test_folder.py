"""Local model folders: what is taken, and what is refused with which hint."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.core.errors import ModelError, ModelNotFound, UnsupportedModel
from octavo.models.folder import resolve


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    assert resolve(f"{folder}/") == folder
    assert resolve("owner/name") == Path("owner/name"), "a folder goes before the hub"
    assert resolve(Path("owner/name")) == Path("owner/name")
    assert resolve("~/owner/name") == folder
    (tmp_path / "link").symlink_to(folder)
    assert resolve("link") == Path("link")


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "kind", "says", "hint"),
    [
        ("m.gguf", content(b"GGUF"), UnsupportedModel, "GGUF files cannot be read yet", "later"),
        ("m.GGUF", content(b""), UnsupportedModel, "GGUF files cannot be read yet", "later"),
        ("m", content(b"GGUF\3"), UnsupportedModel, "GGUF files cannot be read yet", "later"),
        ("m.bin", content(b"x"), ModelError, ".bin checkpoints are refused", "convert to"),
        ("m.PTH", content(b"x"), ModelError, ".pth checkpoints are refused", "convert to"),
        ("m.weights", write_archive, ModelError, "holds a pickle or a PyTorch", "convert to"),
        ("m.w", content(pickle.dumps({})), ModelError, "holds a pickle or a", "convert to"),
        ("model.safetensors", content(b"x"), ModelNotFound, "a file, not", "give the folder: '"),
        ("config.json", content(b"{}"), ModelNotFound, "a file, not", "give the folder: '"),
        ("notes.txt", content(b"hi"), ModelNotFound, "a file, not", "give a model's folder"),
        ("pipe", os.mkfifo, ModelNotFound, "a file, not", "give a model's folder"),
    ],
)
def test_files(
    tmp_path: Path,
    name: str,
    make: Callable[[Path], object],
    kind: type[ModelError],
    says: str,
    hint: str,
) -> None:
    path = tmp_path / name
    make(path)
    for model in (path, str(path)):
        with pytest.raises(ModelError) as error:
            resolve(model)
        assert type(error.value) is kind
        assert says in error.value.message
        assert str(path) in error.value.message
        assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    ("files", "kind", "says", "hint"),
    [
        ([], ModelNotFound, "the folder has no config.json", "a model folder holds config.json"),
        (["config.json/x"], ModelNotFound, "the folder has no config.json", "a model folder"),
        (["m-q4.gguf"], UnsupportedModel, "m-q4.gguf: GGUF files cannot be read", "later"),
        (["inner/config.json"], ModelNotFound, "has no config.json", "did you mean '{}/inner'?"),
        (
            ["snapshots/abc/config.json", "refs/main"],
            ModelNotFound,
            "has no config.json",
            "did you mean '{}/snapshots/abc'?",
        ),
        (["adapter_config.json"], ModelNotFound, "has no config.json", "folder of its base model"),
    ],
)
def test_folders_without_configuration(
    tmp_path: Path, files: list[str], kind: type[ModelError], says: str, hint: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with pytest.raises(ModelError) as error:
        resolve(folder)
    assert type(error.value) is kind
    assert says in error.value.message
    assert hint.format(folder) in (error.value.hint or "")


@pytest.mark.parametrize("wrong", ["tiny-lama", "Tiny_Llama", "tiny llama", "tinyllama"])
def test_typing_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    make_model(tmp_path / "tiny-llama")
    make_model(tmp_path / "mistral")
    (tmp_path / "tiny-lama.txt").write_text("not a folder")
    with pytest.raises(ModelNotFound, match="no such folder") as error:
        resolve(str(tmp_path / wrong))
    assert error.value.hint == f"did you mean {str(tmp_path / 'tiny-llama')!r}?"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound) as error:
        resolve(wrong)
    assert error.value.hint == "did you mean 'tiny-llama'?"


@pytest.mark.parametrize("name", ["", "\0", "a\0b", "~nosuchuser/x", "/" + "n" * 300, "/a" * 3000])
def test_names_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(ModelNotFound) as error:
        resolve(name)
    assert error.value.hint
    assert len(str(error.value)) < 500


def test_a_path_is_never_taken_for_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        resolve(Path("owner/name"))
