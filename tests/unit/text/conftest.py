"""Tokenisers, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from octavo.text.tokenizer import Tokenizer
from tests.unit.text.small_tokenizers import (
    byte_level_json,
    real_folder,
    sentencepiece_json,
    write_folder,
)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("byte_level")
    config = {"bos_token": "<|bos|>", "eos_token": "<|end|>"}
    return Tokenizer.load(write_folder(folder, byte_level_json(), config))


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("sentencepiece")
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    return Tokenizer.load(write_folder(folder, sentencepiece_json(), config))


@pytest.fixture(scope="session")
def real() -> Callable[[str], Tokenizer]:
    """Real tokenisers by name; asking for one that is not there skips the test."""

    @cache
    def load(folder: Path) -> Tokenizer:
        return Tokenizer.load(folder)

    return lambda name: load(real_folder(name))
