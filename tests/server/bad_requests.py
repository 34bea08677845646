"""Requests that must be refused, by name. Their answers are in ``golden/server_errors.json``.

``python -m tests.server.bad_requests`` writes that file anew; read the difference.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.server.serving import CHAT, COMPLETIONS, HELLO, MODEL, Serving, serving
from tests.small_model import write_small_model

GOLDEN = Path(__file__).parents[1] / "golden" / "server_errors.json"
BadRequest = tuple[str, bytes]


def _completion(**fields: Any) -> BadRequest:
    return COMPLETIONS, json.dumps({"model": MODEL, "prompt": "Once", **fields}).encode()


def _chat(**fields: Any) -> BadRequest:
    return CHAT, json.dumps({"model": MODEL, "messages": HELLO, **fields}).encode()


def _message(**fields: Any) -> BadRequest:
    return _chat(messages=[{"role": "user", **fields}])


def _raw(body: bytes) -> BadRequest:
    return COMPLETIONS, body


def _without(request: BadRequest, name: str) -> BadRequest:
    body = json.loads(request[1])
    del body[name]
    return request[0], json.dumps(body).encode()


def _spliced(value: str) -> BadRequest:
    """With a temperature that json would not write."""
    body = '{"model": "tiny", "prompt": "Once", "temperature": VALUE}'
    return COMPLETIONS, body.replace("VALUE", value).encode()


BAD_REQUESTS: dict[str, BadRequest] = {
    # The body
    "body: empty": _raw(b""),
    "body: not JSON": _raw(b"prompt=Once"),
    "body: cut off": _raw(b'{"model": "tiny", "prompt": "On'),
    "body: not UTF-8": _raw(b'{"model": "tiny", "prompt": "\xff"}'),
    "body: a list": _raw(b"[]"),
    "body: null": _raw(b"null"),
    "body: 65 levels": _raw(b'{"prompt": ' + b"[" * 64 + b"]" * 64 + b"}"),
    "body: 100,000 levels": _raw(b"[" * 100_000),
    "body: NaN": _spliced("NaN"),
    "body: infinity": _spliced("Infinity"),
    "body: 1e999": _spliced("1e999"),
    "body: number of 5,000 digits": _spliced("1" * 5000),
    "body: lone surrogate": _raw(b'{"model": "tiny", "prompt": "\\ud800 text"}'),
    # The model
    "model: missing": _without(_completion(), "model"),
    "model: null": _completion(model=None),
    "model: number": _completion(model=3),
    "model: unknown": _completion(model="gpt-4o"),
    "model: almost": _chat(model="tinny"),
    "model: long": _completion(model="x" * 5000),
    # Fields
    "field: unknown": _completion(max_token=3),
    "field: unknown, nothing like it": _chat(zzz=1),
    "field: unknown, of 5,000 characters": _completion(**{"x" * 5000: 1}),
    "field: 1,000 unknown": _completion(**dict.fromkeys(map(str, range(1000)), 1)),
    "field: of the other kind": _chat(prompt="Once"),
    "prompt: missing": _without(_completion(), "prompt"),
    "prompt: null": _completion(prompt=None),
    "prompt: empty": _completion(prompt=""),
    "prompt: empty list": _completion(prompt=[]),
    "prompt: object": _completion(prompt={"text": "Once"}),
    "prompt: one empty": _completion(prompt=["Once", ""]),
    "prompt: mixed with a number": _completion(prompt=["Once", 1]),
    "prompt: a boolean id": _completion(prompt=[True]),
    "prompt: a fraction": _completion(prompt=[1.5]),
    "prompt: negative id": _completion(prompt=[-1]),
    "prompt: id beyond the vocabulary": _completion(prompt=[[1], [257]]),
    "prompt: enormous id": _completion(prompt=[2**70]),
    "prompt: too long": _completion(prompt="x" * 512),
    "prompt: too many ids": _completion(prompt=[1] * 600),
    "prompt: too many": _completion(prompt=["x"] * 65),
    "max_tokens: 0": _completion(max_tokens=0),
    "max_tokens: string": _completion(max_tokens="3"),
    "max_tokens: fraction": _completion(max_tokens=2.5),
    "max_tokens: boolean": _completion(max_tokens=True),
    "max_tokens: enormous": _completion(max_tokens=2**80),
    "temperature: negative": _completion(temperature=-1),
    "temperature: string": _completion(temperature="hot"),
    "top_p: 0": _completion(top_p=0),
    "top_p: 2": _chat(top_p=2),
    "top_k: negative": _completion(top_k=-1),
    "min_p: 2": _completion(min_p=2),
    "typical_p: 0": _completion(typical_p=0),
    "repetition_penalty: 0": _completion(repetition_penalty=0),
    "presence_penalty: 3": _completion(presence_penalty=3),
    "frequency_penalty: -3": _chat(frequency_penalty=-3),
    "n: 0": _completion(n=0),
    "n: 9": _chat(n=9),
    "seed: string": _completion(seed="1"),
    "n: too many choices": _completion(prompt=["x"] * 33, n=2),
    "seed: 65 bits": _completion(seed=2**64),
    "min_tokens: above max_tokens": _completion(min_tokens=20),
    "stop: number": _completion(stop=1),
    "stop: list of numbers": _completion(stop=[1]),
    "stop: empty string": _completion(stop=""),
    "stop: too many": _completion(stop=["x"] * 17),
    "stop: too long": _completion(stop=["x" * 257]),
    "stop_token_ids: beyond the vocabulary": _completion(stop_token_ids=[257]),
    "bad_words: strings": _completion(bad_words=["word"]),
    "bad_words: beyond the vocabulary": _completion(bad_words=[[300]]),
    "allowed_token_ids: empty": _completion(allowed_token_ids=[]),
    "logit_bias: list": _completion(logit_bias=[1]),
    "logit_bias: word": _completion(logit_bias={"Once": 1}),
    "logit_bias: zeros in front": _completion(logit_bias={"007": 1}),
    "logit_bias: long number": _completion(logit_bias={"1" * 5000: 1}),
    "logit_bias: beyond the vocabulary": _completion(logit_bias={"257": 1}),
    "logit_bias: 101": _completion(logit_bias={"1": 101}),
    "logit_bias: string": _completion(logit_bias={"1": "2"}),
    "logit_bias: 301": _completion(logit_bias=dict.fromkeys(map(str, range(301)), 0)),
    "logprobs: 21": _completion(logprobs=21),
    "logprobs: boolean": _completion(logprobs=True),
    "logprobs: number in a chat": _chat(logprobs=5),
    "top_logprobs: without logprobs": _chat(top_logprobs=2),
    "top_logprobs: 21": _chat(logprobs=True, top_logprobs=21),
    "stream: string": _completion(stream="yes"),
    "stream_options: without stream": _completion(stream_options={"include_usage": True}),
    "stream_options: unknown": _chat(stream=True, stream_options={"include_usag": True}),
    "stream_options: 1,000 unknown": _chat(
        stream=True, stream_options=dict.fromkeys(map(str, range(1000)), 1)
    ),
    "stream_options: obfuscation": _chat(stream=True, stream_options={"include_obfuscation": True}),
    "max_tokens: twice": _chat(max_tokens=3, max_completion_tokens=3),
    "max_completion_tokens: 0": _chat(max_completion_tokens=0),
    # Messages
    "messages: missing": _without(_chat(), "messages"),
    "messages: string": _chat(messages="Hello"),
    "messages: empty": _chat(messages=[]),
    "messages: strings": _chat(messages=["Hello"]),
    "messages: too many": _chat(messages=HELLO * 1001),
    "messages: too long": _message(content="x" * 600),
    "message: no role": _chat(messages=[{"content": "Hello"}]),
    "message: role of a control token": _chat(messages=[{"role": "<|end|>", "content": "x"}]),
    "message: unknown field": _message(content="Hello", contents="x"),
    "message: 1,000 unknown": _message(**dict.fromkeys(map(str, range(1000)), 1)),
    "message: content is a number": _message(content=5),
    "message: image": _message(content=[{"type": "image_url", "image_url": {"url": "x"}}]),
    "message: audio": _message(content=[{"type": "input_audio", "input_audio": {}}]),
    "message: part without a type": _message(content=[{"text": "x"}]),
    "message: tool calls": _chat(messages=[{"role": "assistant", "tool_calls": [{}]}]),
    "template: reserved": _chat(chat_template_kwargs={"messages": []}),
    "template: both ends": _chat(add_generation_prompt=True, continue_final_message=True),
    # What is known and not served
    "refused: suffix": _completion(suffix="the end"),
    "refused: best_of": _completion(best_of=3),
    "refused: store": _chat(store=True),
    "refused: service_tier": _chat(service_tier="flex"),
    "refused: tools": _chat(tools=[{"type": "function"}]),
    "refused: tool_choice": _chat(tool_choice="required"),
    "refused: functions": _chat(functions=[{"name": "f"}]),
    "refused: function_call": _chat(function_call="auto"),
    "refused: response_format": _chat(response_format={"type": "json_object"}),
    "refused: modalities": _chat(modalities=["text", "audio"]),
    "refused: moderation": _chat(moderation={"model": "m"}),
    "refused: audio": _chat(audio={"voice": "alloy"}),
    "refused: prediction": _chat(prediction={"type": "content", "content": "x"}),
    "refused: reasoning_effort": _chat(reasoning_effort="low"),
    "refused: metadata": _chat(metadata={"a": "b"}),
    "refused: web_search_options": _chat(web_search_options={}),
    "refused: verbosity": _chat(verbosity="low"),
    "refused: parallel_tool_calls": _chat(parallel_tool_calls=1),
    "refused: prompt_cache_retention": _chat(prompt_cache_retention="24h"),
}


async def answer_to(served: Serving, request: BadRequest) -> dict[str, Any]:
    path, body = request
    response = await served.http.post(path, content=body)
    assert 400 <= response.status_code < 500, (body[:200], response.text)
    return {"status": response.status_code, **response.json()}


async def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = write_small_model(Path(folder) / "small")
        async with serving(model) as served:
            answers = {name: await answer_to(served, bad) for name, bad in BAD_REQUESTS.items()}
    GOLDEN.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
