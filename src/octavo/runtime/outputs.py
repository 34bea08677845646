"""What a request's events add up to: text, token ids, why each choice ended, what it cost.

This is on the client's side, so that it outlives an engine: events that come again from a
replacement are dropped by their indices, and ``resume_record`` says where a replacement is to go
on. No engine is called here; ``take_aborts`` tells the client what to abort.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from octavo.core.errors import InvalidRequest, OctavoError
from octavo.core.events import Event, Finished, PromptScored, Token, Usage
from octavo.core.request import Request
from octavo.core.step import TokenLogprobs
from octavo.runtime.choice import ChoiceDelta, ChoiceOutput, ChoiceText
from octavo.text.stops import StopStrings
from octavo.text.tokenizer import Tokenizer

__all__ = ["ChoiceDelta", "ChoiceOutput", "OutputAssembler", "RequestOutput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """A request and its answers, as far as they are known."""

    request_id: str
    prompt: str | None
    """None where the prompt was given as token ids, or came from a conversation."""
    prompt_token_ids: tuple[int, ...]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None
    """One for each prompt token, None for the first; None if the request wants none."""
    choices: tuple[ChoiceOutput, ...]
    usage: Usage
    """The prompt counted once, the completions of all choices together."""
    finished: bool
    error: OctavoError | None
    """Why the request failed; its choices then hold what came before."""

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text


class OutputAssembler:
    """Takes the events of one request, in the order in which an engine sent them.

    Tokens become text as they come. A choice ends here as soon as its stop string, stop or end
    token, or last allowed token is there: the engine's Finished event only adds the accounts.
    A stop string counts from the token on with which ``min_tokens`` are there.

    Args:
        request: as first submitted, without a resume record.
        tokenizer: None gives token ids only.
        end_ids: the model's own end tokens; ``ignore_eos`` is heeded.
        prompt: the prompt's text, to be handed through to the output.

    Raises:
        InvalidRequest: stop strings are wanted, but there is no tokeniser to see them with.
        UnsupportedModel: the tokeniser cannot decode a stream.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer | None,
        *,
        end_ids: Collection[int] = (),
        prompt: str | None = None,
    ) -> None:
        assert not request.resume, "an assembler outlives engines; it is not rebuilt"
        params = request.params
        if params.stop and tokenizer is None:
            raise InvalidRequest(
                "stop strings need a tokeniser, and this model has none",
                param="stop",
                hint="use stop_token_ids",
            )
        self.request = request
        self.error: OctavoError | None = None
        self._prompt = prompt
        stops = StopStrings(params.stop) if params.stop else None
        stop_ids = frozenset((*params.stop_token_ids, *(() if params.ignore_eos else end_ids)))
        self._choices = [
            ChoiceText(
                index,
                params,
                stop_ids,
                None if tokenizer is None else tokenizer.detokenizer(request.prompt_ids),
                None if stops is None else stops.finder(),
            )
            for index in range(params.n)
        ]
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        if params.prompt_logprobs is not None:
            self._prompt_logprobs = [None]
        self._aborts: list[int] = []

    def apply(self, event: Event) -> ChoiceDelta | None:
        """Take one event; what it makes known of a choice, if anything.

        Events that repeat what is known, and tokens past the end of a choice, are dropped.
        """
        assert event.request_id == self.request.request_id
        if self.error is not None:
            return None
        if isinstance(event, Token):
            return self._take_token(event)
        if isinstance(event, Finished):
            return self._choices[event.choice].settle(event)
        if isinstance(event, PromptScored):
            self._take_prompt_logprobs(event)
        else:
            self.fail(event.error)
        return None

    def apply_tokens(self, tokens: Sequence[Token]) -> None:
        """As ``apply``, one after the other, for whoever does not want to know what each of them
        makes known: many at once are read for much less."""
        if self.error is not None:
            return
        for choice in self._choices:
            if choice.is_over:
                continue
            own: list[Token] = []
            num_known = len(choice.token_ids)
            for token in tokens:
                if token.choice == choice.index and token.index >= num_known:
                    assert token.index == num_known, "tokens of a choice come in order"
                    own.append(token)
                    num_known += 1
            if own:
                choice.take_all(own)
                if choice.met_stop_string:
                    self._aborts.append(choice.index)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come: all choices ended and accounted for, or a failure."""
        return self.error is not None or all(choice.is_settled for choice in self._choices)

    @property
    def num_output_tokens(self) -> int:
        """Of all choices so far."""
        return sum(len(choice.token_ids) for choice in self._choices)

    def take_aborts(self) -> list[int]:
        """Choices that ended here while the engine goes on with them, each told once."""
        aborts, self._aborts = self._aborts, []
        return aborts

    def resume_record(self) -> Request:
        """The engine is gone: the request for another one, which then sends what is missing.

        What the lost engine did not account for of choices that had ended here stays unknown;
        check ``finished`` before submitting the record.
        """
        self._aborts.clear()
        for choice in self._choices:
            choice.is_settled |= choice.is_over
        resume = tuple(choice.so_far() for choice in self._choices)
        return msgspec.structs.replace(self.request, resume=resume)

    def output(self) -> RequestOutput:
        """Everything known by now."""
        num_prompt_tokens = len(self.request.prompt_ids)
        choices = tuple(choice.output(num_prompt_tokens) for choice in self._choices)
        scores = self._prompt_logprobs
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self._prompt,
            prompt_token_ids=self.request.prompt_ids,
            prompt_logprobs=None if scores is None else tuple(scores),
            choices=choices,
            usage=Usage(
                prompt_tokens=num_prompt_tokens,
                # Choices that forked found all of the prompt; what counts is the first one.
                cached_tokens=min(choice.usage.cached_tokens for choice in choices),
                completion_tokens=sum(choice.usage.completion_tokens for choice in choices),
            ),
            finished=self.finished,
            error=self.error,
        )

    def _take_token(self, event: Token) -> ChoiceDelta | None:
        choice = self._choices[event.choice]
        if choice.is_over or event.index < len(choice.token_ids):
            return None
        assert event.index == len(choice.token_ids), "tokens of a choice come in order"
        delta = choice.take(event.token_id, event.logprobs)
        if choice.met_stop_string:
            self._aborts.append(choice.index)
        return delta

    def _take_prompt_logprobs(self, event: PromptScored) -> None:
        scores = self._prompt_logprobs
        assert scores is not None, "the request wants no prompt logprobs"
        assert event.index <= len(scores), "prompt logprobs come in order"
        scores.extend(event.logprobs[len(scores) - event.index :])

    def fail(self, error: OctavoError) -> None:
        """The request failed, and no event says so. What had finished stays as it is."""
        if not self.finished:
            self.error = error
            self._aborts.clear()
