"""The models of a server by name, and their prompts: from fields of a body to token ids.

What only depends on a prompt is refused here, before an engine hears of it, so that errors name
the field that the caller wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from octavo.core.errors import (
    InvalidRequest,
    ModelError,
    ModelNotFound,
    Overloaded,
    did_you_mean,
)
from octavo.core.kv_layout import answer_room
from octavo.runtime.async_client import AsyncClient
from octavo.runtime.model_text import EncodedPrompt
from octavo.server.logprobs import TokenTexts
from octavo.server.schema import ChatBody

Result = TypeVar("Result")
INLINE_CHARACTERS = 4096
"""Text up to here is tokenised on the event loop, in well under a millisecond."""
MAX_LONG_TEXTS = 8
"""Requests with longer texts that wait for the tokeniser or are in it; more are sent away."""
_TEMPLATE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "documents",
        "messages",
        "template",
        "tools",
    }
)


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer."""

    code = "context_length_exceeded"


class ServedModel:
    """A client under a name.

    Args:
        name: as requests call it.
        client: whoever made it closes it.
        created_s: when it was loaded, in seconds since 1970.
    """

    def __init__(self, name: str, client: AsyncClient, created_s: int) -> None:
        self.name = name
        self.client = client
        self.created_s = created_s
        self.vocab_size = client.spec.vocab_size
        self.token_texts = TokenTexts(client.text.tokenizer)
        self._num_in_threads = 0
        self._num_long = 0
        tokenizer = client.text.tokenizer
        longest = None if tokenizer is None else tokenizer.longest_token_bytes
        self._max_text_bytes = None if longest is None else longest * client.max_model_len

    def room(self, num_prompt_tokens: int) -> int:
        """Tokens that an answer can have at most: what context and pages leave."""
        client = self.client
        return answer_room(
            num_prompt_tokens, max_model_len=client.max_model_len, num_pages=client.num_pages
        )

    async def encode_prompts(
        self, prompt: Any, *, max_prompts: int, n: int = 1, max_choices: int | None = None
    ) -> list[EncodedPrompt]:
        """The prompts of a completion: text, token ids, or a list of either.

        Raises:
            InvalidRequest: none of these, or a prompt that the model cannot take.
        """
        prompts = _split(prompt, max_prompts)
        if max_choices is not None and len(prompts) * n > max_choices:
            raise InvalidRequest(
                f"{len(prompts)} prompts with n = {n} ask for {len(prompts) * n} choices, and a"
                f" request can have {max_choices}",
                param="n",
                hint="send several requests",
            )
        params = ["prompt"]
        if prompts[0] is not prompt:
            params = [f"prompt[{index}]" for index in range(len(prompts))]
        for one, param in zip(prompts, params, strict=True):
            if isinstance(one, list):
                self._check_ids(one, param)
            elif isinstance(one, str):
                self._check_text(one, param)
            else:
                raise _wrong_prompt(param)
        characters = sum(len(one) for one in prompts if isinstance(one, str))
        encoded = await self._in_turn(
            lambda: [self.client.text.encode(one) for one in prompts], characters
        )
        for one_encoded, param in zip(encoded, params, strict=True):
            self._check_length(len(one_encoded.token_ids), param)
        return encoded

    async def encode_chat(self, body: ChatBody) -> EncodedPrompt:
        """The prompt of a conversation.

        Raises:
            InvalidRequest: the messages are malformed, or the model has no chat template.
        """
        options: dict[str, Any] = dict(body.chat_template_kwargs or {})
        if reserved := _TEMPLATE_ARGUMENTS & options.keys():
            raise InvalidRequest(
                f"chat_template_kwargs must not have {min(reserved)!r}",
                param=f"chat_template_kwargs.{min(reserved)}",
            )
        if body.continue_final_message:
            options["continue_final_message"] = True
        if body.add_generation_prompt is not None:
            options["add_generation_prompt"] = body.add_generation_prompt
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        characters = _num_characters([messages, options])
        try:
            encoded = await self._in_turn(
                lambda: self.client.text.encode_chat(messages, options), characters
            )
        except ModelError as error:  # of this model, which is served, with this kind of request
            raise InvalidRequest(error.message, param="messages", hint=error.hint) from error
        self._check_length(len(encoded.token_ids), "messages")
        return encoded

    async def _in_turn(self, work: Callable[[], Result], characters: int) -> Result:
        """Short work at once, long work on a thread.

        While a thread has the tokeniser, short work goes to threads too: the tokeniser's lock
        would stop the event loop.
        """
        if characters <= INLINE_CHARACTERS and not self._num_in_threads:
            return work()
        is_long = characters > INLINE_CHARACTERS
        if is_long and self._num_long >= MAX_LONG_TEXTS:
            raise Overloaded("too many long prompts at a time", hint="send it again later")
        self._num_in_threads += 1
        self._num_long += is_long
        future = asyncio.get_running_loop().run_in_executor(None, work)
        # When the thread is done, that is, not when whoever waits for it has left.
        future.add_done_callback(lambda done: self._leave_thread(done, is_long))
        return await asyncio.shield(future)

    def _leave_thread(self, future: asyncio.Future[Result], is_long: bool) -> None:
        self._num_in_threads -= 1
        self._num_long -= is_long
        if not future.cancelled():
            future.exception()  # nobody may be waiting for it any more

    def _check_ids(self, token_ids: list[Any], param: str) -> None:
        self._check_length(len(token_ids), param)
        for token_id in token_ids:
            if type(token_id) is not int:
                raise _wrong_prompt(param)
            if not 0 <= token_id < self.vocab_size:
                raise InvalidRequest(
                    f"{param}: token id {token_id} is outside of the vocabulary"
                    f" [0, {self.vocab_size})",
                    param=param,
                )

    def _check_text(self, text: str, param: str) -> None:
        """Refuses, before it is tokenised, what has too many tokens however they fall."""
        most = self._max_text_bytes
        if most is not None and len(text.encode("utf-8", "surrogatepass")) > most:
            raise ContextLengthExceeded(
                f"{param} has {len(text)} characters, more than the model's context of"
                f" {self.client.max_model_len} tokens can hold",
                param=param,
                hint=f"shorten it to less than {self.client.max_model_len} tokens",
            )

    def _check_length(self, num_tokens: int, param: str) -> None:
        if num_tokens == 0:
            raise InvalidRequest(f"{param} is empty", param=param)
        if num_tokens >= self.client.max_model_len:
            raise ContextLengthExceeded(
                f"{param} has {num_tokens} tokens and the model's context is"
                f" {self.client.max_model_len}, so that there is no room for an answer",
                param=param,
                hint=f"shorten it to less than {self.client.max_model_len} tokens",
            )


