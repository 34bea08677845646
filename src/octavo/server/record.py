"""What is known of one HTTP request: for its log line and its metrics, never its contents."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.events import Usage

OUTCOMES = ("ok", "refused", "overloaded", "failed", "abandoned")


@dataclass(slots=True)
class RequestRecord:
    """One request, filled in on its way."""

    request_id: str
    started_s: float
    """On the server's clock."""
    route: str = "unknown"
    """The path as it was declared; what clients type there is their business."""
    model: str = "unknown"
    """A served one."""
    streams: bool = False
    status: int | None = None
    """None while nothing was answered."""
    error_code: str | None = None
    is_complete: bool = False
    """Whether the last byte of the answer was handed over."""
    is_gone: bool = False
    """Whether the client had gone before; what is sent then goes nowhere, without an error."""
    usage: Usage | None = None
    """Of what an engine did for it, also when nobody waited for the end."""

    @property
    def outcome(self) -> str:
        """One of ``OUTCOMES``."""
        if self.status == 429 or self.error_code == "draining":
            return "overloaded"
        if self.status is not None and 400 <= self.status < 500:
            return "refused"
        if self.error_code is not None:
            return "failed"
        return "ok" if self.is_complete and not self.is_gone else "abandoned"
