"""A text as windows: every token is scored once, characters are those of what is scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.bench.windows import (
    Document,
    count_characters,
    cut_windows,
    encode_document,
    plan_reading,
    read_text,
    split_documents,
)
from octavo.core.errors import ConfigError
from octavo.text.tokenizer import Tokenizer
from tests.small_model import END, write_small_model

BOS = -1
TEXT = "Ein Hund, zwei Hünde: 犬がいる. 🙂 And then?"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A token a byte, and no BOS."""
    return Tokenizer.load(write_small_model(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One that adds BOS and EOS."""
    folder = write_small_model(tmp_path_factory.mktemp("bos"))
    config = {"bos_token": END, "eos_token": END, "add_bos_token": True, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


@given(length=st.integers(0, 60), context=st.integers(2, 20), has_bos=st.booleans())
def test_every_token_is_scored_once_and_read_from_its_windows_beginning(
    length: int, context: int, has_bos: bool
) -> None:
    tokens = tuple(range(length))
    document = Document((BOS, *tokens) if has_bos else tokens, has_bos)
    windows = list(cut_windows(document, context))
    scored = [token for window in windows for token in window[1:]]
    assert scored == list(tokens if has_bos else tokens[1:])
    assert all(2 <= len(window) <= context for window in windows)
    assert all(len(window) == context for window in windows[:-1])
    for window in windows:  # what is read is the BOS, or the token before
        assert window[0] == (BOS if has_bos else window[1] - 1)


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), min_size=1),
    context=st.integers(2, 20),
    limit=st.none() | st.integers(1, 100),
)
def test_a_reading_is_the_beginning_of_all_documents(
    plain: Tokenizer, with_bos: Tokenizer, texts: list[str], context: int, limit: int | None
) -> None:
    reading = plan_reading(texts, with_bos, context=context, limit=limit)
    scored = [token for window in reading.windows for token in window[1:]]
    everything = [token for text in texts for token in plain.encode(text)]
    assert scored == everything[:limit]
    assert reading.num_scored == len(scored)
    if limit is None:
        assert reading.num_documents == len(texts)
        assert reading.num_characters == sum(map(len, texts))
    assert {window[0] for window in reading.windows} == {with_bos.bos_id}


def test_characters_are_those_that_scored_tokens_complete(
    plain: Tokenizer, with_bos: Tokenizer
) -> None:
    assert count_characters(encode_document(TEXT, with_bos).token_ids, with_bos) == len(TEXT)
    assert count_characters(encode_document(TEXT, plain).token_ids, plain) == len(TEXT) - 1
    first_half = encode_document("犬", with_bos).token_ids[:-1]
    assert len(first_half) == 3  # BOS and two of three bytes
    assert count_characters(first_half, with_bos) == 0


def test_no_eos_is_scored(with_bos: Tokenizer) -> None:
    assert with_bos.encode("a")[-1] == with_bos.eos_id
    document = encode_document("a", with_bos)
    assert (len(document.token_ids), document.has_bos) == (2, True)


def test_a_limit_leaves_later_documents_alone(plain: Tokenizer) -> None:
    def texts():
        yield "abc"
        yield "def"
        raise AssertionError("not looked at")

    reading = plan_reading(texts(), plain, context=8, limit=4)
    assert (reading.num_documents, reading.num_scored, reading.num_characters) == (2, 4, 4)


@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"]])
def test_nothing_to_predict_is_told(plain: Tokenizer, texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="fewer than two tokens") as caught:
        plan_reading(texts, plain, context=8, limit=None)
    assert caught.value.hint


def test_documents_lie_between_separators() -> None:
    assert split_documents(" a \n", None) == [" a \n"]
    assert split_documents("\na b\n--\n\n-- --c--", "--") == ["a b", "c"]
    for text, separator in (("a", ""), (" -- --\n", "--")):
        with pytest.raises(ConfigError) as caught:
            split_documents(text, separator)
        assert caught.value.hint


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb \n")
    assert read_text(path) == "a\r\nb \n"


def test_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for content, message in (
        (None, "No such file"),
        (b"", "no text in it"),
        (b" \n\t\n", "no text in it"),
        (b"caf\xe9 au lait", "not UTF-8: byte 3"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            read_text(path)
        assert str(path) in caught.value.message
        assert caught.value.hint
    with pytest.raises(ConfigError, match="directory"):
        read_text(tmp_path)
