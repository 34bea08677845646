"""Errors that only a server can raise, and how every error of the tree looks on the wire.

Statuses are those of the classes; nothing here maps one error to another status.
"""

from __future__ import annotations

import msgspec

from octavo.core.errors import OctavoError

RETRY_AFTER_S = 1
_RETRY_STATUSES = frozenset({429, 503})


class ServerError(OctavoError):
    """A request that did not get as far as a model."""

    code = "server_error"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Unauthorized(ServerError):
    """No key, or a wrong one."""

    code = "invalid_api_key"
    http_status = 401
    headers = ((b"www-authenticate", b"Bearer"),)


class Forbidden(ServerError):
    """A Host or Origin that this server does not answer to."""

    code = "host_not_allowed"
    http_status = 403


class RouteNotFound(ServerError):
    """No such path."""

    code = "route_not_found"
    http_status = 404


class MethodNotAllowed(ServerError):
    """The path is there, the method is not."""

    code = "method_not_allowed"
    http_status = 405


class BodyTimeout(ServerError):
    """The body did not arrive in time."""

    code = "body_timeout"
    http_status = 408
    headers = ((b"connection", b"close"),)


class BodyTooLarge(ServerError):
    """The body is larger than the server takes."""

    code = "body_too_large"
    http_status = 413
    headers = ((b"connection", b"close"),)


class InvalidHttp(ServerError):
    """Bytes that are no request."""

    code = "invalid_http"
    http_status = 400


class HeadTimeout(ServerError):
    """The first line and the headers did not arrive in time."""

    code = "head_timeout"
    http_status = 408


class HeadTooLarge(ServerError):
    """The first line and the headers are larger than the server takes."""

    code = "head_too_large"
    http_status = 431


class UnsupportedEncoding(ServerError):
    """A compressed body."""

    code = "unsupported_encoding"
    http_status = 415


class Draining(ServerError):
    """The server is about to stop and takes no new work."""

    code = "draining"
    http_status = 503
    headers = ((b"connection", b"close"),)


class NotReady(ServerError):
    """The answer of ``/readyz`` when requests would not be served."""

    code = "not_ready"
    http_status = 503


class InternalError(ServerError):
    """A bug of ours. What went wrong is in the log, not in the answer."""

    code = "internal_error"
    http_status = 500


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The inner object of an error response, as the OpenAI API has it, and a hint."""

    message: str
    type: str
    param: str | None
    code: str | None
    hint: str | None = None


def error_kind(status: int) -> str:
    """The ``type`` of an error body."""
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def error_body(error: OctavoError) -> bytes:
    """The JSON of an error: ``{"error": {"message", "type", "param", "code", "hint"?}}``."""
    param: str | None = getattr(error, "param", None)
    inner = ErrorBody(error.message, error_kind(error.http_status), param, error.code, error.hint)
    return msgspec.json.encode({"error": inner})


def error_headers(error: OctavoError) -> list[tuple[bytes, bytes]]:
    """The headers that belong to an error beside those of every JSON answer."""
    headers = list(error.headers) if isinstance(error, ServerError) else []
    if error.http_status in _RETRY_STATUSES:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    return headers


def as_octavo_error(error: Exception) -> OctavoError:
    """The error that a client is told; bugs of ours tell nothing of themselves."""
    if isinstance(error, OctavoError):
        return error
    return InternalError(
        "the server failed on this request",
        hint="the server's log has the reason, under the x-request-id of this answer",
    )
