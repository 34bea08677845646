"""Conversations as callers give them, checked and brought into the form that templates expect.

Only plain JSON values go on from here. Also here: text that looks like a control token is taken
out of a conversation before a template sees it, and a name put in its place. Rendering belongs to
``chat_template``.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from octavo.core.errors import InvalidRequest

MESSAGES_HINT = 'like [{"role": "user", "content": "Hello"}]'
MAX_MESSAGES = 1000
MAX_DEPTH = 64
MAX_ROLE_CHARACTERS = 64
KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def plain(value: Any, param: str, depth: int = 0) -> Any:
    """A copy of plain JSON types only.

    Raises:
        InvalidRequest: another type, NaN, an infinity, or nesting beyond ``MAX_DEPTH``.
    """
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"{param}: nested deeper than {MAX_DEPTH} levels", param=param)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        return {
            _key(key, param): plain(item, f"{param}.{key}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item, f"{param}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise InvalidRequest(f"{param}: a {type(value).__name__} is not a JSON value", param=param)


def _key(key: object, param: str) -> str:
    if not isinstance(key, str):
        raise InvalidRequest(f"{param}: the key {key!r} is not a string", param=param)
    return str(key)


def checked_messages(
    messages: Any, *, takes_parts: bool, special_texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Messages as templates expect them.

    Keys without a value are left out; arguments of tool calls that are JSON in a string, as the
    OpenAI API has them, become objects; reasoning is found under the name that templates read.

    Args:
        messages: mappings with a role and a content: a string, or a list of text parts.
        takes_parts: whether the template goes through parts; if not, they are joined by newlines.
        special_texts: of the tokeniser; no role may be a piece of one, because templates put
            control tokens together from roles.

    Raises:
        InvalidRequest: anything that is not such a list.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidRequest("messages must be a list", param="messages", hint=MESSAGES_HINT)
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequest(
            f"messages must hold 1 to {MAX_MESSAGES} messages, got {len(messages)}",
            param="messages",
            hint=None if messages else MESSAGES_HINT,
        )
    return [
        _message(message, f"messages[{index}]", takes_parts, special_texts)
        for index, message in enumerate(messages)
    ]


def _message(
    message: Any, param: str, takes_parts: bool, special_texts: Sequence[str]
) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequest(
            f"{param}: a message is an object, got {type(message).__name__}", param=param
        )
    checked = {key: value for key, value in plain(message, param).items() if value is not None}
    _check_role(checked.get("role"), f"{param}.role", special_texts)
    content = checked.get("content")
    if isinstance(content, list):
        checked["content"] = _parts(content, f"{param}.content", takes_parts, special_texts)
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest(
            f"{param}.content must be a string or a list of parts", param=f"{param}.content"
        )
    calls = checked.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        param = f"{param}.tool_calls"
        raise InvalidRequest(f"{param} must be a list of objects", param=param)
    for call in calls:
        _parse_arguments(call)
    reasoning = next((checked[name] for name in _REASONING_FIELDS if name in checked), None)
    if reasoning is not None:
        checked = {"thinking": reasoning, **checked, "reasoning_content": reasoning}
    return checked


def _check_role(role: object, param: str, special_texts: Sequence[str]) -> None:
    if not isinstance(role, str) or not 1 <= len(role) <= MAX_ROLE_CHARACTERS:
        raise InvalidRequest(
            f"{param} must be a string of 1 to {MAX_ROLE_CHARACTERS} characters", param=param
        )
    if role not in KNOWN_ROLES and any(role in text for text in special_texts):
        raise InvalidRequest(
            f"{param}: {role!r} is part of a control token of this model",
            param=param,
            hint="use one of " + ", ".join(sorted(KNOWN_ROLES)),
        )


def _parts(
    parts: list[Any], param: str, takes_parts: bool, special_texts: Sequence[str]
) -> str | list[dict[str, Any]]:
    texts = [_part_text(part, f"{param}[{index}]") for index, part in enumerate(parts)]
    if not takes_parts:
        return "\n".join(texts)
    whole = "".join(texts)
    if any(whole.count(text) != sum(part.count(text) for part in texts) for text in special_texts):
        texts = [whole]  # so that no control token can be put together from several parts
    return [{"type": "text", "text": text} for text in texts]


def _part_text(part: Any, param: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if isinstance(kind, str) and kind not in _TEXT_PARTS:
        raise InvalidRequest(
            f"{param}: parts of type {kind!r} are not supported",
            param=param,
            hint="this engine reads text only: images, audio and files cannot be sent to it",
        )
    raise InvalidRequest(
        f'{param}: a part is an object like {{"type": "text", "text": "..."}}', param=param
    )


def _parse_arguments(call: dict[str, Any]) -> None:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return  # as the model wrote it
    if isinstance(arguments, dict):
        function["arguments"] = plain(arguments, "arguments")


def disguise_pattern(special_texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds special tokens, a longer one before one that it begins with."""
    # White space is ordinary text, even where a tokeniser has a special token for it.
    texts = sorted((text for text in special_texts if text.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


class Disguise:
    """Stands names in for text that looks like control tokens, until tokens are made of it.

    A name is 40 random digits: templates leave digits alone when they trim, split, change case or
    write JSON. Names are new for each conversation, so that none can be typed.

    Args:
        pattern: of the text to disguise; None for none.
    """

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self._pattern = pattern
        self._names: dict[str, str] = {}

    @property
    def literals(self) -> dict[str, str]:
        """The names in use, and the text that each stands for."""
        return {name: text for text, name in self._names.items()}

    def put_on(self, value: Any) -> Any:
        """``value``, plain JSON, with names in all its strings, keys included."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self._name(match[0]), value)
        if isinstance(value, list):
            return [self.put_on(item) for item in value]
        if isinstance(value, dict):
            return {self.put_on(key): self.put_on(item) for key, item in value.items()}
        return value

    def take_off(self, text: str) -> str:
        """``text`` with what the names stand for."""
        for name, literal in self.literals.items():
            text = text.replace(name, literal)
        return text

    def _name(self, text: str) -> str:
        return self._names.setdefault(text, fresh_digits())


def fresh_digits() -> str:
    """40 random digits, the first of them not 0."""
    return str(10**39 + secrets.randbelow(9 * 10**39))
