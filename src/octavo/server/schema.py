"""The bodies of the OpenAI API: which fields there are, of which type, and what is refused.

Only types are checked here; ranges are those of ``SamplingParams`` and are checked there, once.
``docs/reference/openai.md`` is generated from this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from octavo.core.errors import InvalidRequest, did_you_mean
from octavo.core.request import (
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIAS,
    MAX_STOP,
    MAX_STOP_TOKEN_IDS,
)

EXTENSION = "extension"
"""Marks fields that the OpenAI API does not have."""


def extension(description: str) -> Any:
    return Field(default=None, description=description, json_schema_extra={"origin": EXTENSION})


def honoured(description: str, default: Any = None) -> Any:
    return Field(default=default, description=description)


# pydantic would make an error of each wrong entry, and there is room for a million in a body.
_FAIL_FAST = Field(fail_fast=True)
TokenIds = Annotated[list[int], _FAIL_FAST]


class Body(BaseModel):
    """Types are taken literally: no number in a string is a number."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class StreamOptions(Body):
    include_usage: bool = honoured(
        "A last chunk without choices carries the usage; the others carry `null`.", default=False
    )
    include_obfuscation: bool = honoured(
        "Only `false`: chunks are not padded with random characters.", default=False
    )


class SamplingBody(Body):
    """What the two kinds of completion have in common."""

    model: str = Field(description="The name of a served model, as `/v1/models` lists it.")
    max_tokens: int | None = honoured(
        "At most so many new tokens. Completions: 16 by default; chat: as many as fit."
    )
    temperature: float | None = honoured("0 is greedy.")
    top_p: float | None = honoured("Nucleus sampling.")
    n: int | None = honoured("Number of choices, 1 to 8; they share the prompt's pages.")
    stop: str | list[str] | None = honoured("Strings that end a choice, 16 of 256 characters.")
    seed: int | None = honoured("Fixes the draws exactly. Negative ones count from the top.")
    presence_penalty: float | None = honoured("In [-2, 2].")
    frequency_penalty: float | None = honoured("In [-2, 2].")
    logit_bias: dict[str, float] | None = honoured("Token ids (as strings) to a bias; 300 at most.")
    stream: bool | None = honoured("Server-sent events, ended by `data: [DONE]`.")
    stream_options: StreamOptions | None = honoured("Only with `stream`.")
    user: str | None = honoured("Accepted; has no effect.")

    top_k: int | None = extension("Keep the k most likely tokens; 0 keeps all.")
    min_p: float | None = extension("Drop tokens less likely than min_p times the most likely.")
    typical_p: float | None = extension("Locally typical sampling.")
    repetition_penalty: float | None = extension("Over prompt and output; 1 is none.")
    min_tokens: int | None = extension("No end and no stop before so many new tokens.")
    ignore_eos: bool | None = extension("Go on past the model's end tokens.")
    stop_token_ids: TokenIds | None = extension("Tokens that end a choice; 64 at most.")
    include_stop: bool | None = extension("Keep the stop string at the end of the text.")
    bad_words: Annotated[list[TokenIds], _FAIL_FAST] | None = extension(
        "Sequences of token ids that must not appear."
    )
    allowed_token_ids: TokenIds | None = extension("Only these tokens may be chosen.")
    return_token_ids: bool | None = extension("`token_ids` in each choice and chunk.")


class CompletionBody(SamplingBody):
    """``POST /v1/completions``."""

    # Its shapes are told apart by hand (``prompts``), for errors that can be understood.
    prompt: Annotated[Any, Field(description="Text, token ids, or a list of either.")]
    logprobs: int | None = honoured("Logprobs of each token and of the k most likely; 0 to 20.")
    echo: bool | None = honoured("The prompt (and its logprobs) in front of the answer.")


class ChatMessage(Body):
    role: str = Field(description="`system`, `developer`, `user`, `assistant`, or the template's.")
    # Checked by ``text.chat_messages``, which knows parts.
    content: Annotated[Any, Field(default=None, description="Text, or a list of text parts.")]
    name: str | None = honoured("Handed to the chat template.")
    reasoning_content: str | None = extension("Handed to the chat template.")


class ChatBody(SamplingBody):
    """``POST /v1/chat/completions``."""

    messages: Annotated[
        list[ChatMessage], _FAIL_FAST, Field(description="1 to 1,000 messages of text.")
    ]
    prompt_cache_key: str | None = honoured("Accepted; equal prefixes are shared without a key.")
    safety_identifier: str | None = honoured("Accepted; has no effect.")
    max_completion_tokens: int | None = honoured("The newer name of `max_tokens`.")
    logprobs: bool | None = honoured("Whether tokens come with their logprobs.")
    top_logprobs: int | None = honoured("The k most likely tokens too, 0 to 20.")
    chat_template_kwargs: dict[str, Any] | None = extension("Variables of the chat template.")
    add_generation_prompt: bool | None = extension("End the prompt with an assistant's beginning.")
    continue_final_message: bool | None = extension("Go on within the last message.")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A field of the OpenAI API that is known and not served."""

    reason: str
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing, and are therefore taken. ``null`` always is."""


_COMMON_REFUSALS = {
    "best_of": Refusal("use `n`", (1,)),
    "service_tier": Refusal("there is one tier", ("auto", "default")),
    "store": Refusal("nothing is stored", (False,)),
}
COMPLETION_REFUSALS: Mapping[str, Refusal] = {
    **_COMMON_REFUSALS,
    "suffix": Refusal("text is continued at its end only", ("",)),
}
CHAT_REFUSALS: Mapping[str, Refusal] = {
    **_COMMON_REFUSALS,
    "audio": Refusal("answers are text"),
    "function_call": Refusal("functions cannot be called yet", ("none",)),
    "functions": Refusal("functions cannot be called yet", ([],)),
    "metadata": Refusal("nothing is stored", ({},)),
    "modalities": Refusal("answers are text", (["text"],)),
    "moderation": Refusal("nothing is moderated"),
    "parallel_tool_calls": Refusal("tools cannot be called yet", (True, False)),
    "prediction": Refusal("outputs cannot be predicted by clients"),
    "prompt_cache_retention": Refusal("pages are kept while there is room", ("in_memory",)),
    "reasoning_effort": Refusal("use `chat_template_kwargs`, where the template has a switch"),
    "response_format": Refusal("output cannot be constrained yet", ({"type": "text"},)),
    "tool_choice": Refusal("tools cannot be called yet", ("none", "auto")),
    "tools": Refusal("tools cannot be called yet", ([],)),
    "verbosity": Refusal("say it in a message"),
    "web_search_options": Refusal("there is no search"),
}
MESSAGE_REFUSALS: Mapping[str, Refusal] = {
    "audio": Refusal("this engine reads text only"),
    "function_call": Refusal("functions cannot be called yet"),
    "refusal": Refusal("send the text as `content`"),
    "tool_call_id": Refusal("tools cannot be called yet"),
    "tool_calls": Refusal("tools cannot be called yet", ([],)),
}

BodyType = TypeVar("BodyType", bound=Body)


def parse_completion(fields: dict[str, Any]) -> CompletionBody:
    """Raises InvalidRequest, naming the field."""
    return _parse(CompletionBody, without_refused(fields, COMPLETION_REFUSALS))


def parse_chat(fields: dict[str, Any], *, max_messages: int) -> ChatBody:
    """Raises InvalidRequest, naming the field."""
    fields = without_refused(fields, CHAT_REFUSALS)
    messages = fields.get("messages")
    if isinstance(messages, list):
        if len(messages) > max_messages:  # before work is done for each
            raise InvalidRequest(
                f"messages takes at most {max_messages} messages, got {len(messages)}",
                param="messages",
            )
        fields["messages"] = [
            without_refused(message, MESSAGE_REFUSALS, f"messages[{index}].")
            if isinstance(message, dict)
            else message
            for index, message in enumerate(messages)
        ]
    return _parse(ChatBody, fields)


