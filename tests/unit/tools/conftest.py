"""Fixtures of the tests of how the built-in model is made."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer

from made_stories import Teller
from make_tokenizer import make_tokenizer


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More would spend their processor time on waiting for each other: there is little to do."""
    torch = pytest.importorskip("torch", reason="the extra train")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stories() -> list[str]:
    """Made stories, enough for a tokeniser."""
    teller = Teller(random.Random(1))
    return [teller.story().text for _ in range(900)]


@pytest.fixture(scope="session")
def tokenizer(stories: list[str]) -> Tokenizer:
    return make_tokenizer(stories)
