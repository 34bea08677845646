"""The messages between a client and its engine, and their bytes.

Both directions are tagged msgspec structs in msgpack, in process and over a socket alike, so that
nothing can be passed in process that could not be passed between processes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from octavo.core.events import Event
from octavo.core.request import Request
from octavo.engine.engine import EngineStats


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Take this request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End a request, or one of its choices."""

    request_id: str
    choice: int | None = None


class AskStats(msgspec.Struct, frozen=True, tag=True):
    """Tell the counters; the reply carries the same number."""

    number: int


ClientMessage = Submit | Abort | AskStats


class Events(msgspec.Struct, frozen=True, tag=True):
    """Everything that one step made known."""

    events: list[Event]


class StatsReply(msgspec.Struct, frozen=True, tag=True):
    """The counters at the moment of the question."""

    number: int
    stats: EngineStats


EngineMessage = Events | StatsReply


encode: Callable[[ClientMessage | EngineMessage], bytes] = msgspec.msgpack.Encoder().encode

decode_client_message: Callable[[bytes], ClientMessage] = msgspec.msgpack.Decoder(
    ClientMessage
).decode
"""Raises msgspec.DecodeError on other bytes, InvalidRequest on bad values."""

decode_engine_message: Callable[[bytes], EngineMessage] = msgspec.msgpack.Decoder(
    EngineMessage
).decode
"""Raises msgspec.DecodeError on bytes that are no such message."""