def without_refused(
    fields: Mapping[str, Any], refusals: Mapping[str, Refusal], place: str = ""
) -> dict[str, Any]:
    """The fields that are served. Raises InvalidRequest for one that is not and asks for more
    than nothing."""
    kept = dict(fields)
    for name in refusals.keys() & fields.keys():
        value = kept.pop(name)
        refusal = refusals[name]
        if value is not None and not any(_same(value, neutral) for neutral in refusal.neutral):
            raise InvalidRequest(
                f"{place}{name} is not supported: {refusal.reason}",
                param=f"{place}{name}",
                hint="leave it out; docs/reference/openai.md lists what is served",
            )
    return kept


def _same(value: Any, neutral: Any) -> bool:
    return type(value) is type(neutral) and value == neutral


_MAX_ENTRIES = {
    "bad_words": MAX_BAD_WORDS,
    "logit_bias": MAX_LOGIT_BIAS,
    "stop": MAX_STOP,
    "stop_token_ids": MAX_STOP_TOKEN_IDS,
}
_MAX_NAME_CHARACTERS = 80
"""Of a field's name as errors repeat it."""


def _parse(kind: type[BodyType], fields: dict[str, Any]) -> BodyType:
    _check_sizes(kind, fields)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _explain(kind, error.errors(include_url=False, include_context=False)[0]) from None


def _check_sizes(kind: type[Body], fields: dict[str, Any]) -> None:
    """Before pydantic works on every entry, or makes an error of every one.

    Raises:
        InvalidRequest: fields or entries are more than there can be.
    """
    _check_num_fields(kind, fields, [])
    _check_num_fields(StreamOptions, fields.get("stream_options"), ["stream_options"])
    messages = fields.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            _check_num_fields(ChatMessage, message, ["messages", index])
    for name, most in _MAX_ENTRIES.items():
        _check_num_entries(name, fields.get(name), most)
    words = fields.get("bad_words")
    for word in words if isinstance(words, list) else ():
        _check_num_entries("bad_words", word, MAX_BAD_WORD_TOKENS)


def _check_num_fields(kind: type[Body], fields: Any, location: list[int | str]) -> None:
    if isinstance(fields, dict) and len(fields) > len(kind.model_fields):
        name = next(name for name in fields if name not in kind.model_fields)
        raise _unknown_field(kind, [*location, name])


def _check_num_entries(name: str, entries: Any, most: int) -> None:
    if isinstance(entries, list | dict) and len(entries) > most:
        raise InvalidRequest(f"{name} takes at most {most} entries, got {len(entries)}", param=name)


_WANTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a string",
}
_UNIONS = {"stop": "a string or a list of strings"}


def _explain(kind: type[Body], detail: ErrorDetails) -> InvalidRequest:
    """One of our sentences for what pydantic found first; its own vary between versions."""
    location = [part for part in detail["loc"] if part not in ("str", "list[str]")]
    param = _path(location)
    if detail["type"] == "missing":
        return InvalidRequest(f"{param} is required", param=param)
    if detail["type"] == "extra_forbidden":
        return _unknown_field(_owner(kind, location), location)
    wanted = _UNIONS.get(str(location[0])) if location else None
    wanted = wanted or _WANTED.get(detail["type"])
    if wanted is None:
        return InvalidRequest(f"{param}: {detail['msg']}", param=param)
    return InvalidRequest(f"{param} must be {wanted}", param=param)


def _unknown_field(owner: type[Body], location: list[int | str]) -> InvalidRequest:
    param = _path(location)
    name = str(location[-1])[:_MAX_NAME_CHARACTERS]
    hint = did_you_mean(name, owner.model_fields)
    return InvalidRequest(f"unknown field {param!r}", param=param, hint=hint)


def _path(location: list[int | str]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = part[:_MAX_NAME_CHARACTERS]
            path += f".{name}" if path else name
    return path


def _owner(kind: type[Body], location: list[int | str]) -> type[Body]:
    """The body that an unknown field was found in."""
    if len(location) == 1:
        return kind
    return ChatMessage if location[0] == "messages" else StreamOptions