class Models(Mapping[str, ServedModel]):
    """All models of a server. They do not change while it runs."""

    def __init__(self, clients: Mapping[str, AsyncClient], created_s: int) -> None:
        assert clients, "a server serves at least one model"
        self._models = {
            name: ServedModel(name, client, created_s) for name, client in clients.items()
        }

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str) -> ServedModel:
        """Raises ModelNotFound."""
        model = self._models.get(name)
        if model is None:
            names = ", ".join(self._models)
            raise ModelNotFound(
                f"there is no model {name[:200]!r} here",
                hint=did_you_mean(name[:200], self._models) or f"served: {names}",
            )
        return model


def _split(prompt: Any, max_prompts: int) -> Sequence[Any]:
    """A list of prompts; it holds ``prompt`` itself where that is a single one."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], list | str):
        if len(prompt) > max_prompts:
            raise InvalidRequest(
                f"prompt takes at most {max_prompts} prompts, got {len(prompt)}",
                param="prompt",
                hint="send several requests",
            )
        return prompt
    return [prompt]


def _wrong_prompt(param: str) -> InvalidRequest:
    shapes = (
        "a string, a list of token ids, or a list of those"
        if param == "prompt"
        else ("a string or a list of token ids")
    )
    return InvalidRequest(f"{param} must be {shapes}", param=param)


def _num_characters(value: Any) -> int:
    """Of all texts in a JSON value, names included, and some for each entry."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + _num_characters(one) for name, one in value.items()) + 8
    if isinstance(value, list):
        return sum(map(_num_characters, value)) + 8
    return 8
