"""The messages between a client and its engine, and their bytes.

Both directions are tagged msgspec structs in msgpack, in process and over a socket alike, so that
nothing can be passed in process that could not be passed between processes.
"""

from __future__ import annotations

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


_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_engine_decoder: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)


def encode(message: ClientMessage | EngineMessage) -> bytes:
    return _encoder.encode(message)


def decode_client_message(data: bytes) -> ClientMessage:
    """Raises msgspec.DecodeError on other bytes, InvalidRequest on bad values."""
    return _client_decoder.decode(data)


def decode_engine_message(data: bytes) -> EngineMessage:
    """Raises msgspec.DecodeError on bytes that are no such message."""
    return _engine_decoder.decode(data)
