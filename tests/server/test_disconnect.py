"""A client that leaves takes its request with it, in whatever state that is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from octavo.engine.engine import Engine
from octavo.server.record import RequestRecord
from octavo.server.respond import Responder, while_connected
from octavo.server.settings import ServerSettings
from tests.server.serving import CHAT, COMPLETIONS, HELLO, MODEL, Connection, Serving, serving
from tests.small_model import ENDLESS

pytestmark = pytest.mark.anyio
LONG = {"model": MODEL, "max_tokens": ENDLESS, "ignore_eos": True}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": (COMPLETIONS, {**LONG, "prompt": "Once"}),
    "chat": (CHAT, {**LONG, "messages": HELLO}),
    "several choices": (CHAT, {**LONG, "messages": HELLO, "n": 4}),
    "several prompts": (COMPLETIONS, {**LONG, "prompt": ["Once", "Twice", "Thrice"], "n": 2}),
}


def connection(name: str, **options: Any) -> Connection:
    path, body = BODIES[name]
    stream = options.pop("stream", True)
    return Connection(path, json.dumps({**body, "stream": stream}).encode(), **options)


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Iterator[threading.Event]:
    """In the block, what a thread calls by this name does not begin; the event: it was called."""
    was_called, go_on, work = threading.Event(), threading.Event(), getattr(owner, name)

    def wait_and_work(*arguments: Any) -> Any:
        was_called.set()
        assert go_on.wait(60)
        return work(*arguments)

    monkeypatch.setattr(owner, name, wait_and_work)
    try:
        yield was_called
    finally:
        go_on.set()


async def check_all_is_free(server: Serving) -> None:
    """By the next thing that the engine says, which is after its current step."""
    assert server.client.num_live == 0
    stats = await server.client.stats()
    assert (stats.scheduler.running, stats.scheduler.waiting) == (0, 0)
    assert all(pages.held == 0 for pages in stats.scheduler.pages)


@pytest.mark.parametrize("name", BODIES)
async def test_in_the_middle_of_a_stream(endless: Serving, name: str) -> None:
    one = connection(name, leave_after=12)
    await one.run(endless.app)
    assert one.status == 200
    assert b"[DONE]" not in one.content
    await check_all_is_free(endless)


@pytest.mark.parametrize("when", ["at once", "in the first step"])
@pytest.mark.parametrize("name", BODIES)
async def test_before_the_first_token(
    endless: Serving, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    steps_before = (await endless.client.stats()).steps
    one = connection(name)
    with held_up(monkeypatch, Engine, "step") as has_begun:
        async with asyncio.timeout(20):
            running = asyncio.create_task(one.run(endless.app))
            if when == "in the first step":
                assert await asyncio.to_thread(has_begun.wait, 20)
            one.left.set()
            await running
        assert one.sent == []
    await check_all_is_free(endless)
    assert (await endless.client.stats()).steps - steps_before <= 1  # the one that was held up


@pytest.mark.parametrize("name", BODIES)
async def test_while_a_whole_answer_is_being_made(endless: Serving, name: str) -> None:
    one = connection(name, stream=False)
    running = asyncio.create_task(one.run(endless.app))
    async with asyncio.timeout(20):
        while (await endless.client.stats()).scheduler.running == 0:
            pass
    one.left.set()
    await running
    assert one.sent == []
    await check_all_is_free(endless)


async def test_while_it_waits_for_a_place(endless_folder: Path) -> None:
    async with serving(endless_folder, max_num_seqs=1) as server:
        first, second = connection("chat"), connection("chat")
        running = asyncio.create_task(first.run(server.app))
        waiting = asyncio.create_task(second.run(server.app))
        async with asyncio.timeout(20):
            while (await server.client.stats()).scheduler.waiting == 0:
                pass
        second.left.set()
        await waiting
        assert second.sent == []
        assert server.client.num_live == 1
        first.left.set()
        await running
        await check_all_is_free(server)


async def test_while_the_prompt_is_tokenised_on_a_thread(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 100_000}]}
    one = Connection(CHAT, json.dumps(body).encode())
    one.left.set()
    with held_up(monkeypatch, served.client.text, "encode_chat"):
        await one.run(served.app)
        assert one.sent == []
        await check_all_is_free(served)
    assert (await served.ask(COMPLETIONS, prompt="Once"))["choices"]  # the tokeniser is free


async def test_a_request_that_nobody_waited_for_is_counted(endless_folder: Path) -> None:
    async with serving(endless_folder) as server:
        await connection("completion", leave_after=5).run(server.app)
        numbers = await server.metrics()
    label = f'{{model="{MODEL}",outcome="abandoned",route="{COMPLETIONS}"}}'
    assert numbers[f"octavo_requests_total{label}"] == 1
    assert numbers[f'octavo_prompt_tokens_total{{model="{MODEL}"}}'] == 4
    assert numbers[f'octavo_generated_tokens_total{{model="{MODEL}"}}'] >= 3


async def test_an_engine_that_dies_ends_streams_with_an_error(endless_folder: Path) -> None:
    async with serving(endless_folder, settings=ServerSettings()) as server:
        one = connection("chat")
        running = asyncio.create_task(one.run(server.app))
        async with asyncio.timeout(20):
            while len(one.sent) < 4:
                await asyncio.sleep(0)
        await server.client.close()
        await running
        *events, last, rest = one.content.decode().split("\n\n")
        assert rest == ""
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (error["code"], error["type"]) == ("engine_dead", "server_error")
        assert "[DONE]" not in "".join(events)
        response = await server.post(COMPLETIONS, {"prompt": "Once"})
        assert response.status_code == 503
        ready = await server.http.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
        assert (await server.http.get("/livez")).status_code == 200
        assert (await server.http.get("/metrics")).status_code == 200


@pytest.mark.parametrize(("leaves_during", "outcome"), [("first", "abandoned"), ("last", "ok")])
async def test_what_is_sent_to_nobody_is_no_answer(leaves_during: str, outcome: str) -> None:
    """An answer that is ready goes on to its end, in one go, after the client has left."""
    gone = asyncio.Event()
    record = RequestRecord("id", 0.0)

    async def receive() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message.get("body") == leaves_during.encode():
            gone.set()
            if message["more_body"]:  # the connection breaks while this waits for room
                await asyncio.sleep(0)

    async def answer() -> None:
        responder = Responder(send, record)
        await responder.begin_stream()
        await responder.events(b"first")
        await responder.end_stream(b"last")

    await while_connected(receive, record, answer())
    assert record.is_complete
    assert record.outcome == outcome
