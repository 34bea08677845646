"""Request bodies from the wire to plain JSON values, bounded in bytes, time and depth."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.types import Receive, Scope

from octavo.core.errors import InvalidRequest
from octavo.server.errors import BodyTimeout, BodyTooLarge, Draining, UnsupportedEncoding

# Every quote begins a match, also of a string that never ends, so that time is linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
DISCARD_FACTOR = 4
"""Of a body that is refused, so many times the largest body is read and thrown away."""


class ClientGone(Exception):
    """The client closed its connection; nobody waits for an answer."""


class Readings:
    """The bodies that are being read, so that a server that stops need not wait for them."""

    def __init__(self) -> None:
        self._deadlines: set[asyncio.Timeout] = set()
        self.is_over = False

    def end(self) -> None:
        """Nothing is waited for from now on. Called on the event loop."""
        self.is_over = True
        for deadline in self._deadlines:
            if not deadline.expired():  # else it is on its way out
                deadline.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def deadline(self, timeout_s: float) -> AsyncIterator[None]:
        """Raises TimeoutError when the time is over, or the readings are."""
        async with asyncio.timeout(0 if self.is_over else timeout_s) as deadline:
            self._deadlines.add(deadline)
            try:
                yield
            finally:
                self._deadlines.discard(deadline)


async def read_body(
    scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float, readings: Readings
) -> bytes:
    """The whole body.

    A body that is too large is read on for a while and thrown away: a client that is still
    writing would not read our answer.

    Raises:
        BodyTooLarge, BodyTimeout, UnsupportedEncoding: it is not taken.
        Draining: the server stops.
        ClientGone: it will never be whole.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedEncoding(
                "compressed bodies are not taken", hint="send plain JSON without Content-Encoding"
            )
    parts: list[bytes] = []
    size = 0
    try:
        async with readings.deadline(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size <= max_bytes:
                    parts.append(part)
                if not message.get("more_body", False) or size > DISCARD_FACTOR * max_bytes:
                    break
    except TimeoutError:
        if readings.is_over:
            raise Draining(
                "the server is about to stop", hint="send it again, elsewhere or later"
            ) from None
        raise BodyTimeout(f"the body did not arrive within {timeout_s:g} seconds") from None
    if size > max_bytes:
        raise BodyTooLarge(
            f"the body is larger than {max_bytes} bytes",
            hint="send fewer or shorter prompts at a time",
        )
    return b"".join(parts)


def parse_object(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        InvalidRequest: malformed, nested too deep, NaN or an infinity in it, or not an object.
    """
    _check_depth(body, max_depth)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is not valid JSON: {error}",
            hint="names and texts stand in double quotes; a shell takes all of it in single ones",
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", hint='begin with {"model": ...')
    return value


def _check_depth(body: bytes, max_depth: int) -> None:
    """Each round takes away the innermost brackets; what is left afterwards was deeper.

    In time linear in the body for each level, and without recursion.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    brackets = _STRING.sub(b"", body).translate(_ONE_KIND, _NO_BRACKET)
    for _ in range(max_depth):
        num_before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
        if len(brackets) == num_before:
            break  # they do not pair up
    raise InvalidRequest(f"the body is not valid JSON, or nested deeper than {max_depth} levels")
