"""How many bytes of a text one token can stand for, where a tokeniser lets us know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel


def longest_token_bytes(backend: tokenizers.Tokenizer) -> int | None:
    """No token stands for more bytes of a text than this. None where that is not certain: rules
    that take something away, or one token for any run of unknown characters."""
    if not isinstance(backend.model, BPE):
        return None
    vocabulary = backend.get_vocab()
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        return None  # they swallow any number of spaces
    if not all(map(_keeps_text, _rules(backend.normalizer, "normalizers"))):
        return None
    splits = list(_rules(backend.pre_tokenizer, "pretokenizers"))
    if any(rule.get("behavior") == "Removed" for rule in splits):
        return None
    kinds = {rule["type"] for rule in splits} - {"Split", "Digits"}
    has_bytes = all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    is_whole = kinds <= {"Metaspace"} and backend.model.byte_fallback and has_bytes
    if kinds == {"ByteLevel"}:
        is_whole = all(character in vocabulary for character in ByteLevel.alphabet())
    # A character of a token of the byte alphabet is one byte, and takes at least one here.
    return max(len(text.encode()) for text in vocabulary) if is_whole and vocabulary else None


def _rules(part: Any, inner: str) -> Iterator[dict[str, Any]]:
    if part is not None:
        state = json.loads(part.__getstate__())
        yield from state[inner] if state["type"] == "Sequence" else [state]


def _keeps_text(rule: dict[str, Any]) -> bool:
    """Whether a normaliser makes no text shorter."""
    if rule["type"] == "Replace":
        taken: str | None = rule["pattern"].get("String")
        given: str = rule["content"]
        return taken is not None and len(taken.encode()) <= len(given.encode())
    return bool(rule["type"] == "Prepend")
