"""The messages between a client and its engine, and their bytes.

Both directions are tagged msgspec structs in msgpack, in process and over a socket alike, so that
nothing can be passed in process that could not be passed between processes.
"""

from __future__ import annotations

import msgspec

from octavo.core.events import Event
from octavo.core.request import Request


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Take this request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End a request, or one of its choices."""

    request_id: str
    choice: int | None = None


ClientMessage = Submit | Abort


class Events(msgspec.Struct, frozen=True, tag=True):
    """Everything that one step made known."""

    events: list[Event]


_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_events_decoder = msgspec.msgpack.Decoder(Events)


def encode(message: ClientMessage | Events) -> bytes:
    return _encoder.encode(message)


def decode_client_message(data: bytes) -> ClientMessage:
    """Raises msgspec.DecodeError on other bytes, InvalidRequest on bad values."""
    return _client_decoder.decode(data)


def decode_events(data: bytes) -> Events:
    """Raises msgspec.DecodeError on bytes that are no such message."""
    return _events_decoder.decode(data)
