"""Chats: through the template, whole and streamed, with logprobs in the form of chats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from tests.server.serving import CHAT, HELLO, Serving, joined

pytestmark = pytest.mark.anyio

BODIES: list[dict[str, Any]] = [
    {"messages": HELLO, "max_tokens": 12, "seed": 1},
    {"messages": HELLO, "max_completion_tokens": 9, "n": 3, "seed": 2, "logprobs": True},
    {"messages": HELLO, "max_tokens": 9, "seed": 3, "logprobs": True, "top_logprobs": 4},
    {"messages": HELLO, "max_tokens": 50, "seed": 4, "stop": ["a", "e"], "logprobs": True},
    {"messages": [{"role": "system", "content": "Be brief."}, *HELLO], "max_tokens": 3},
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_a_stream_adds_up_to_the_whole_answer(served: Serving, body: dict[str, Any]) -> None:
    body = {"seed": 0, **body, "return_token_ids": True}
    whole = await served.ask(CHAT, **body)
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = await served.stream(CHAT, **body, **options)
    assert last["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert last["usage"][name] == whole["usage"][name]
    assert whole["object"] == "chat.completion"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in one["delta"] for one in mine[1:])
        assert "".join(one["delta"]["content"] for one in mine) == choice["message"]["content"]
        token_ids = joined(one["token_ids"] for one in mine[1:])
        assert token_ids == choice["token_ids"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert all(one["finish_reason"] is None for one in mine[:-1])
        if "logprobs" in body:
            content = joined(one["logprobs"]["content"] for one in mine[1:])
            assert content == choice["logprobs"]["content"]
            assert len(content) == len(token_ids)
        else:
            assert choice["logprobs"] is None


async def test_the_answer_is_that_of_llm(served: Serving, folder: Path) -> None:
    params = SamplingParams(max_tokens=10, seed=3, logprobs=2)
    with LLM(folder) as llm:
        expected = llm.chat(HELLO, params)[0]
        tokenizer = llm.text.tokenizer
    assert tokenizer is not None
    fields = {"max_tokens": 10, "seed": 3, "logprobs": True, "top_logprobs": 2}
    answer = await served.ask(CHAT, messages=HELLO, **fields)
    choice, known = answer["choices"][0], expected.choices[0]
    assert choice["message"]["content"] == known.text
    assert answer["usage"]["prompt_tokens"] == len(expected.prompt_token_ids)
    assert known.logprobs is not None
    for entry, token_id, scores in zip(
        choice["logprobs"]["content"], known.token_ids, known.logprobs, strict=True
    ):
        data = tokenizer.token_bytes(token_id)
        assert bytes(entry["bytes"]) == data
        assert entry["token"] == data.decode(errors="replace")
        assert entry["logprob"] == scores.logprob
        top = [(bytes(one["bytes"]), one["logprob"]) for one in entry["top_logprobs"]]
        ids = [tokenizer.token_bytes(token_id) for token_id in scores.top_ids]
        assert top == list(zip(ids, scores.top_logprobs, strict=True))


async def test_as_many_tokens_as_fit_by_default(served: Serving) -> None:
    answer = await served.ask(CHAT, messages=HELLO, ignore_eos=True)
    room = served.client.max_model_len - answer["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == room


async def test_parts_of_text_are_joined(served: Serving) -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    fields = {"max_tokens": 5, "seed": 1}
    answers = [
        await served.ask(CHAT, messages=[{"role": "user", "content": content}], **fields)
        for content in (parts, "Hello\nthere")
    ]
    assert answers[0]["choices"] == answers[1]["choices"]


async def test_a_final_message_can_be_continued(served: Serving) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well,"}]
    fields = {"messages": messages, "max_tokens": 5, "seed": 1}
    continued = await served.ask(CHAT, continue_final_message=True, **fields)
    closed = await served.ask(CHAT, add_generation_prompt=False, **fields)
    text = "user: Hello there<|end|>\nassistant: Well,"
    assert continued["usage"]["prompt_tokens"] == len(text) - len("<|end|>") + 1
    assert closed["usage"]["prompt_tokens"] > continued["usage"]["prompt_tokens"]


async def test_neutral_values_of_refused_fields_are_taken(served: Serving) -> None:
    neutral = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "store": False,
        "service_tier": "auto",
        "audio": None,
        "user": "somebody",
        "temperature": None,
        "stop": None,
    }
    answer = await served.ask(CHAT, messages=HELLO, max_tokens=2, **neutral)
    assert answer["choices"][0]["message"]["role"] == "assistant"


async def test_logprobs_are_probabilities(served: Serving) -> None:
    fields = {"max_tokens": 3, "seed": 1, "logprobs": True, "top_logprobs": 20}
    answer = await served.ask(CHAT, messages=HELLO, **fields)
    for entry in answer["choices"][0]["logprobs"]["content"]:
        assert len(entry["top_logprobs"]) == 20
        assert 0 < sum(math.exp(one["logprob"]) for one in entry["top_logprobs"]) <= 1.0001
