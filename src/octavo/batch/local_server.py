"""The server's application, asked without a socket: a line of a batch is a POST to it.

So a batch understands, refuses and answers exactly what the server does; there is no second way
from a body to an answer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from octavo.core.errors import InvalidRequest, Overloaded
from octavo.runtime.async_client import AsyncClient
from octavo.server.app import create_app
from octavo.server.errors import error_body
from octavo.server.settings import SamplingDefaults, ServerSettings

_NOT_NOW = (429, 503)


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    request_id: str
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class LocalServer:
    """One model behind the server's API.

    Args:
        name: what the model is called.
        client: whoever made it closes it.
        any_model: answer requests that name another model too.
        max_body_bytes: of one request.
    """

    def __init__(
        self,
        name: str,
        client: AsyncClient,
        *,
        sampling_defaults: SamplingDefaults = "model",
        any_model: bool = False,
        max_body_bytes: int,
    ) -> None:
        self._name = name
        self._client = client
        self._any_model = any_model
        settings = ServerSettings(
            allowed_hosts=None, sampling_defaults=sampling_defaults, max_body_bytes=max_body_bytes
        )
        self._app = create_app({name: client}, settings)

    async def post(self, path: str, fields: dict[str, Any]) -> Response:
        """The response to a request, a refusal too.

        Raises:
            EngineDead: the engine is gone; the request may be sent to another one.
            Overloaded: there is no room in the engine's queue.
        """
        if fields.get("stream"):
            error = InvalidRequest(
                "a batch is not streamed", param="stream", hint="leave stream out"
            )
            return Response(error.http_status, secrets.token_hex(12), error_body(error))
        if self._any_model or "model" not in fields:
            fields = {**fields, "model": self._name}
        response = await self._ask(path, msgspec.json.encode(fields))
        if response.status in _NOT_NOW:  # no answer to keep
            raise self._client.death or Overloaded(
                "the engine's queue is full",
                hint="raise --max-waiting-requests or --max-waiting-tokens, or lower --in-flight",
            )
        return response

    async def _ask(self, path: str, body: bytes) -> Response:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        arrived = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()  # never set: nobody hangs up; leaving is being cancelled
        status = 0
        headers: dict[bytes, bytes] = {}
        parts: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if arrived:
                return arrived.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers.update(message["headers"])
            else:
                parts.append(message["body"])

        await self._app(scope, receive, send)
        assert status, "every request is answered"
        return Response(status, headers[b"x-request-id"].decode(), b"".join(parts))
