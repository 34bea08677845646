"""Token ids to text, one token at a time, never cutting a character in two.

The decoder stream of ``tokenizers`` is not used: it decodes the whole run again for each token of
invalid bytes (quadratic time) and fails on a byte-fallback run that turns out to be invalid. Here
each token is looked at once.

What comes out is what the tokeniser decodes all at once, with one exception: where a byte-fallback
run is partly invalid, its valid characters are kept, as SentencePiece does, while ``tokenizers``
gives up the whole run; a stream cannot take back what it has already said.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from octavo.text.pieces import TokenPieces

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_CHARACTER_BYTES = 4


class Detokenizer:
    """Text of one sequence of tokens, piece by piece.

    Args:
        pieces: the bytes of each token.
        skip: ids that leave no trace in the text, such as special tokens.
        context: the tokens before the first one that is fed, a prompt for example. Their text is
            not given out, but it decides whether a leading space is dropped (only at the start of
            everything) and may end with the first bytes of a character.
    """

    __slots__ = ("_at_start", "_pending", "_pieces", "_rules", "_skip")

    def __init__(
        self, pieces: TokenPieces, skip: Collection[int] = (), context: Sequence[int] = ()
    ) -> None:
        self._pieces = pieces
        self._rules = pieces.rules
        self._skip = skip
        self._pending = b""  # the first one to three bytes of a character
        self._at_start = True
        self._see(context)

    def _see(self, context: Sequence[int]) -> None:
        """Take over from a context: its last four bytes say which character is unfinished."""
        tail: list[int] = []
        num_bytes = 0
        for token_id in reversed(context):
            num_bytes += 0 if token_id in self._skip else len(self._pieces[token_id])
            tail.append(token_id)
            if num_bytes >= _MAX_CHARACTER_BYTES:
                break
        for token_id in reversed(tail):
            self.feed(token_id)
        self._at_start = num_bytes == 0

    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty when a character still lacks bytes."""
        if token_id in self._skip:
            return ""
        piece = self._pieces[token_id]
        if not self._pending and piece.isascii():
            text = piece.decode("ascii")
        else:
            text = self._decode(self._pending + piece)
        return self._strip_start(text) if self._at_start else text

    def flush(self) -> str:
        """What is still held back, as U+FFFD; nothing is held back afterwards."""
        num_pending = len(self._pending)
        self._pending = b""
        if not num_pending:
            return ""
        return REPLACEMENT * (num_pending if self._rules.byte_fallback else 1)

    def _decode(self, data: bytes) -> str:
        """All whole characters of ``data``; an unfinished last one is kept."""
        parts: list[str] = []
        while True:
            try:
                text, used = codecs.utf_8_decode(data, "strict", False)
            except UnicodeDecodeError as error:
                # [start, end) is the longest start of a character that cannot go on: one mark for
                # it, as Unicode advises and Rust's lossy decoding does, or one for each byte.
                invalid = error.end - error.start if self._rules.byte_fallback else 1
                parts += [data[: error.start].decode(), REPLACEMENT * invalid]
                data = data[error.end :]
            else:
                self._pending = data[used:]
                return "".join([*parts, text])

    def _strip_start(self, text: str) -> str:
        if not text:
            return text
        self._at_start = False
        drop = 0
        while drop < self._rules.strip_start and text[drop : drop + 1] == " ":
            drop += 1
        return text[drop:]
