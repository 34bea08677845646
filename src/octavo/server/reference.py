"""Writes ``docs/reference/openai.md``: ``python -m octavo.server.reference > FILE``.

Everything in it comes from the schema, the settings and the error classes.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from pydantic.fields import FieldInfo

from octavo.core import errors as core_errors
from octavo.core import request
from octavo.core.errors import OctavoError
from octavo.server import errors as server_errors
from octavo.server.auth import ApiKeys
from octavo.server.models import ContextLengthExceeded
from octavo.server.schema import (
    CHAT_REFUSALS,
    COMPLETION_REFUSALS,
    EXTENSION,
    MESSAGE_REFUSALS,
    Body,
    ChatBody,
    ChatMessage,
    CompletionBody,
    Refusal,
    StreamOptions,
)
from octavo.server.settings import ServerSettings
from octavo.text.chat_messages import MAX_MESSAGES

HEAD = """\
# The OpenAI API, field by field

Written by `python -m octavo.server.reference` from the server's schema; a test compares the two.

A field is **honoured** (it does what the OpenAI API says), an **extension** (that API does not have
it), or **refused**: known, but not served. A refused field that asks for something is a 400 that
names it, as is an unknown field; nothing is ignored in silence. `null` asks for nothing anywhere.
Ranges are those of [sampling](../concepts/sampling.md).

What a request leaves open is taken from the model's `generation_config.json`, unless the server
runs with `--sampling-defaults openai`.
"""

ANSWERS = """\
## Answers

As the OpenAI API has them. Worth knowing:

- `usage.prompt_tokens_details.cached_tokens` counts prompt tokens that were found in the prefix
  cache. `completion_tokens` counts the token that ended a choice, and nothing after it.
- `logprobs` has an entry for each token of `completion_tokens`, the one that ended the choice
  included. They are of the raw distribution, before temperature and penalties. Minus infinity is
  written as -9999.0.
- Tokens that are a part of a character are shown as `bytes:\\xe2` in the logprobs of completions,
  and as U+FFFD with the exact `bytes` in those of chats.
- A stream is `data: {...}` events and `data: [DONE]`. A request that fails on the way ends with an
  event that holds an error body, without `[DONE]`.
- When the client closes the connection, the request is aborted, in whatever state it is.
- `x-request-id` names a request in the server's log.
"""


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "## POST /v1/chat/completions\n",
        _fields_table(ChatBody, CHAT_REFUSALS),
        "Each message:\n",
        _fields_table(ChatMessage, MESSAGE_REFUSALS),
        "`stream_options`:\n",
        _fields_table(StreamOptions, {}),
        "## POST /v1/completions\n",
        _fields_table(CompletionBody, COMPLETION_REFUSALS),
        "## Other routes\n",
        _table(
            ("route", "answer"),
            [
                ("`GET /v1/models`", "the served models, with `max_model_len`"),
                ("`GET /v1/models/NAME`", "one of them"),
                ("`GET /livez`", "200 while the event loop turns; needs no key"),
                (
                    "`GET /readyz`",
                    "200 while new requests are served: engines live, make steps while there is"
                    " work, and the server is not about to stop; needs no key",
                ),
                ("`GET /metrics`", "numbers for Prometheus"),
            ],
        ),
        ANSWERS,
        "## Errors\n",
        'The body is `{"error": {"message", "type", "param", "code"}}`, with a `hint` where there'
        " is one.\nAnswers with 429 and 503 carry `Retry-After`.\n",
        _errors_table(),
        "## Bounds\n",
        _bounds_table(),
    ]
    return "\n".join(parts)


def _fields_table(kind: type[Body], refusals: Mapping[str, Refusal]) -> str:
    rows = [
        (
            f"`{name}`" + (" (required)" if field.is_required() else ""),
            _type_text(field),
            "extension" if _is_extension(field) else "honoured",
            field.description or "",
        )
        for name, field in sorted(kind.model_fields.items(), key=lambda one: _rank(one[1]))
    ]
    rows += [(f"`{name}`", "", "refused", _refusal_text(one)) for name, one in refusals.items()]
    return _table(("field", "type", "", ""), rows)


def _rank(field: FieldInfo) -> int:
    """What is required stands first, what the OpenAI API does not have last."""
    return 0 if field.is_required() else 2 if _is_extension(field) else 1


def _is_extension(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("origin") == EXTENSION


def _refusal_text(refusal: Refusal) -> str:
    text = refusal.reason[0].upper() + refusal.reason[1:] + "."
    if refusal.neutral:
        text += " Taken: " + ", ".join(f"`{_as_json(one)}`" for one in refusal.neutral) + "."
    return text


def _as_json(value: Any) -> str:
    return json.dumps(value)


_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _type_text(field: FieldInfo) -> str:
    return _kind_text(field.annotation)


def _kind_text(kind: Any) -> str:
    if kind is Any:
        return "see right"
    if kind in _NAMES:
        return _NAMES[kind]
    origin = typing.get_origin(kind)
    arguments = [one for one in typing.get_args(kind) if one is not types.NoneType]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_kind_text, arguments))
    if origin is typing.Annotated:
        return _kind_text(arguments[0])
    if origin is list:
        return f"list of {_plural(_kind_text(arguments[0]))}"
    return "object"


def _plural(text: str) -> str:
    """Of a type's name: integers, lists of integers."""
    return text.replace("list", "lists", 1) if text.startswith("list") else f"{text}s"


def _errors_table() -> str:
    kinds: list[type[OctavoError]] = [ContextLengthExceeded]
    for module in (core_errors, server_errors):
        kinds += [
            one
            for one in vars(module).values()
            if isinstance(one, type)
            and issubclass(one, OctavoError)
            and one not in (OctavoError, server_errors.ServerError)
        ]
    answered = {one for one in kinds if one.code not in _NOT_ANSWERED}
    rows = [
        (
            str(one.http_status),
            f"`{one.code}`",
            server_errors.error_kind(one.http_status),
            _doc(one),
        )
        for one in sorted(answered, key=lambda one: (one.http_status, one.code))
    ]
    return _table(("status", "code", "type", ""), rows)


_NOT_ANSWERED = frozenset({"invalid_config", "invalid_model", "misuse", "unsupported_model"})
"""Codes of errors that are raised before a server listens, or by programs only."""


def _doc(kind: type) -> str:
    return (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`").strip()


def _bounds_table() -> str:
    defaults = ServerSettings(keys=ApiKeys())
    shown = [one.name for one in fields(defaults) if one.name.startswith(("max_", "body", "head"))]
    rows = [(f"`{name}`", f"{getattr(defaults, name):,}") for name in shown]
    rows += [
        ("messages", f"{MAX_MESSAGES:,}"),
        ("`n`", str(request.MAX_N)),
        ("`logprobs`, `top_logprobs`", str(request.MAX_LOGPROBS)),
        ("`stop`", f"{request.MAX_STOP} of {request.MAX_STOP_CHARACTERS} characters"),
        ("`logit_bias`", str(request.MAX_LOGIT_BIAS)),
        ("`stop_token_ids`", str(request.MAX_STOP_TOKEN_IDS)),
        ("`bad_words`", f"{request.MAX_BAD_WORDS} of {request.MAX_BAD_WORD_TOKENS} tokens"),
    ]
    return _table(("bound", ""), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
