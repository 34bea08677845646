"""Logprobs as the OpenAI API writes them: one form for completions, another one for chats."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo.core.step import TokenLogprobs
from octavo.text.detokenizer import Detokenizer
from octavo.text.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class TokenText(msgspec.Struct, frozen=True):
    """How a token is shown."""

    text: str
    data: list[int] | None
    """Its bytes; None where there is no tokeniser."""


class TokenTexts:
    """How the tokens of a model are shown; each is worked out once."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, TokenText] = {}  # as many as the vocabulary has, at the most

    def __getitem__(self, token_id: int) -> TokenText:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._work_out(token_id)
        return known

    def _work_out(self, token_id: int) -> TokenText:
        if self._tokenizer is None:
            return TokenText(f"token_id:{token_id}", None)
        data = self._tokenizer.token_bytes(token_id)
        return TokenText(data.decode(errors="replace"), list(data))

    def key(self, token_id: int) -> str:
        """A name for the token that no other token shares just for being a part of a character."""
        shown = self[token_id]
        if shown.data is None or "\N{REPLACEMENT CHARACTER}" not in shown.text:
            return shown.text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in shown.data)

    def detokenizer(self, context: Sequence[int]) -> Detokenizer | None:
        return None if self._tokenizer is None else self._tokenizer.detokenizer(context)


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the most likely tokens at a position of a chat."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(msgspec.Struct, frozen=True):
    """One position of a chat."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Of one choice, or of one chunk of it."""

    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Of one choice, or of one chunk of it; four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def chat_logprobs(
    texts: TokenTexts, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
) -> ChatLogprobs:
    """Positions in the form of chats."""
    content = []
    for token_id, scores in zip(token_ids, logprobs, strict=True):
        shown = texts[token_id]
        top = [
            TopLogprob(texts[top_id].text, finite(logprob), texts[top_id].data)
            for top_id, logprob in zip(scores.top_ids, scores.top_logprobs, strict=True)
        ]
        content.append(ChatLogprob(shown.text, finite(scores.logprob), shown.data, top))
    return ChatLogprobs(content)


class CompletionScores:
    """Brings the positions of one choice into the form of completions, in order.

    It keeps count of characters: ``text_offset`` says where in the choice's text a token begins.

    Args:
        context: the tokens before the first one that is given; their text is not in the choice.
        num_top: the most likely tokens that the caller wants.
    """

    def __init__(self, texts: TokenTexts, context: Sequence[int], num_top: int) -> None:
        self._texts = texts
        self._num_top = num_top
        self._detokenizer = texts.detokenizer(context)
        self._offset = 0

    def take(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]
    ) -> CompletionLogprobs:
        """The next positions; None for the first token of a prompt, which nothing predicted."""
        result = CompletionLogprobs([], [], [], [])
        for token_id, scores in zip(token_ids, logprobs, strict=True):
            result.tokens.append(self._texts.key(token_id))
            result.token_logprobs.append(None if scores is None else finite(scores.logprob))
            result.top_logprobs.append(None if scores is None else self._top(token_id, scores))
            result.text_offset.append(self._offset)
            if self._detokenizer is not None:
                self._offset += len(self._detokenizer.feed(token_id))
        return result

    def _top(self, token_id: int, scores: TokenLogprobs) -> dict[str, float] | None:
        if not self._num_top:
            return None
        top = {
            self._texts.key(top_id): finite(logprob)
            for top_id, logprob in zip(scores.top_ids, scores.top_logprobs, strict=True)
        }
        top.setdefault(self._texts.key(token_id), finite(scores.logprob))
        return top


def finite(logprob: float) -> float:
    """What JSON can hold; also where arithmetic went wrong."""
    return logprob if logprob > LOWEST else LOWEST
