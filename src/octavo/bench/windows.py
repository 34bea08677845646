"""A text as the windows that a model reads: who predicts which token, and how much text that is.

A document's tokens are cut into windows of at most ``context`` tokens, each of which is read from
its own beginning, without what came before. The first token of a window is there to be read, and
all others are scored:

    document    BOS a b c d e f      context 4         a b c d e f      no BOS
    windows     BOS a b c                              a b c d
                BOS d e f                                    d e f

So every token of a document is scored once; without a BOS, all but its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from octavo.core.errors import ConfigError
from octavo.text.tokenizer import Tokenizer

_TAKES = "--text takes a plain text file in UTF-8"


@dataclass(frozen=True, slots=True)
class Document:
    """One text as tokens."""

    token_ids: tuple[int, ...]
    has_bos: bool
    """Whether the first token is the model's BOS, which begins every window."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a text, and how much of it is scored."""

    windows: tuple[tuple[int, ...], ...]
    """All tokens but the first of each are scored."""
    num_documents: int
    num_scored: int
    num_characters: int
    """That the scored tokens decode to."""


def read_text(path: Path) -> str:
    """A text file; a byte order mark is no part of the text.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or holds nothing but white space.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", hint=_TAKES) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8: byte {error.start} is no part of a character",
            hint="convert it first: iconv -f ENCODING -t UTF-8",
        ) from error
    if not text.strip():
        raise ConfigError(f"{path}: there is no text in it", hint=_TAKES)
    return text


def split_documents(text: str, separator: str | None) -> list[str]:
    """The parts between separators, without white space around them, and no empty ones.

    Raises:
        ConfigError: the separator is empty, or there is nothing beside separators.
    """
    if separator is None:
        return [text]
    if not separator:
        raise ConfigError(
            "the separator is empty",
            hint="leave --separator out to take the file as one document",
        )
    documents = [part for part in map(str.strip, text.split(separator)) if part]
    if not documents:
        raise ConfigError("the text has nothing but separators and white space", hint=_TAKES)
    return documents


def encode_document(text: str, tokenizer: Tokenizer) -> Document:
    """Tokens of a text, after the BOS if the tokeniser's files name one; no EOS follows.

    Raises:
        InvalidRequest: the vocabulary has no tokens for the text.
    """
    token_ids = tokenizer.encode(text, add_special=False)
    if tokenizer.bos_id is None:
        return Document(tuple(token_ids), has_bos=False)
    return Document((tokenizer.bos_id, *token_ids), has_bos=True)


def plan_reading(
    texts: Iterable[str], tokenizer: Tokenizer, *, context: int, limit: int | None
) -> Reading:
    """Cut documents into windows, until ``limit`` tokens are scored.

    The last document is cut short where the limit is reached; those after it are not looked at.

    Raises:
        ConfigError: no token is left to be scored.
        InvalidRequest: the vocabulary has no tokens for the text.
    """
    windows: list[tuple[int, ...]] = []
    num_documents = num_scored = num_characters = 0
    for text in texts:
        document = encode_document(text, tokenizer)
        if limit is not None:
            kept = document.token_ids[: 1 + limit - num_scored]
            document = Document(kept, document.has_bos)
        cut = list(cut_windows(document, context))
        if not cut:
            continue
        windows += cut
        num_documents += 1
        num_scored += sum(len(window) - 1 for window in cut)
        num_characters += count_characters(document.token_ids, tokenizer)
        if num_scored == limit:
            break
    if not windows:
        raise ConfigError(
            "the text has fewer than two tokens, so that there is none to predict",
            hint="give a longer text",
        )
    return Reading(tuple(windows), num_documents, num_scored, num_characters)


def cut_windows(document: Document, context: int) -> Iterator[tuple[int, ...]]:
    """Windows of 2 to ``context`` tokens, as the picture above shows."""
    assert context >= 2
    token_ids = document.token_ids
    edges = [*range(1, len(token_ids), context - 1), len(token_ids)]
    for start, end in pairwise(edges):
        first = token_ids[0] if document.has_bos else token_ids[start - 1]
        yield (first, *token_ids[start:end])


def count_characters(token_ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """The characters that all tokens but the first complete."""
    detokenizer = tokenizer.detokenizer()
    detokenizer.feed(token_ids[0])
    return sum(len(detokenizer.feed(token_id)) for token_id in token_ids[1:])
