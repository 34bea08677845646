"""Sockets: clients that are slow, silent, or do not read; and how a server ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from octavo.core.errors import ConfigError
from octavo.runtime.async_client import AsyncClient
from octavo.server.auth import ApiKeys
from octavo.server.run import AddressInUse, address_of, listen, serve
from octavo.server.settings import ServerSettings
from tests.server.serving import MODEL

pytestmark = pytest.mark.anyio
# Each hurries only what its test is about: a machine that stands still must not end the rest.
HURRIED_HEADS = ServerSettings(head_timeout_s=0.2)
HURRIED_BODIES = ServerSettings(body_timeout_s=0.2)
HURRIED_READERS = ServerSettings(write_timeout_s=0.3)
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def listening(client: AsyncClient, settings: ServerSettings) -> AsyncIterator[int]:
    """The port of a server, which must end without cutting anything off."""
    ready = asyncio.Event()
    with listen("127.0.0.1", 0) as listener:
        # Connections inherit it: little fits between a server and a client that does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        port: int = listener.getsockname()[1]
        serving = asyncio.create_task(serve({MODEL: client}, settings, listener, ready=ready.set))
        async with asyncio.timeout(20):
            await ready.wait()
        yield port
        os.kill(os.getpid(), signal.SIGTERM)
        assert await serving


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[AsyncClient]:
    async with await AsyncClient.load(folder, max_model_len=512) as client:
        yield client


async def connect(
    port: int, said: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which something is said before the server sees it, and times it."""
    raw = socket.create_connection(("127.0.0.1", port))
    raw.sendall(said)
    return await asyncio.open_connection(sock=raw)


async def exchange(port: int, said: bytes = b"", *parts: bytes) -> bytes:
    """What is answered until the connection ends, which must be soon."""
    async with asyncio.timeout(20):
        reader, writer = await connect(port, said)
        for part in parts:
            writer.write(part)
        answer = await reader.read()
        writer.close()
        return answer


async def test_slow_heads_and_bodies(client: AsyncClient) -> None:
    async with listening(client, HURRIED_HEADS) as port:
        assert await exchange(port) == b""  # nothing was asked, nothing is said
        slow_head = await exchange(port, b"GET /livez HTTP/1.1\r\nHost: loc")
        assert slow_head.startswith(b"HTTP/1.1 408 ")
        assert b"head_timeout" in slow_head
    async with listening(client, HURRIED_BODIES) as port:
        slow_body = await exchange(port, HEAD + b"Content-Length: 10\r\n\r\n{")
        assert slow_body.startswith(b"HTTP/1.1 408 ")
        assert b"body_timeout" in slow_body


async def test_a_second_slow_head_on_one_connection(client: AsyncClient) -> None:
    async with listening(client, HURRIED_HEADS) as port:
        one = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader, writer = await connect(port, one)
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            writer.write(one[:20])
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_client_that_does_not_read_is_cut_off(client: AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "a", "max_tokens": 500, "n": 8, "stream": True}
    body |= {"ignore_eos": True, "logprobs": 20}
    data = json.dumps(body).encode()
    async with listening(client, HURRIED_READERS) as port:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", port))
        raw.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        outcome = b'outcome="abandoned",route="/v1/completions"} 1.0'
        async with asyncio.timeout(30):
            while outcome not in await exchange(port, ask):
                await asyncio.sleep(0.02)
        assert client.num_live == 0
        raw.close()


async def test_a_chunked_body(client: AsyncClient) -> None:
    data = json.dumps({"model": MODEL, "prompt": "a", "max_tokens": 2}).encode()
    head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:7], data[7:])]
    async with listening(client, ServerSettings()) as port:
        assert b" 200 OK" in await exchange(port, head, *chunks, b"0\r\n\r\n")


@pytest.mark.parametrize("piece", [b"X: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
async def test_endless_trailers_end_the_connection(client: AsyncClient, piece: bytes) -> None:
    settings = ServerSettings(max_head_bytes=2000)
    async with listening(client, settings) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: a")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


async def test_trailers_are_no_headers(client: AsyncClient) -> None:
    settings = ServerSettings(keys=ApiKeys(["correct-horse-battery"]))
    head = b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    secret = b"Host: localhost\r\nAuthorization: Bearer correct-horse-battery\r\n\r\n"
    async with listening(client, settings) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"2\r\n{}\r\n0\r\n" + secret)
        assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")
        writer.close()


async def test_an_unwanted_body_is_not_read_for_ever(client: AsyncClient) -> None:
    get = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    async with listening(client, HURRIED_BODIES) as port, asyncio.timeout(20):
        assert b" 200 OK" in await exchange(port, get % 100)  # by time
    settings = ServerSettings(max_body_bytes=1000)
    async with listening(client, settings) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get % 10**9)
        assert b" 200 OK" in await reader.readuntil(b"}")
        with suppress(ConnectionError):
            while not reader.at_eof():  # by size
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


async def test_an_unwanted_body_that_ends_leaves_the_connection(client: AsyncClient) -> None:
    get = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    async with listening(client, ServerSettings()) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get % 4)
        assert b" 200 OK" in await reader.readuntil(b"}")
        writer.write(b"body" + get % 0)
        assert b" 200 OK" in await reader.readuntil(b"}")
        writer.close()


async def test_what_is_not_http_is_told_so_in_json(client: AsyncClient) -> None:
    async with listening(client, ServerSettings()) as port:
        head, _, body = (await exchange(port, b"HELLO\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["error"]["code"] == "invalid_http"


async def test_an_idle_connection_does_not_keep_the_server(client: AsyncClient) -> None:
    async with listening(client, ServerSettings()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_a_body_that_never_arrives_does_not_keep_the_server(client: AsyncClient) -> None:
    async with asyncio.timeout(10):
        async with listening(client, ServerSettings()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n")
            assert b" 100 Continue" in await reader.readuntil(b"\r\n\r\n")  # it is read now
            _, half = await asyncio.open_connection("127.0.0.1", port)
            half.write(HEAD)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"draining"' in answer
    writer.close()
    half.close()


def test_addresses() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(AddressInUse, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()
    with pytest.raises(ConfigError, match="is not an address"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)
