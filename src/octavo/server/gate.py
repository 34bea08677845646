"""What every request passes: its log line, its error body, and who may ask. Pure ASGI."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.core.clock import Clock
from octavo.core.errors import OctavoError, traceback_without_values
from octavo.server.body import ClientGone
from octavo.server.errors import (
    Draining,
    Forbidden,
    MethodNotAllowed,
    RouteNotFound,
    as_octavo_error,
)
from octavo.server.formats import error_event
from octavo.server.record import RequestRecord
from octavo.server.respond import Responder, attach
from octavo.server.settings import ServerSettings

OPEN_ROUTES = frozenset({"/livez"})
"""Need no key: whoever starts and stops servers carries none. They tell no more than a word."""
ACCESS_LOGGER = "octavo.server.access"
ERROR_LOGGER = "octavo.server.errors"

_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]+)?")

Headers = Iterable[tuple[bytes, bytes]]


class Gate:
    """The outermost layer of a server.

    Args:
        app: routes a request, or raises.
        finished: told of every request when it is over, with the time.
        is_draining: whether no new work is taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        *,
        clock: Clock,
        finished: Callable[[RequestRecord, float], None],
        is_draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._settings = settings
        self._clock = clock
        self._finished = finished
        self._is_draining = is_draining
        self._access_log = structlog.wrap_logger(
            logging.getLogger(ACCESS_LOGGER),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(request_id=secrets.token_hex(12), started_s=self._clock())
        responder = Responder(send, record)
        attach(scope, responder)
        try:
            self._admit(scope)
            await self._app(scope, receive, send)
        except ClientGone:
            pass
        except HTTPException as error:  # the router's words for what it does not have
            await responder.error(_routing_error(scope, error))
        except Exception as error:
            await self._answer_error(error, responder)
        finally:
            now_s = self._clock()
            self._finished(record, now_s)
            self._log(scope, record, now_s)

    def _admit(self, scope: Scope) -> None:
        """Raises what keeps the request out."""
        headers = scope["headers"]
        check_host(headers, self._settings.allowed_hosts)
        if scope["path"] in OPEN_ROUTES:
            return
        self._settings.keys.check(headers)
        if self._is_draining() and scope["path"].startswith("/v1/"):
            raise Draining("the server is about to stop", hint="send it again, elsewhere or later")

    async def _answer_error(self, error: Exception, responder: Responder) -> None:
        record = responder.record
        if not isinstance(error, OctavoError):
            # The names of types and the lines of code, but no values: prompts may be among them.
            logging.getLogger(ERROR_LOGGER).error(
                "request %s failed: %s", record.request_id, traceback_without_values(error)
            )
        told = as_octavo_error(error)
        if not responder.has_begun:
            await responder.error(told)
        elif not record.is_complete:
            record.error_code = told.code
            if record.streams:
                await responder.end_stream(error_event(told))

    def _log(self, scope: Scope, record: RequestRecord, now_s: float) -> None:
        usage = record.usage
        self._access_log.info(
            "request",
            request_id=record.request_id,
            method=scope["method"],
            route=record.route,
            status=record.status,
            outcome=record.outcome,
            error=record.error_code,
            model=record.model,
            stream=record.streams,
            milliseconds=round((now_s - record.started_s) * 1000, 1),
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            cached_tokens=None if usage is None else usage.cached_tokens,
            completion_tokens=None if usage is None else usage.completion_tokens,
        )


def check_host(headers: Headers, allowed: tuple[str, ...] | None) -> None:
    """Raises Forbidden for a Host, or an Origin, that is not an allowed name.

    A page in a browser can send requests to any address, a loopback one too, and can give that
    address a name of its own; it cannot lie about these two headers.
    """
    if allowed is None:
        return
    for header in (b"host", b"origin"):
        given = [value for name, value in headers if name == header]
        if header == b"origin" and not given:
            continue
        if len(given) != 1 or _name(given[0]) not in allowed:
            raise Forbidden(
                f"this server does not answer to this {header.decode()}",
                hint="it answers to " + ", ".join(allowed) + "; operators may allow more",
            )


def _name(value: bytes) -> str:
    """The host of ``host:port`` or ``scheme://host:port``, in lower case; empty for anything
    else."""
    host = value.decode("latin-1").strip().lower().rpartition("://")[2]
    parts = _HOST_AND_PORT.fullmatch(host)
    return parts[1] if parts else ""


def _routing_error(scope: Scope, error: HTTPException) -> OctavoError:
    method = scope["method"]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{method} is not possible here", hint=f"possible: {allowed}")
    return RouteNotFound("there is nothing at this path", hint="the API begins at /v1/")
