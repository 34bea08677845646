"""How logprobs are written: always valid JSON, and no two tokens under one name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

from octavo.core.step import TokenLogprobs
from octavo.server.logprobs import CompletionScores, TokenTexts, chat_logprobs, finite
from octavo.text.tokenizer import Tokenizer
from tests.small_model import END, VOCAB


@pytest.fixture
def texts(folder: Path) -> TokenTexts:
    return TokenTexts(Tokenizer.load(folder))


@pytest.mark.parametrize(
    ("logprob", "written"),
    [(-1.5, -1.5), (0.0, 0.0), (-math.inf, -9999.0), (math.nan, -9999.0), (-1e9, -9999.0)],
)
def test_values_are_finite(logprob: float, written: float) -> None:
    assert finite(logprob) == written


def test_minus_infinity_is_valid_json(texts: TokenTexts) -> None:
    scores = TokenLogprobs(-math.inf, (65, 66), (-0.5, -math.inf))
    chat = json.loads(msgspec.json.encode(chat_logprobs(texts, [67], [scores])))
    [entry] = chat["content"]
    assert entry["logprob"] == -9999.0
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.5, -9999.0]
    taken = CompletionScores(texts, (), 2).take([67], [scores])
    assert json.loads(msgspec.json.encode(taken))["token_logprobs"] == [-9999.0]


def test_every_token_has_a_name_of_its_own(texts: TokenTexts) -> None:
    names = [texts.key(token_id) for token_id in range(VOCAB)]
    assert len(set(names)) == VOCAB
    assert END in names
    assert sum(name.startswith("bytes:\\x") for name in names) == 128


def test_offsets_count_characters(texts: TokenTexts) -> None:
    tokenizer = texts._tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode("a\u00e9\U0001f600b", add_special=False)
    scores = CompletionScores(texts, (), 0).take(ids, [TokenLogprobs(-1.0)] * len(ids))
    assert scores.text_offset == [0, 1, 1, 2, 2, 2, 2, 3]
    assert scores.top_logprobs == [None] * 8


def test_a_token_outside_of_the_top_is_added(texts: TokenTexts) -> None:
    scores = TokenLogprobs(-3.0, (65,), (-0.5,))
    taken = CompletionScores(texts, (), 1).take([67], [scores])
    [top] = taken.top_logprobs
    assert top == {texts.key(65): -0.5, texts.key(67): -3.0}


def test_without_a_tokeniser_tokens_are_numbers() -> None:
    texts = TokenTexts(None)
    assert texts.key(5) == "token_id:5"
    [entry] = chat_logprobs(texts, [5], [TokenLogprobs(-1.0)]).content
    assert (entry.token, entry.bytes) == ("token_id:5", None)
