"""The built-in model is in the package, small, and found by its name and by no path."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.core.errors import ModelNotFound
from octavo.models.builtin import BUILTIN, builtin_folder
from octavo.models.folder import resolve
from octavo.models.generation import GenerationConfig
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.weights.checkpoint import Checkpoint

MAX_BYTES = 6_000_000
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_all_of_it_is_there_and_small() -> None:
    paths = [path for path in builtin_folder().iterdir() if path.name != "__pycache__"]
    assert {path.name for path in paths} == FILES
    assert sum(path.stat().st_size for path in paths) < MAX_BYTES
    for path in paths:
        assert path.stat().st_mode & 0o044 == 0o044, f"{path.name}: others cannot read it"


def test_it_is_in_bfloat16_and_its_card_counts_its_parameters() -> None:
    folder = builtin_folder()
    checkpoint = Checkpoint(folder)
    checkpoint.check(build(ModelSpec.read(folder), 64).weights())
    num_parameters = checkpoint.num_bytes // 2
    assert f"| {num_parameters:,} in bfloat16" in (folder / "README.md").read_text(encoding="utf-8")


def test_both_the_end_of_a_text_and_the_end_of_a_turn_end_an_answer() -> None:
    assert GenerationConfig.read(builtin_folder()).end_token_ids == (0, 3)


def test_its_name_means_the_packaged_folder_and_a_path_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(BUILTIN) == builtin_folder()
    for path in ("./builtin", Path(BUILTIN), f"{tmp_path}/builtin"):
        with pytest.raises(ModelNotFound, match="no such folder"):
            resolve(path)
    own = tmp_path / BUILTIN
    own.mkdir()
    (own / "config.json").write_text("{}")
    assert resolve(BUILTIN) == builtin_folder()
    assert resolve("./builtin") == Path(BUILTIN)
    assert resolve(Path(BUILTIN)) == Path(BUILTIN)


def test_whoever_errs_is_told_of_it() -> None:
    for name in ("no-such-model", "", "a\0b"):
        with pytest.raises(ModelNotFound) as error:
            resolve(name)
        assert "'builtin' for the built-in model" in (error.value.hint or "")
