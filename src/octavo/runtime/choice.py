"""One choice of a request, from token ids to text: where it ends, and what overshot.

The engine knows when ids end a choice; stop strings are only seen here. Telling the engine, and
putting choices together, belongs to ``outputs``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from octavo.core.events import Finished, FinishReason, Timings, Token, Usage
from octavo.core.request import ChoiceSoFar, SamplingParams
from octavo.core.step import TokenLogprobs
from octavo.text.detokenizer import Detokenizer
from octavo.text.stops import StopFinder


class ChoiceDelta(msgspec.Struct, frozen=True):
    """What is new in one choice. All deltas of a choice, put together, are its output."""

    choice: int
    text: str
    """May be empty, and may lag behind the tokens: unfinished characters and what may become a
    stop string are held back."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    """One for each of ``token_ids``; None if the request wants none."""
    finish_reason: FinishReason | None = None
    """Set in the last delta."""
    stop_reason: str | int | None = None
    """The stop string or the stop token that ended it; None for the model's own end tokens."""


class ChoiceOutput(msgspec.Struct, frozen=True):
    """One answer, as far as it is known."""

    index: int
    text: str
    """Without special tokens, and without what ended it unless ``include_stop`` is set."""
    token_ids: tuple[int, ...]
    """With the end or stop token, or the tokens of the stop string, that ended it; what came
    after is not here and not in ``usage``."""
    logprobs: tuple[TokenLogprobs, ...] | None
    """One for each of ``token_ids``; None if the request wants none."""
    finish_reason: FinishReason | None
    """None while it goes on."""
    stop_reason: str | int | None
    """The stop string or the stop token that ended it; None for the model's own end tokens."""
    usage: Usage
    timings: Timings | None
    """None while it goes on."""


