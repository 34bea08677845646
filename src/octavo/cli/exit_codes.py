"""What a process of ours says with its exit status. The reference page is generated from here."""

from __future__ import annotations

import enum

from octavo.core.errors import (
    ConfigError,
    DeadlineExceeded,
    EngineDead,
    InvalidRequest,
    ModelError,
    OctavoError,
    Overloaded,
    RequestFailed,
)


class ExitCode(enum.IntEnum):
    """Of every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    MODEL = 3
    ENGINE = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141

    @property
    def meaning(self) -> str:
        """A sentence for the reference."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "Everything was done.",
    ExitCode.FAILURE: "Something went wrong that is none of the below: a file that cannot be"
    " written, a check of `doctor` that found a problem, a bug.",
    ExitCode.USAGE: "The command line, a setting or the input is wrong; nothing was computed.",
    ExitCode.MODEL: "The model cannot be found, fetched, read or used.",
    ExitCode.ENGINE: "The engine refused the work as too much, or failed while it computed.",
    ExitCode.INTERRUPTED: "Ctrl-C.",
    ExitCode.BROKEN_PIPE: "Whoever read the output went away (`octavo ... | head`).",
}

_OF_ERRORS: tuple[tuple[type[OctavoError], ExitCode], ...] = (
    (ConfigError, ExitCode.USAGE),
    (InvalidRequest, ExitCode.USAGE),
    (ModelError, ExitCode.MODEL),
    (Overloaded, ExitCode.ENGINE),
    (DeadlineExceeded, ExitCode.ENGINE),
    (RequestFailed, ExitCode.ENGINE),
    (EngineDead, ExitCode.ENGINE),
)


def exit_code_of(error: OctavoError) -> ExitCode:
    """The status of a process that ends with this error."""
    for kind, code in _OF_ERRORS:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILURE
