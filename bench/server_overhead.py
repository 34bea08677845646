"""What a token costs between the engine and the socket: ``python -m bench.server_overhead``.

A scripted client gives out tokens as fast as it can; a second process reads the streams. The
figures are processor time of the serving process a token: without the server (tokens to deltas),
and with it (deltas to events to the socket, HTTP included). The gap is the longest time that the
event loop was away, with the real engine of a model on its thread beside it.

    python -m bench.server_overhead MODEL
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import uvloop

from octavo.core.events import Finished, FinishReason, Timings, Token, Usage
from octavo.core.request import SamplingParams
from octavo.runtime.async_client import AsyncClient
from octavo.runtime.model_text import EncodedPrompt
from octavo.runtime.outputs import ChoiceDelta, OutputAssembler
from octavo.server.run import address_of, listen, serve
from octavo.server.settings import ServerSettings

NUM_TOKENS = 2000
STREAMS = (1, 32)
READER = """
import socket, sys, threading
port, streams, body = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
head = b"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n"
def read():
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(head + b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
    last = b""
    while data := s.recv(2**16):
        last = (last + data)[-64:]
    assert b"[DONE]" in last, last
threads = [threading.Thread(target=read) for _ in range(streams)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


class ScriptedAnswer:
    """As ``Answer``, with tokens from nowhere: one for each turn of the event loop."""

    def __init__(self, assembler: OutputAssembler) -> None:
        self._assembler = assembler
        self.so_far = assembler.output

    async def __aiter__(self) -> AsyncIterator[ChoiceDelta]:
        request_id = self._assembler.request.request_id
        for index in range(NUM_TOKENS):
            delta = self._assembler.apply(Token(request_id, 0, index, 32 + index % 64))
            await asyncio.sleep(0)
            assert delta is not None
            yield delta
        usage, timings = Usage(4, 0, NUM_TOKENS), Timings(0.0, 0.0, 0.0)
        reason = FinishReason.LENGTH
        self._assembler.apply(Finished(request_id, 0, reason, None, usage, timings))

    async def aclose(self) -> None:
        """There is nothing to abort."""


class ScriptedClient:
    """As ``AsyncClient``, with scripted answers."""

    def __init__(self, real: AsyncClient) -> None:
        self.text = real.text
        self.spec = real.spec
        self.max_model_len = NUM_TOKENS * 2
        self.num_pages = NUM_TOKENS
        self.death = None
        self.num_live = 0
        self.stats = real.stats

    def start(
        self, prompt: EncodedPrompt, params: SamplingParams, *, request_id: str
    ) -> ScriptedAnswer:
        return ScriptedAnswer(self.text.assembler(prompt, params, request_id=request_id))

    async def close(self) -> None:
        """There is nothing to stop."""


def _body(name: str, **fields: Any) -> str:
    return json.dumps({"model": name, "prompt": "Once", "stream": True, **fields})


async def _without_server(client: ScriptedClient, streams: int) -> float:
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    prompt = client.text.encode("Once")
    started = time.process_time()

    async def read(answer: ScriptedAnswer) -> None:
        async for _ in answer:
            pass

    answers = [client.start(prompt, params, request_id=str(n)) for n in range(streams)]
    await asyncio.gather(*map(read, answers))
    return time.process_time() - started


async def _read(listener: socket.socket, streams: int, body: str) -> float:
    port = listener.getsockname()[1]
    started = time.process_time()
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, str(port), str(streams), body
    )
    assert await reader.wait() == 0
    return time.process_time() - started


async def _longest_gap(done: asyncio.Event) -> float:
    loop = asyncio.get_running_loop()
    longest_s, last_s = 0.0, loop.time()
    while not done.is_set():
        await asyncio.sleep(0.001)
        now_s = loop.time()
        longest_s, last_s = max(longest_s, now_s - last_s - 0.001), now_s
    return longest_s


async def main(folder: Path) -> None:
    async with await AsyncClient.load(folder) as real:
        scripted = ScriptedClient(real)
        clients = {"scripted": cast("AsyncClient", scripted), "real": real}
        ready = asyncio.Event()
        with listen("127.0.0.1", 0) as listener:
            print(f"serving at {address_of(listener)}", file=sys.stderr)
            serving = asyncio.create_task(
                serve(clients, ServerSettings(), listener, ready=ready.set)
            )
            await ready.wait()
            body = _body("scripted", max_tokens=NUM_TOKENS, ignore_eos=True)
            await _read(listener, 1, body)
            for streams in STREAMS:
                bare_s = await _without_server(scripted, streams)
                whole_s = await _read(listener, streams, body)
                per_token = 1e6 / NUM_TOKENS / streams
                print(
                    f"{streams:3} streams: {bare_s * per_token:6.2f} us a token to deltas,"
                    f" {(whole_s - bare_s) * per_token:6.2f} us from deltas to the socket"
                )
            for streams in STREAMS:
                done = asyncio.Event()
                gap = asyncio.create_task(_longest_gap(done))
                await _read(listener, streams, _body("real", max_tokens=400, ignore_eos=True))
                done.set()
                print(f"{streams:3} streams of a real engine: gap {await gap * 1000:.1f} ms")
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
