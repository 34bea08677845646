"""What each token id stands for as bytes, read from a tokeniser's decoder.

Only the meaning of single tokens is here; putting them together is the detokeniser's work. The
rules follow the decoders of Hugging Face's ``tokenizers``: byte-level BPE (GPT-2, Llama 3, Qwen)
and the SentencePiece imitation (Llama 2, Mistral, Gemma). WordPiece, Metaspace and the rest are
refused: no supported architecture that writes text uses them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octavo.core.errors import UnsupportedModel

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """How a decoder turns tokens into bytes."""

    byte_level: bool = False
    """A token spells its bytes in GPT-2's alphabet of 256 printable characters."""
    replacements: tuple[tuple[str, str], ...] = ()
    """Applied to a token's text, in this order."""
    byte_fallback: bool = False
    """A token ``<0xE2>`` is that byte; each byte that is part of no character is shown as one
    U+FFFD."""
    strip_start: int = 0
    """At most so many spaces are taken off the start of a whole text."""

    @classmethod
    def from_decoder(cls, decoder: dict[str, Any] | None) -> DecodeRules:
        """Read the ``decoder`` section of a tokenizer.json.

        Raises:
            UnsupportedModel: a decoder, or a sequence of decoders, that is not implemented.
        """
        steps = _flatten(decoder)
        kinds = [step.get("type") for step in steps]
        if kinds and set(kinds) <= {"ByteLevel", "Fuse"}:
            return cls(byte_level=True)
        replacements = []
        byte_fallback = fused = False
        strip_start = 0
        for step in steps:
            match step:
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                    if byte_fallback or fused:  # would act on text, not on tokens
                        break
                    replacements.append((old, new))
                case {"type": "ByteFallback"} if not fused:
                    byte_fallback = True
                case {"type": "Fuse"}:
                    fused = True
                case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused:
                    strip_start += start
                case _:
                    break
        else:
            if fused:
                return cls(
                    replacements=tuple(replacements),
                    byte_fallback=byte_fallback,
                    strip_start=strip_start,
                )
        raise UnsupportedModel(
            f"a tokenizer with the decoder {' + '.join(map(str, kinds)) or 'none'} cannot be"
            " decoded as a stream",
            hint="supported are ByteLevel, and Replace + ByteFallback + Fuse + Strip",
        )


def _flatten(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [step for part in decoder.get("decoders", []) for step in _flatten(part)]


class TokenPieces:
    """The bytes of every token, worked out when first asked for.

    Args:
        rules: how the tokeniser decodes.
        token_text: the token with an id, as the vocabulary spells it; None for no such id.
    """

    def __init__(self, rules: DecodeRules, token_text: Callable[[int], str | None]) -> None:
        self.rules = rules
        self._token_text = token_text
        self._pieces: dict[int, bytes] = {}
        self._alphabet = byte_alphabet() if rules.byte_level else {}

    def __getitem__(self, token_id: int) -> bytes:
        """The bytes of a token; none for an id that is not in the vocabulary."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._piece(token_id)
        return piece

    def _piece(self, token_id: int) -> bytes:
        token = self._token_text(token_id)
        if token is None:
            return b""
        if self.rules.byte_level:
            try:
                return bytes([self._alphabet[character] for character in token])
            except KeyError:  # an added token, which is spelt as it is
                return token.encode()
        for old, new in self.rules.replacements:
            token = token.replace(old, new)
        if self.rules.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token.encode()


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100.

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (encoder.py).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + number): byte for number, byte in enumerate(rest)}
    return alphabet
