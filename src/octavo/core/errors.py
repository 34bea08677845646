"""Every error that a user can cause, in one tree.

Each class fixes a machine-readable ``code`` and the HTTP status that a server answers with; each
instance carries a sentence and, where there is one, a ``hint`` that says what to do. Bugs of our
own are ``assert`` statements and ordinary exceptions, never these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OctavoError(Exception):
    """Base of all errors that are somebody's to mend: the caller's, the operator's, a file's."""

    code = "octavo_error"
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(OctavoError):
    """A setting that is unknown, out of range, or at odds with another one."""

    code = "invalid_config"
    http_status = 400


class InvalidRequest(OctavoError):
    """A request that cannot be served as it is; ``param`` names the field at fault."""

    code = "invalid_request"
    http_status = 400

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class Overloaded(OctavoError):
    """The queue is full; the request was not taken and may be sent again later."""

    code = "overloaded"
    http_status = 429


class DeadlineExceeded(OctavoError):
    """The request's deadline came while it was still waiting; nothing of it was computed."""

    code = "deadline_exceeded"
    http_status = 504


class ModelError(OctavoError):
    """A model folder, checkpoint or tokeniser that cannot be used."""

    code = "invalid_model"
    http_status = 400


class ModelNotFound(ModelError):
    """No such folder or hub repository, or the hub cannot be reached."""

    code = "model_not_found"
    http_status = 404


class UnsupportedModel(ModelError):
    """A sound model of an architecture, or with an option, that is not implemented."""

    code = "unsupported_model"


class RequestFailed(OctavoError):
    """One request failed while it was being computed; its neighbours are untouched."""

    code = "request_failed"
    http_status = 500


class Misuse(OctavoError):
    """An object was used in a way that it cannot be: by two threads at once, after its end."""

    code = "misuse"


class EngineDead(OctavoError):
    """The engine stopped; requests in flight can be resumed on a new one."""

    code = "engine_dead"
    http_status = 503


def error_from_code(
    code: str, message: str, hint: str | None = None, param: str | None = None
) -> OctavoError:
    """The error that ``code`` names, as it was before it travelled in a message."""
    classes = [OctavoError]
    for kind in classes:  # grows while it is read
        if kind.code == code:
            error = kind(message, hint=hint)
            if isinstance(error, InvalidRequest):
                error.param = param
            return error
        classes += kind.__subclasses__()
    error = OctavoError(message, hint=hint)
    error.code = code
    return error


def traceback_without_values(error: BaseException) -> str:
    """Where an exception came from, without its message: that may hold somebody's text."""
    lines = [type(error).__name__]
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_qualname}")
        trace = trace.tb_next
    return "\n  ".join(lines)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint naming the closest of ``known``, else None."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None
