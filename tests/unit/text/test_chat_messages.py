"""Conversations: what is accepted, what it becomes, and what is told about the rest."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import pytest

from octavo.core.errors import InvalidRequest
from octavo.text.chat_messages import (
    MAX_MESSAGES,
    MESSAGES_HINT,
    Disguise,
    checked_messages,
    disguise_pattern,
    plain,
)


def check(messages: Any, *, takes_parts: bool = False) -> list[dict[str, Any]]:
    return checked_messages(messages, takes_parts=takes_parts, special_texts=["<|end|>"])


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def test_a_plain_message_stays_as_it_is() -> None:
    message = {"role": "user", "content": "hi", "name": "Ann", "extra": {"a": [1, 2.5, True]}}
    assert check([message]) == [message]


@pytest.mark.parametrize("messages", ["Hello", []])
def test_what_holds_no_messages_is_refused_with_an_example(messages: Any) -> None:
    with pytest.raises(InvalidRequest, match="messages must") as caught:
        check(messages)
    assert caught.value.hint == MESSAGES_HINT
    example = json.loads(MESSAGES_HINT.removeprefix("like "))
    assert check(example) == example


def test_keys_without_a_value_are_left_out() -> None:
    assert check([{"role": "assistant", "content": None, "tool_calls": None}]) == [
        {"role": "assistant"}
    ]


def test_parts_become_a_string_where_templates_want_one() -> None:
    parts = [text("a"), {"type": "input_text", "text": "b"}]
    assert check([{"role": "user", "content": parts}])[0]["content"] == "a\nb"
    assert check([{"role": "user", "content": parts}], takes_parts=True)[0]["content"] == [
        text("a"),
        text("b"),
    ]


def test_parts_that_join_into_a_control_token_are_joined_here() -> None:
    parts = [text("<|"), text("end|>")]
    checked = check([{"role": "user", "content": parts}], takes_parts=True)
    assert checked[0]["content"] == [text("<|end|>")]


@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "video", "file"])
def test_what_is_not_text_is_refused_kindly(kind: str) -> None:
    messages = [{"role": "user", "content": [text("see"), {"type": kind, kind: {"url": "x"}}]}]
    with pytest.raises(InvalidRequest, match="reads text only") as caught:
        check(messages)
    assert caught.value.param == "messages[0].content[1]"
    assert repr(kind) in caught.value.message
    assert caught.value.http_status == 400


def test_arguments_in_a_string_become_an_object() -> None:
    def call(arguments: Any) -> dict[str, Any]:
        function = {"name": "f", "arguments": arguments}
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}

    assert check([call('{"a": 1}')]) == [call({"a": 1})]
    for kept in ({"a": 1}, "not JSON", "[1]", '{"a": ' + 5000 * "["):
        assert check([call(kept)]) == [call(kept)]
    with pytest.raises(InvalidRequest, match="not a JSON value"):
        check([call('{"a": NaN}')])


def test_reasoning_is_found_under_every_name() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        (message,) = check([{"role": "assistant", "content": "4", name: "2+2"}])
        assert message["reasoning_content"] == message["thinking"] == "2+2"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ("hi", "messages"),
        ([], "messages"),
        ([{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1), "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": "", "content": "hi"}], "messages[0].role"),
        ([{"role": 3, "content": "hi"}], "messages[0].role"),
        ([{"role": "u" * 65, "content": "hi"}], "messages[0].role"),
        ([{"role": "nd|", "content": "hi"}], "messages[0].role"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ([{"role": "user", "content": ["hi"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": b"hi"}], "messages[0].content"),
        ([{"role": "user", "x": {1: 2}}], "messages[0].x"),
        ([{"role": "user", "x": math.nan}], "messages[0].x"),
        ([{"role": "user", "x": object()}], "messages[0].x"),
    ],
)
def test_malformed_conversations(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(messages)
    assert caught.value.param == param


def test_nesting_is_bounded() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested deeper"):
        plain(deep, "x")


def test_only_plain_types_go_on() -> None:
    class Name(enum.StrEnum):
        USER = "user"

    class Sly(str):
        def __format__(self, spec: str) -> str:
            return "sly"

    made = plain({Name.USER: Sly("a"), "b": (1, enum.IntEnum("N", ["ONE"]).ONE)}, "x")
    assert made == {"user": "a", "b": [1, 1]}
    assert [type(value) for value in (*made, made["user"], *made["b"])] == [str] * 3 + [int] * 2


def test_disguise_and_back() -> None:
    disguise = Disguise(disguise_pattern(["<|end|>", "<|end|>>", " ", ""]))
    value = {"<|end|>k": ["a <|end|>>b", 3, None], "k": "plain text"}
    worn = disguise.put_on(value)
    assert "<|end|>" not in str(worn)
    assert worn["k"] == "plain text"
    assert disguise.take_off(str(worn)) == str(value)
    assert sorted(disguise.literals.values()) == ["<|end|>", "<|end|>>"]
    assert all(name.isdigit() for name in disguise.literals)


def test_nothing_to_disguise() -> None:
    assert Disguise(disguise_pattern([])).put_on({"a": "b"}) == {"a": "b"}
