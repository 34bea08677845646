"""Text to token ids, as the fast tokenisers of Hugging Face do it, from a model folder's files.

``tokenizer.json`` says nearly everything; ``tokenizer_config.json`` and its older companions name
the special tokens. Text that a user typed never becomes a control token: special tokens are only
recognised in text that a chat template wrote (``encode_template``). Streaming belongs to
``detokenizer``.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from octavo.core.errors import InvalidRequest
from octavo.text.detokenizer import Detokenizer
from octavo.text.pieces import DecodeRules, TokenPieces
from octavo.text.token_length import longest_token_bytes
from octavo.text.tokenizer_files import TokenizerFiles, read_tokenizer_files

LONG_TEXT = 4096
"""Characters from which on encoding a text is worth the cost of letting other threads run."""


class Tokenizer:
    """The tokeniser of a model. Safe for use by several threads.

    Attributes:
        vocab_size: one more than the highest token id. A model may have more rows than that.
        bos_id, eos_id: None where the files name none. The end ids that end an answer are the
            model's (generation_config.json), not these.
        special_ids: control tokens, left out of decoded text.
        names: ``bos_token``, ``eos_token``, ... with their text, as chat templates see them.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self._backend = files.backend
        self._lock = threading.Lock()  # over the backend's one switch for special tokens
        self.names: Mapping[str, str] = files.names
        self.vocab_size = max(self._backend.get_vocab().values(), default=-1) + 1
        added = self._backend.get_added_tokens_decoder()
        self._special = {id_: token.content for id_, token in added.items() if token.special}
        self.special_ids = frozenset(self._special)
        self.bos_id = self._id_of_name("bos_token")
        self.eos_id = self._id_of_name("eos_token")
        self._before, self._after = self._ends_to_add(files)
        # Stands in for control tokens while text that only looks like one is encoded beside them.
        # Nobody can type it: 24 random characters of the private use area.
        self._stand_in = "".join(chr(0xE000 + secrets.randbelow(0x1900)) for _ in range(24))
        self._backend.add_tokens(
            [tokenizers.AddedToken(self._stand_in, normalized=False, special=False)]
        )
        self._stand_in_id = self._backend.token_to_id(self._stand_in)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read the tokeniser of a model folder.

        Where ``add_bos_token`` or ``add_eos_token`` is true in tokenizer_config.json, that token
        is added even if tokenizer.json does not add it itself (Hugging Face's classes disagree
        among themselves here); false takes nothing away that tokenizer.json adds.

        Raises:
            ModelError: a file is missing, damaged, or at odds with another one.
        """
        return cls(read_tokenizer_files(Path(folder)))

    @property
    def special_texts(self) -> Iterable[str]:
        """What the special tokens look like."""
        return self._special.values()

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Ids of a plain text; the text of a special token in it is text like any other.

        Args:
            text: any text without lone surrogates.
            add_special: with what the model expects around a prompt, such as its first token.

        Raises:
            InvalidRequest: ``text`` holds lone surrogates, which are not characters, or something
                that the vocabulary has no token for, not even one for the unknown.
        """
        ids = self._encode(text, parse_special=False, add_special=add_special).ids
        return [*self._before, *ids, *self._after] if add_special else ids

    def encode_template(self, text: str, literals: Mapping[str, str] | None = None) -> list[int]:
        """Ids of what a chat template wrote; special tokens in it are control tokens.

        Args:
            text: a rendered template.
            literals: strings in ``text`` and what to put in their place. What is put there is
                never a control token; otherwise the ids are those of the whole text at once.

        Raises:
            InvalidRequest: as ``encode``.
        """
        parsed = self._encode(text, parse_special=True, add_special=False)
        if not literals:
            return parsed.ids
        parts: list[str] = []
        control_ids: list[int] = []
        place = 0
        for token_id, (start, end) in zip(parsed.ids, parsed.offsets, strict=True):
            special = self._special.get(token_id)
            # An unknown character also yields a special id, but does not look like it.
            if special is None or text[start:end].strip() != special.strip():
                continue
            parts += [text[place:start], self._stand_in]
            control_ids.append(token_id)
            place = end
        safe = "".join([*parts, text[place:]])
        for name, literal in literals.items():
            safe = safe.replace(name, literal)
        controls = iter(control_ids)
        return [
            next(controls) if token_id == self._stand_in_id else token_id
            for token_id in self._encode(safe, parse_special=False, add_special=False).ids
        ]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of tokens; ids outside the vocabulary and invalid bytes raise nothing.

        Raises:
            UnsupportedModel: a kind of decoder that is not implemented.
        """
        detokenizer = self.detokenizer(skip_special=skip_special)
        parts = [detokenizer.feed(token_id) for token_id in ids]
        return "".join(parts) + detokenizer.flush()

    def detokenizer(self, context: Sequence[int] = (), *, skip_special: bool = True) -> Detokenizer:
        """Decodes what follows ``context`` token by token.

        Raises:
            UnsupportedModel: a kind of decoder that is not implemented.
        """
        return Detokenizer(self._pieces, self.special_ids if skip_special else (), context)

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for; it need not be whole characters. Empty for an unknown id."""
        return self._pieces[token_id]

    @cached_property
    def longest_token_bytes(self) -> int | None:
        """No token stands for more bytes of a text; None where that is not known."""
        return longest_token_bytes(self._backend)

    @cached_property
    def _pieces(self) -> TokenPieces:
        decoder = self._backend.decoder
        rules = DecodeRules.from_decoder(
            None if decoder is None else json.loads(decoder.__getstate__())
        )
        return TokenPieces(rules, self._token_text)

    def _token_text(self, token_id: int) -> str | None:
        # Models have rows beyond the vocabulary, and there our stand-in has its id.
        known = 0 <= token_id < self.vocab_size
        return self._backend.id_to_token(token_id) if known else None

    def _encode(self, text: str, *, parse_special: bool, add_special: bool) -> tokenizers.Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character"
                f" {error.start}, which is not a character"
            ) from error
        try:
            with self._lock:
                self._backend.encode_special_tokens = not parse_special
                if len(text) <= LONG_TEXT:
                    return self._backend.encode(text, add_special_tokens=add_special)
                # Unlike a single text, a batch lets other threads run meanwhile.
                return self._backend.encode_batch([text], add_special_tokens=add_special)[0]
        except Exception as error:  # the library knows no narrower class
            raise InvalidRequest(f"the text cannot be tokenised: {error}") from error

    def _id_of_name(self, name: str) -> int | None:
        text = self.names.get(name)
        return None if text is None else self._backend.token_to_id(text)

    def _ends_to_add(self, files: TokenizerFiles) -> tuple[list[int], list[int]]:
        """Ids that the configuration wants around a prompt and that the backend does not add."""
        added = self._backend.encode("").ids
        first, last = (added[0], added[-1]) if added else (None, None)
        before, after = [], []
        if files.add_bos and self.bos_id not in (None, first):
            before.append(self.bos_id)
        if files.add_eos and self.eos_id not in (None, last):
            after.append(self.eos_id)
        return before, after