class ChoiceText:
    """The state of one choice on the client's side.

    Args:
        index: which of the request's choices.
        stop_ids: tokens that end it, the model's own included.
        detokenizer: after the prompt; None gives no text.
        finder: of the stop strings; None looks for none.

    #  [0, ready)      tokens that certainly belong to the output
    #  [ready, known)  tokens after a stop string that is only waiting to see whether another one,
    #                  which began further left, is completed: they will be dropped, or most of them
    """

    __slots__ = (
        "_detokenizer",
        "_finder",
        "_found_after",
        "_logprobs",
        "_num_told",
        "_params",
        "_parts",
        "_stop_ids",
        "_timings",
        "cached_tokens",
        "finish_reason",
        "index",
        "is_settled",
        "stop_reason",
        "token_ids",
    )

    def __init__(
        self,
        index: int,
        params: SamplingParams,
        stop_ids: frozenset[int],
        detokenizer: Detokenizer | None,
        finder: StopFinder | None,
    ) -> None:
        self.index = index
        self._params = params
        self._stop_ids = stop_ids
        self._detokenizer = detokenizer
        self._finder = finder
        self._found_after: int | None = None  # tokens up to the one that completed the candidate
        self._num_told = 0  # tokens given out in deltas
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self._timings: Timings | None = None
        self.token_ids: list[int] = []
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.is_settled = False
        """Whether the engine has nothing more to say of it."""

    @property
    def is_over(self) -> bool:
        """Whether it ended, be it by the engine's word or before that."""
        return self.finish_reason is not None

    @property
    def met_stop_string(self) -> bool:
        """Whether it ended in a way that the engine cannot see."""
        return isinstance(self.stop_reason, str)

    def take(self, token_id: int, logprobs: TokenLogprobs | None) -> ChoiceDelta | None:
        """The next token; None where nothing can be told yet."""
        assert not self.is_over
        self.token_ids.append(token_id)
        if self._logprobs is not None:
            assert logprobs is not None, "the request wants logprobs"
            self._logprobs.append(logprobs)
        num_tokens = len(self.token_ids)
        is_stop = token_id in self._stop_ids and num_tokens > self._params.min_tokens
        text = ""
        if self._detokenizer is not None and not (is_stop and not self._params.include_stop):
            text = self._detokenizer.feed(token_id)
        if self._finder is not None:
            text = self._search(text)
            if self._finder.match is not None:
                return self._end_at_stop_string(text)
        if is_stop:
            return self._end(text, FinishReason.STOP, self._as_stop_reason(token_id))
        if num_tokens >= self._params.max_tokens:
            return self._end(text, FinishReason.LENGTH, None)
        return self._delta(text)

    def take_all(self, tokens: Sequence[Token]) -> None:
        """``take`` one token after the other, up to the end of the choice, and tell nothing.

        All but the last are read at once, unless stop strings are looked for: in an answer of one
        engine only the last one can end it.
        """
        token_ids = [token.token_id for token in tokens[:-1]]
        num_tokens = len(self.token_ids) + len(token_ids)
        ends = num_tokens >= self._params.max_tokens or not self._stop_ids.isdisjoint(token_ids)
        if self._finder is None and not ends:
            self.token_ids += token_ids
            if self._logprobs is not None:
                for token in tokens[:-1]:
                    assert token.logprobs is not None, "the request wants logprobs"
                    self._logprobs.append(token.logprobs)
            if self._detokenizer is not None:
                self._parts.extend(map(self._detokenizer.feed, token_ids))
            tokens = tokens[-1:]
        for token in tokens:
            if not self.is_over:
                self.take(token.token_id, token.logprobs)

    def settle(self, event: Finished) -> ChoiceDelta | None:
        """The engine's last word. Ends the choice if it has not ended here already."""
        self.is_settled = True
        self.cached_tokens = event.usage.cached_tokens
        self._timings = event.timings
        if self.is_over:
            return None
        return self._end("", event.reason, self._as_stop_reason(event.stop_token_id))

    def so_far(self) -> ChoiceSoFar:
        """Its part of a resume record."""
        return ChoiceSoFar(
            choice=self.index,
            output_ids=tuple(self.token_ids),
            finished=self.is_over,
        )

    def output(self, num_prompt_tokens: int) -> ChoiceOutput:
        """Everything told so far."""
        num_ready = self._num_ready()
        return ChoiceOutput(
            index=self.index,
            text="".join(self._parts),
            token_ids=tuple(self.token_ids[:num_ready]),
            logprobs=None if self._logprobs is None else tuple(self._logprobs[:num_ready]),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            usage=Usage(
                prompt_tokens=num_prompt_tokens,
                cached_tokens=self.cached_tokens,
                completion_tokens=num_ready,
            ),
            timings=self._timings,
        )

    def _search(self, text: str) -> str:
        """Pass text through the finder, and note after which token a stop string was found."""
        assert self._finder is not None
        before = self._finder.candidate
        num_tokens = len(self.token_ids)
        text = self._finder.feed(text, counts=num_tokens >= self._params.min_tokens)
        if self._finder.candidate is not before:
            self._found_after = num_tokens
        return text

    def _end(
        self, text: str, reason: FinishReason, stop_reason: str | int | None
    ) -> ChoiceDelta | None:
        """Give out what was held back; a stop string may still turn up in it."""
        tail = "" if self._detokenizer is None else self._detokenizer.flush()
        if self._finder is None:
            text += tail
        else:
            text += self._search(tail)
            text += self._finder.finish()
            if self._finder.match is not None:
                return self._end_at_stop_string(text)
        self.finish_reason = reason
        self.stop_reason = stop_reason
        return self._delta(text)

    def _end_at_stop_string(self, text: str) -> ChoiceDelta | None:
        """Drop the tokens after the one that completed the stop string (and so their logprobs,
        of which only as many are ever read as there are tokens)."""
        assert self._finder is not None
        match = self._finder.match
        assert match is not None
        del self.token_ids[self._found_after :]
        self._found_after = None
        self.finish_reason = FinishReason.STOP
        self.stop_reason = match.stop
        return self._delta(text + match.stop if self._params.include_stop else text)

    def _delta(self, text: str) -> ChoiceDelta | None:
        num_ready = self._num_ready()
        first = self._num_told
        if not text and first == num_ready and not self.is_over:
            return None
        self._num_told = num_ready
        if text:
            self._parts.append(text)
        return ChoiceDelta(
            self.index,
            text,
            tuple(self.token_ids[first:num_ready]),
            None if self._logprobs is None else tuple(self._logprobs[first:num_ready]),
            self.finish_reason,
            self.stop_reason,
        )

    def _num_ready(self) -> int:
        return len(self.token_ids) if self._found_after is None else self._found_after

    def _as_stop_reason(self, token_id: int | None) -> int | None:
        """Only the caller's own stop tokens are worth naming."""
        return token_id if token_id in self._params.stop_token_ids else None
