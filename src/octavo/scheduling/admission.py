"""What is taken and what is refused, before a request changes anything.

A request is refused for good (``InvalidRequest``) when it is ill-formed or could never be
computed, and for now (``Overloaded``) when too much waits already.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.errors import InvalidRequest, Overloaded
from octavo.core.request import Request

ADAPTERS = ("none",)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a sequence can be computed at all."""

    max_model_len: int
    step_tokens: int
    """Tokens of one step."""
    whole_prompt: bool
    """Whether a prompt must be computed in one step."""
    whole_sequence: bool
    """Whether everything is computed again in each step."""
    stored_tokens: int | None
    """Tokens that all pages hold, for a sequence that is alone; None when that is no limit."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The rules at the door.

    Args:
        vocab_size: token ids are in [0, vocab_size).
        max_waiting_requests, max_waiting_tokens: how much may wait, in requests of which nothing
            has been computed yet, and in the tokens of their prompts.
    """

    vocab_size: int
    max_waiting_requests: int
    max_waiting_tokens: int

    def check_request(self, request: Request) -> None:
        """Raise InvalidRequest unless the request makes sense in itself."""
        params = request.params
        if not request.prompt_ids:
            raise InvalidRequest("the prompt is empty", param="prompt_ids")
        if request.adapter not in ADAPTERS:
            raise InvalidRequest(
                f"unknown adapter {request.adapter!r}",
                param="adapter",
                hint=f"available: {', '.join(ADAPTERS)}",
            )
        if params.seed is None:
            raise InvalidRequest(
                "the request has no seed",
                param="seed",
                hint="the client fixes one, so that the request can be resumed elsewhere",
            )
        self._check_ids(request.prompt_ids, "prompt_ids")
        for name, token_ids in params.token_ids().items():
            self._check_ids(token_ids, name)
        self._check_resume(request)

    def _check_ids(self, token_ids: tuple[int, ...] | list[int], param: str) -> None:
        if not token_ids:
            return
        if set(map(type, token_ids)) != {int}:
            raise InvalidRequest("token ids must be integers", param=param)
        for token in (min(token_ids), max(token_ids)):
            if not 0 <= token < self.vocab_size:
                raise InvalidRequest(
                    f"{param}: token id {token} is outside of the vocabulary"
                    f" [0, {self.vocab_size})",
                    param=param,
                )

    def _check_resume(self, request: Request) -> None:
        params = request.params
        choices = [known.choice for known in request.resume]
        if len(set(choices)) != len(choices) or not all(0 <= i < params.n for i in choices):
            raise InvalidRequest(
                f"resume names choices {choices}; they must be different, in [0, {params.n})",
                param="resume",
            )
        if sum(known.finished for known in request.resume) == params.n:
            raise InvalidRequest("nothing to resume: every choice is finished", param="resume")
        for known in request.resume:
            self._check_ids(known.output_ids, "resume")
            if len(known.output_ids) > params.max_tokens:
                raise InvalidRequest(
                    f"choice {known.choice} resumes with {len(known.output_ids)} tokens,"
                    f" more than max_tokens={params.max_tokens}",
                    param="resume",
                )

    def check_length(self, request: Request, bounds: Bounds) -> int:
        """The most tokens that a choice can have, prompt and output.

        Generation ends at ``max_model_len`` whatever ``max_tokens`` says.

        Raises:
            InvalidRequest: so many can never be computed or stored.
        """
        prompt = len(request.prompt_ids)
        longest = max((len(known.output_ids) for known in request.resume), default=0)
        if prompt + max(longest, 1) > bounds.max_model_len:
            raise InvalidRequest(
                f"the prompt has {prompt} tokens and the context is {bounds.max_model_len},"
                " so that there is no room for an answer",
                param="prompt_ids",
                hint=f"shorten the prompt to less than {bounds.max_model_len} tokens",
            )
        most = min(prompt + request.params.max_tokens, bounds.max_model_len)
        stored = most - 1  # the last token is drawn, but never computed
        if bounds.whole_prompt and prompt > bounds.step_tokens:
            raise InvalidRequest(
                f"the prompt has {prompt} tokens and a step computes at most {bounds.step_tokens}",
                param="prompt_ids",
                hint="raise max_num_batched_tokens, or set chunked_prefill=True",
            )
        if bounds.whole_sequence and stored > bounds.step_tokens:
            raise InvalidRequest(
                f"without a KV cache each step computes the whole sequence, up to {stored} tokens,"
                f" and a step computes at most {bounds.step_tokens}",
                param="max_tokens",
                hint="raise max_num_batched_tokens, lower max_tokens, or set kv_cache=True",
            )
        if bounds.stored_tokens is not None and stored > bounds.stored_tokens:
            raise InvalidRequest(
                f"the prompt has {prompt} tokens and the answer up to {most - prompt};"
                f" {stored} tokens must be stored and the KV cache holds {bounds.stored_tokens}",
                param="max_tokens",
                hint="lower max_tokens, shorten the prompt, or raise num_pages",
            )
        return most

    def check_load(self, request: Request, waiting_requests: int, waiting_tokens: int) -> None:
        """Raise Overloaded if the queue, as it is without the request, has no room for it."""
        tokens = len(request.prompt_ids)
        if (
            waiting_requests + 1 > self.max_waiting_requests
            or waiting_tokens + tokens > self.max_waiting_tokens
        ):
            raise Overloaded(
                f"{waiting_requests} requests with {waiting_tokens} tokens wait already",
                hint=f"at most {self.max_waiting_requests} requests and {self.max_waiting_tokens}"
                " tokens may wait; send it again later",
            )
