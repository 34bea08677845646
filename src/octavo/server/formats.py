"""Answers as JSON: whole ones as structs, chunks of streams spliced together from bytes.

A chunk differs from the one before it in a few bytes; only these are encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from octavo.core.errors import OctavoError
from octavo.core.events import FinishReason, Usage
from octavo.runtime.model_text import EncodedPrompt
from octavo.runtime.outputs import ChoiceDelta, RequestOutput
from octavo.server.errors import error_body
from octavo.server.logprobs import (
    CompletionLogprobs,
    CompletionScores,
    TokenTexts,
    chat_logprobs,
)

DONE = b"data: [DONE]\n\n"
SoFar = Callable[[], Sequence[RequestOutput]]
_encode = msgspec.json.Encoder().encode


class Format(Protocol):
    """How the answers to one request are written."""

    def chunk(self, index: int, delta: ChoiceDelta, so_far: SoFar) -> bytes:
        """The events that a delta makes; none where there is nothing to tell yet."""

    def last_events(self, usage: Usage) -> bytes:
        """The end of a stream that went well."""

    def whole(self, outputs: Sequence[RequestOutput], usage: Usage) -> bytes:
        """Everything in one object."""


class AnswerFormat:
    """What every response to one request shares.

    Args:
        answer_id: of the response.
        created_s: when the request came, in seconds since 1970.
        texts: of the model's tokens.
        n: choices of each prompt.
        include_usage: whether streams carry it.
        token_ids: whether choices carry the ids of their tokens.
    """

    def __init__(
        self,
        *,
        answer_id: str,
        created_s: int,
        model: str,
        texts: TokenTexts,
        n: int,
        include_usage: bool,
        token_ids: bool,
    ) -> None:
        self.answer_id = answer_id
        self.created_s = created_s
        self.model = model
        self.texts = texts
        self.n = n
        self.include_usage = include_usage
        self.token_ids = token_ids

    def chunk_head(self, kind: str) -> bytes:
        """The bytes with which each chunk begins, up to its choices."""
        fields = {
            "id": self.answer_id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
        }
        return b"data: " + _encode(fields)[:-1] + b',"choices":['

    @property
    def chunk_tail(self) -> bytes:
        """The bytes with which each chunk ends, from the end of its choice on."""
        return b'],"usage":null}\n\n' if self.include_usage else b"]}\n\n"

    def whole(self, kind: str, choices: list[dict[str, Any]], usage: Usage) -> bytes:
        """A response that is not streamed."""
        return _encode(
            {
                "id": self.answer_id,
                "object": kind,
                "created": self.created_s,
                "model": self.model,
                "choices": choices,
                "usage": usage_fields(usage),
            }
        )

    def last_events(self, head: bytes, usage: Usage) -> bytes:
        """The usage, where it is wanted, and the end."""
        if not self.include_usage:
            return DONE
        return b"".join((head, b'],"usage":', _encode(usage_fields(usage)), b"}\n\n", DONE))

    def ids_field(self, token_ids: Sequence[int]) -> bytes:
        return b',"token_ids":' + _encode(token_ids) if self.token_ids else b""


class ChatFormat:
    """``chat.completion`` and ``chat.completion.chunk``."""

    def __init__(self, shared: AnswerFormat, *, logprobs: bool) -> None:
        self._shared = shared
        self._logprobs = logprobs
        self._head = shared.chunk_head("chat.completion.chunk")
        self._tail = shared.chunk_tail
        self._begun: set[int] = set()

    def chunk(self, index: int, delta: ChoiceDelta, so_far: SoFar) -> bytes:
        """The events that a delta makes; none where there is nothing to tell yet."""
        begun = index in self._begun
        if begun and not delta.text and delta.finish_reason is None and not self._tells_tokens:
            return b""
        logprobs = b"null"
        if delta.logprobs is not None and self._logprobs:
            scores = chat_logprobs(self._shared.texts, delta.token_ids, delta.logprobs)
            logprobs = _encode(scores)
        parts = [] if begun else [self._begin(index)]
        parts += (
            self._head,
            b'{"index":%d,"delta":{"content":' % index,
            _encode(delta.text),
            b'},"logprobs":',
            logprobs,
            b',"finish_reason":',
            _reason(delta.finish_reason),
            self._shared.ids_field(delta.token_ids),
            b"}",
            self._tail,
        )
        return b"".join(parts)

    def _begin(self, index: int) -> bytes:
        """The first chunk of a choice tells who speaks."""
        self._begun.add(index)
        choice = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null' % index
        return b"".join((self._head, choice, b',"finish_reason":null}', self._tail))

    def last_events(self, usage: Usage) -> bytes:
        return self._shared.last_events(self._head, usage)

    def whole(self, outputs: Sequence[RequestOutput], usage: Usage) -> bytes:
        choices: list[dict[str, Any]] = []
        for choice in outputs[0].choices:
            assert choice.finish_reason is not None, "the answer is finished"
            fields: dict[str, Any] = {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason.value,
            }
            if choice.logprobs is not None and self._logprobs:
                fields["logprobs"] = chat_logprobs(
                    self._shared.texts, choice.token_ids, choice.logprobs
                )
            if self._shared.token_ids:
                fields["token_ids"] = choice.token_ids
            choices.append(fields)
        return self._shared.whole("chat.completion", choices, usage)

    @property
    def _tells_tokens(self) -> bool:
        return self._logprobs or self._shared.token_ids


class CompletionFormat:
    """``text_completion``, whole and in chunks.

    Args:
        prompts: in their order; the choices of each follow one another.
        num_top: logprobs of so many of the most likely tokens; None for no logprobs.
        echo: whether choices begin with their prompt.
    """

    def __init__(
        self,
        shared: AnswerFormat,
        *,
        prompts: Sequence[EncodedPrompt],
        num_top: int | None,
        echo: bool,
    ) -> None:
        self._shared = shared
        self._prompts = prompts
        self._echo = echo
        self._head = shared.chunk_head("text_completion")
        self._tail = shared.chunk_tail
        self._scores: list[CompletionScores] | None = None
        self._begun: set[int] = set()
        if num_top is not None:
            self._scores = [
                CompletionScores(shared.texts, () if echo else prompt.token_ids, num_top)
                for prompt in prompts
                for _ in range(shared.n)
            ]

    def chunk(self, index: int, delta: ChoiceDelta, so_far: SoFar) -> bytes:
        """The events that a delta makes; none where there is nothing to tell yet."""
        prompt = b""
        if self._echo and index not in self._begun:
            self._begun.add(index)
            output = so_far()[index // self._shared.n]
            logprobs = self._prompt_logprobs(index, output)
            prompt = self._event(index, self._prompt_text(output), logprobs, None, ())
        if not delta.text and delta.finish_reason is None and not self._tells_tokens:
            return prompt
        logprobs = None
        if self._scores is not None:
            assert delta.logprobs is not None, "the request wants logprobs"
            logprobs = self._scores[index].take(delta.token_ids, delta.logprobs)
        event = self._event(index, delta.text, logprobs, delta.finish_reason, delta.token_ids)
        return prompt + event

    def last_events(self, usage: Usage) -> bytes:
        return self._shared.last_events(self._head, usage)

    def whole(self, outputs: Sequence[RequestOutput], usage: Usage) -> bytes:
        choices: list[dict[str, Any]] = []
        for output in outputs:
            for choice in output.choices:
                assert choice.finish_reason is not None, "the answer is finished"
                index = len(choices)
                logprobs = self._prompt_logprobs(index, output) if self._echo else None
                if self._scores is not None:
                    assert choice.logprobs is not None, "the request wants logprobs"
                    answer = self._scores[index].take(choice.token_ids, choice.logprobs)
                    logprobs = answer if logprobs is None else _joined(logprobs, answer)
                fields: dict[str, Any] = {
                    "index": index,
                    "text": (self._prompt_text(output) if self._echo else "") + choice.text,
                    "logprobs": logprobs,
                    "finish_reason": choice.finish_reason.value,
                }
                if self._shared.token_ids:
                    fields["token_ids"] = choice.token_ids
                choices.append(fields)
        return self._shared.whole("text_completion", choices, usage)

    @property
    def _tells_tokens(self) -> bool:
        return self._scores is not None or self._shared.token_ids

    def _event(
        self,
        index: int,
        text: str,
        logprobs: CompletionLogprobs | None,
        reason: FinishReason | None,
        token_ids: Sequence[int],
    ) -> bytes:
        return b"".join(
            (
                self._head,
                b'{"index":%d,"text":' % index,
                _encode(text),
                b',"logprobs":',
                b"null" if logprobs is None else _encode(logprobs),
                b',"finish_reason":',
                _reason(reason),
                self._shared.ids_field(token_ids),
                b"}",
                self._tail,
            )
        )

    def _prompt_text(self, output: RequestOutput) -> str:
        """As it was given, or what its tokens say."""
        if output.prompt is not None:
            return output.prompt
        detokenizer = self._shared.texts.detokenizer(())
        if detokenizer is None:
            return ""
        texts = [detokenizer.feed(token_id) for token_id in output.prompt_token_ids]
        return "".join([*texts, detokenizer.flush()])

    def _prompt_logprobs(self, index: int, output: RequestOutput) -> CompletionLogprobs | None:
        if self._scores is None:
            return None
        assert output.prompt_logprobs is not None, "an echo with logprobs asks for them"
        return self._scores[index].take(output.prompt_token_ids, output.prompt_logprobs)


def error_event(error: OctavoError) -> bytes:
    """The last event of a stream that fails on the way."""
    return b"data: " + error_body(error) + b"\n\n"


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


_REASONS = {reason: _encode(reason.value) for reason in FinishReason}


def _reason(reason: FinishReason | None) -> bytes:
    return b"null" if reason is None else _REASONS[reason]


def _joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )
