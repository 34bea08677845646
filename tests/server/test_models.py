"""Prompts and models: several at once, long texts, models with defaults or without a tokeniser."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from octavo.server.models import MAX_LONG_TEXTS
from octavo.server.settings import ServerSettings
from tests.server.serving import CHAT, COMPLETIONS, HELLO, MODEL, Serving, serving
from tests.small_model import write_small_model

pytestmark = pytest.mark.anyio


async def test_each_model_has_its_engine(folder: Path, tmp_path: Path) -> None:
    other = write_small_model(tmp_path / "other", "gpt2")
    async with serving(folder, other) as server:
        body = {"prompt": "Once", "seed": 1, "max_tokens": 10}
        mine = await server.ask(COMPLETIONS, **body)
        theirs = await server.ask(COMPLETIONS, **{**body, "model": "other"})
        assert (mine["model"], theirs["model"]) == (MODEL, "other")
        assert mine["choices"][0]["text"] != theirs["choices"][0]["text"]
        assert (await server.clients["other"].stats()).scheduler.requests == 1


async def test_defaults_are_the_models_unless_the_operator_says_otherwise(
    folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "greedy"))
    settings = {"temperature": 0.7, "top_k": 1}
    (model / "generation_config.json").write_text(json.dumps(settings))
    body = {"prompt": "Once", "seed": 1, "max_tokens": 10}
    async with serving(model) as server:
        theirs = (await server.ask(COMPLETIONS, **body))["choices"]
        greedy = (await server.ask(COMPLETIONS, **body, temperature=0))["choices"]
        plain = (await server.ask(COMPLETIONS, **body, temperature=1, top_k=0))["choices"]
    assert theirs == greedy != plain
    async with serving(model, settings=ServerSettings(sampling_defaults="openai")) as server:
        assert (await server.ask(COMPLETIONS, **body))["choices"] == plain


async def test_a_model_without_a_tokeniser_speaks_ids(folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "ids"))
    (model / "tokenizer.json").unlink()
    async with serving(model) as server:
        body = {"prompt": [1, 2, 3], "max_tokens": 3, "logprobs": 1, "return_token_ids": True}
        choice = (await server.ask(COMPLETIONS, **body, echo=True))["choices"][0]
        assert choice["text"] == ""
        assert choice["logprobs"]["tokens"][:3] == ["token_id:1", "token_id:2", "token_id:3"]
        for path, fields, param in (
            (COMPLETIONS, {"prompt": "Once"}, "prompt"),
            (COMPLETIONS, {"prompt": [1], "stop": "x"}, "stop"),
            (CHAT, {"messages": HELLO}, "messages"),
        ):
            response = await server.post(path, fields)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param


async def test_a_model_without_a_template_does_not_chat(folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "plain"))
    (model / "tokenizer_config.json").write_text("{}")
    async with serving(model) as server:
        response = await server.post(CHAT, {"messages": HELLO})
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("messages", "invalid_request")
        assert "chat template" in error["message"]


async def test_the_default_length_is_what_the_pages_hold(folder: Path) -> None:
    async with serving(folder, num_pages=5) as server:  # page 0 belongs to nobody
        answer = await server.ask(CHAT, messages=HELLO, ignore_eos=True)
        assert answer["usage"]["total_tokens"] == 4 * 16 + 1
        response = await server.post(COMPLETIONS, {"prompt": "Once", "max_tokens": 400})
        assert response.status_code == 400
        assert "KV cache holds 64" in response.json()["error"]["message"]


async def test_long_texts_do_not_stop_the_event_loop(served: Serving) -> None:
    """A text of 500 kB is refused; meanwhile short requests are answered."""
    turns = 0
    running = asyncio.create_task(
        served.post(CHAT, {"messages": [{"role": "user", "content": "word " * 100_000}]})
    )
    while not running.done() and turns < 20:  # no more: they would only slow it down
        await asyncio.sleep(0)
        assert (await served.http.get("/livez")).status_code == 200
        turns += 1
    response = await running
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert turns > 5
    assert (await served.ask(COMPLETIONS, prompt="Once"))["choices"]


async def test_what_is_too_long_in_any_case_is_not_tokenised(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = served.client.text
    assert text.tokenizer is not None
    assert text.tokenizer.longest_token_bytes is not None
    monkeypatch.setattr(text, "encode", lambda prompt: pytest.fail("it was tokenised"))
    response = await served.post(COMPLETIONS, {"prompt": "word " * 100_000})
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"one": {"more": ["x" * 5000]}}},
        {"messages": [{**HELLO[0], "name": "x" * 5000}]},
        {"messages": [{**HELLO[0], "reasoning_content": "x" * 5000}]},
    ],
)
async def test_few_long_texts_are_tokenised_at_a_time(
    served: Serving, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    go_on = threading.Event()
    encode_chat = served.client.text.encode_chat

    def slow(*arguments: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        go_on.wait(20)
        return encode_chat(*arguments)

    monkeypatch.setattr(served.client.text, "encode_chat", slow)
    body = {"messages": HELLO, "max_tokens": 1, **fields}
    posts = [asyncio.create_task(served.post(CHAT, body)) for _ in range(MAX_LONG_TEXTS + 1)]
    await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    go_on.set()
    statuses = sorted([(await post).status_code for post in posts])
    assert statuses == [200] * MAX_LONG_TEXTS + [429]
