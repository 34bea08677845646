"""The engine's end of a connection: client messages in, engine messages out, all as bytes.

Whoever runs the engine (the caller's own thread, a thread, later a process) owns one port, gives
it what arrives, lets it step while there is work, and is told what it has to say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from octavo.core.errors import InvalidRequest, OctavoError
from octavo.core.events import Event, Failed
from octavo.engine.engine import Engine
from octavo.runtime.codec import Abort, AskStats, Events, StatsReply, decode_client_message, encode

logger = logging.getLogger(__name__)


class _RequestId(msgspec.Struct):
    request_id: str


class _SubmittedId(msgspec.Struct):
    """As little of a Submit message as is needed to answer it."""

    request: _RequestId


_SUBMITTED_ID = msgspec.msgpack.Decoder(_SubmittedId)


class EnginePort:
    """An engine that speaks in messages. Used by one thread.

    Args:
        say: takes the engine's messages, in order.
    """

    def __init__(self, engine: Engine, say: Callable[[bytes], None]) -> None:
        self._engine = engine
        self._say = say

    def receive(self, data: bytes) -> None:
        """A client's message. A request that is refused becomes a Failed event; what is no
        message at all is dropped, and harms nobody."""
        try:
            message = decode_client_message(data)
        except (msgspec.DecodeError, OctavoError) as error:
            self._refuse(data, error)
            return
        if isinstance(message, Abort):
            self._tell(self._engine.abort(message.request_id, message.choice))
        elif isinstance(message, AskStats):
            self._say(encode(StatsReply(message.number, self._engine.stats())))
        else:
            try:
                self._engine.add(message.request)
            except OctavoError as error:
                self._tell([Failed.of(message.request.request_id, error)])

    def _refuse(self, data: bytes, error: Exception) -> None:
        """Tell whoever sent a broken message, if it says who that is."""
        logger.warning("a message was refused: %s", type(error).__name__)  # it may hold prompts
        try:
            request_id = _SUBMITTED_ID.decode(data).request.request_id
        except msgspec.DecodeError:
            return
        refusal = error if isinstance(error, OctavoError) else InvalidRequest(str(error))
        self._tell([Failed.of(request_id, refusal)])

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    def step(self) -> float | None:
        """One step of the engine. Seconds to wait before the next if nothing could be done, and
        there is nothing to say: a batch is being waited for.

        Raises:
            EngineDead: the backend failed as a whole.
        """
        events = self._engine.step()
        if not events:
            return self._engine.idle_s()
        self._say(encode(Events(events)))
        return None

    def close(self) -> None:
        """Wait for steps in flight; drop them."""
        self._engine.close()

    def _tell(self, events: list[Event]) -> None:
        if events:
            self._say(encode(Events(events)))
