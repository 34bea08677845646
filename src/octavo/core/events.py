"""What the engine tells about a request. Every event says which request, choice and token.

Events may arrive twice when an engine was replaced mid-stream; indices let a reader drop what it
already has.
"""

from __future__ import annotations

import enum

import msgspec

from octavo.core.errors import InvalidRequest, OctavoError, error_from_code
from octavo.core.step import TokenLogprobs


class FinishReason(enum.StrEnum):
    STOP = "stop"
    """An end token, a stop token or a stop string."""
    LENGTH = "length"
    """max_tokens, or the model's context, is used up."""
    ABORT = "abort"


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one choice."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values were found instead of computed."""
    completion_tokens: int


class Timings(msgspec.Struct, frozen=True):
    """Seconds since the engine took the request, on the engine's clock.

    Where something never happened before the end, its time is that of the end.
    """

    started_s: float
    """When its first tokens were scheduled."""
    first_token_s: float
    finished_s: float


class Token(msgspec.Struct, frozen=True, tag=True):
    """Output token number ``index`` (from 0) of a choice."""

    request_id: str
    choice: int
    index: int
    token_id: int
    logprobs: TokenLogprobs | None = None


class PromptScored(msgspec.Struct, frozen=True, tag=True):
    """Prompt logprobs: the first belongs to prompt token number ``index`` (from 1)."""

    request_id: str
    index: int
    logprobs: tuple[TokenLogprobs, ...]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """No more tokens of this choice will come."""

    request_id: str
    choice: int
    reason: FinishReason
    stop_token_id: int | None
    """The end or stop token that ended it; it is the last token emitted."""
    usage: Usage
    timings: Timings


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The whole request failed; nothing more will come of any of its choices."""

    request_id: str
    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    """The field of the request that is at fault, where it is one."""

    @classmethod
    def of(cls, request_id: str, error: OctavoError) -> Failed:
        """The event that tells an error."""
        param = error.param if isinstance(error, InvalidRequest) else None
        return cls(request_id, error.code, error.message, error.hint, param)

    @property
    def error(self) -> OctavoError:
        """The error that it tells, as it was raised."""
        return error_from_code(self.code, self.message, self.hint, self.param)


Event = Token | PromptScored | Finished | Failed
