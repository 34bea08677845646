"""Sending answers: whole ones, streams, errors; and stopping when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from octavo.core.errors import OctavoError
from octavo.server.body import ClientGone
from octavo.server.errors import error_body, error_headers
from octavo.server.record import RequestRecord

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
_KEY = "octavo.responder"


class Responder:
    """The sending side of one request. A client that does not read is the protocol's business."""

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self._send = send
        self.record = record

    async def whole(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = JSON,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        """One answer in one piece."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", content_type), length, *(headers or ())])
        await self._body(body, more=False)

    async def error(self, error: OctavoError) -> None:
        """An error in the place of an answer."""
        self.record.error_code = error.code
        await self.whole(error.http_status, error_body(error), headers=error_headers(error))

    async def begin_stream(self) -> None:
        """The head of a stream of events."""
        headers = [
            (b"content-type", EVENT_STREAM),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # proxies are not to collect events
        ]
        await self._start(200, headers)

    async def events(self, events: bytes) -> None:
        """One or more events, complete with their empty lines."""
        await self._body(events, more=True)

    async def end_stream(self, events: bytes) -> None:
        """The last events."""
        await self._body(events, more=False)

    @property
    def has_begun(self) -> bool:
        return self.record.status is not None

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.record.status = status
        headers = [
            *headers,
            (b"x-request-id", self.record.request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        if not more:
            self.record.is_complete = True


def attach(scope: Scope, responder: Responder) -> None:
    """Endpoints answer through this one."""
    scope[_KEY] = responder


def responder_of(scope: Scope) -> Responder:
    return cast(Responder, scope[_KEY])


async def while_connected(
    receive: Receive, record: RequestRecord, work: Coroutine[Any, Any, None]
) -> None:
    """Do the work, and cancel it as soon as the client has gone.

    Raises:
        ClientGone: it was cancelled.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive, record))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not record.is_complete:
            raise ClientGone
        await task
    finally:
        for one in (task, watch):
            one.cancel()
        # Until the work has cleaned up after itself.
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive, record: RequestRecord) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    record.is_gone = not record.is_complete  # the end of an answer looks the same from here
