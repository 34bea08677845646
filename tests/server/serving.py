"""A server in this process: no sockets, but everything from the ASGI message to the engine."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from octavo.runtime.async_client import AsyncClient
from octavo.server.app import ServerApp, create_app
from octavo.server.settings import ServerSettings

MODEL = "tiny"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello there"}]


@dataclass(frozen=True)
class Serving:
    """A server and both ends of it."""

    app: ServerApp
    clients: Mapping[str, AsyncClient]
    http: httpx.AsyncClient

    @property
    def client(self) -> AsyncClient:
        return self.clients[MODEL]

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return await self.http.post(path, json={"model": MODEL, **body})

    async def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """An answer that must be there."""
        response = await self.post(path, body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The events of a stream that must end well."""
        response = await self.post(path, {**body, "stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response.content)
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    async def held_pages(self) -> int:
        stats = await self.client.stats()
        return sum(pages.held for pages in stats.scheduler.pages)

    async def metrics(self) -> dict[str, float]:
        page = (await self.http.get("/metrics")).text
        lines = [line for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def events_of(stream: bytes) -> list[str]:
    """What stands behind ``data:`` in each event."""
    *events, rest = stream.decode().split("\n\n")
    assert rest == "", "the last event is not complete"
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def joined(lists: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


@asynccontextmanager
async def serving(
    *folders: Path, settings: ServerSettings | None = None, **options: Any
) -> AsyncIterator[Serving]:
    """The first model is called MODEL, the others by their folders."""
    async with AsyncExitStack() as stack:
        clients = {}
        for number, folder in enumerate(folders):
            client = await AsyncClient.load(folder, **options)
            clients[folder.name if number else MODEL] = await stack.enter_async_context(client)
        app = create_app(clients, settings or ServerSettings())
        await stack.enter_async_context(app.running())
        transport = httpx.ASGITransport(app)
        base = "http://127.0.0.1"
        http = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=base, timeout=30)
        )
        yield Serving(app, clients, http)


@dataclass
class Connection:
    """One request, message by message, with a client that may leave."""

    path: str
    body: bytes
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: list[dict[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    leave_after: int | None = None
    """The client leaves when so many messages have come."""
    _was_read: bool = False

    async def run(self, app: ServerApp) -> None:
        headers = {"host": "127.0.0.1", **self.headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        }
        await app(scope, self._receive, self._send)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    async def _receive(self) -> dict[str, Any]:
        if not self._was_read:
            self._was_read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(dict(message))
        if self.leave_after is not None and len(self.sent) >= self.leave_after:
            self.left.set()
