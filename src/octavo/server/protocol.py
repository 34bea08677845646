"""The HTTP protocol of uvicorn with bounds that it lacks: on heads, trailers, unwanted bodies,
silence and pipelining.

uvicorn makes protocols by calling a class with fixed arguments; deriving is how it is extended.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from octavo.core.errors import OctavoError
from octavo.server.body import DISCARD_FACTOR
from octavo.server.errors import HeadTimeout, HeadTooLarge, InvalidHttp, error_body
from octavo.server.settings import ServerSettings

_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


def make_protocol(settings: ServerSettings) -> type[asyncio.Protocol]:
    """A protocol class for ``uvicorn.Config(http=...)``."""

    class BoundedProtocol(_BoundedProtocol):
        max_head_bytes = settings.max_head_bytes
        head_timeout_s = settings.head_timeout_s
        max_unwanted_bytes = DISCARD_FACTOR * settings.max_body_bytes
        body_timeout_s = settings.body_timeout_s
        write_timeout_s = settings.write_timeout_s

    return BoundedProtocol


class _BoundedProtocol(HttpToolsProtocol):
    """One connection.

    A head that is too long or too slow is answered and ends the connection. So does, without an
    answer, a client that stops reading, and one that sends a request before the last one was
    answered: no real client does, and the abort of an answer would go to the wrong request.
    The rest of a body that nobody wants any more is read for a while, so that the client gets to
    see its answer.
    """

    max_head_bytes: int
    head_timeout_s: float
    max_unwanted_bytes: int
    body_timeout_s: float
    write_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._in_body = False  # and in what follows it
        self._bodiless_bytes = 0  # since the last byte of a body: trailers, chunk extensions
        self._unwanted_bytes = 0  # of a message whose answer is complete
        self._head_timer: asyncio.TimerHandle | None = None
        self._unwanted_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, was_in_body = self._in_head, self._in_body
        self._bodiless_bytes += len(data)  # until ``on_body`` says otherwise
        super().data_received(data)
        if self._in_body and was_in_body:
            self._check_body(len(data))
        if not self._in_head:
            return
        # Where the head began in these bytes, before it may be the end of another body.
        self._head_bytes += len(data) if was_in_head else 1
        # llhttp would collect a header that does not end.
        if self._head_bytes > self.max_head_bytes:
            self._refuse_head_size()

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        super().on_message_begin()
        self._in_head = True
        if self._head_timer is None:
            self._start_head_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind a body these are trailers, which must not pass for headers.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return
        self._in_head = False
        self._in_body = True
        self._bodiless_bytes = 0
        self._unwanted_bytes = 0
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_head_bytes:
            self._refuse_head_size()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self.transport.is_closing():
            return
        super().on_message_complete()
        if self._unwanted_timer is not None:
            self._unwanted_timer.cancel()
            self._unwanted_timer = None
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._unwanted_timer = self.loop.call_later(self.body_timeout_s, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.abort()  # an error would look like a part of the answer
        self._refuse(InvalidHttp("this is not valid HTTP/1.1"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _check_body(self, num_bytes: int) -> None:
        if self._bodiless_bytes > self.max_head_bytes:
            self.transport.abort()
        if self.cycle is not None and self.cycle.response_complete:
            self._unwanted_bytes += num_bytes
            if self._unwanted_bytes > self.max_unwanted_bytes:
                self.transport.close()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        if self._head_bytes:
            self._refuse(HeadTimeout(f"no whole head within {self.head_timeout_s:g} seconds"))
        else:
            self.transport.close()  # nothing was asked

    def _refuse_head_size(self) -> None:
        self._refuse(HeadTooLarge(f"the head is larger than {self.max_head_bytes} bytes"))

    def _refuse(self, error: OctavoError) -> None:
        if self.transport.is_closing():
            return
        body = error_body(error)
        head = (
            f"HTTP/1.1 {error.http_status} {_PHRASES[error.http_status]}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._unwanted_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._unwanted_timer = self._write_timer = None
