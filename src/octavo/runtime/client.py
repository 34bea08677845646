"""How everything above speaks to an engine: submit, events, abort, stats.

A request that the engine refuses is told like one that fails later, by a Failed event: over a
socket there is no other way, and in process it is the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from octavo.core.errors import OctavoError
from octavo.core.events import Event, Failed
from octavo.core.request import Request
from octavo.engine.engine import Engine, EngineStats
from octavo.runtime.codec import Abort, Events, Submit, decode_client_message, decode_events, encode


class EngineClient(Protocol):
    """A connection to one engine."""

    def submit(self, request: Request) -> None:
        """Hand a request over; all that becomes of it is told by events."""

    def abort(self, request_id: str, choice: int | None = None) -> None:
        """End a request, or one of its choices; one that is unknown or finished is ignored."""

    def poll(self) -> list[Event]:
        """What is known already and was not told yet; never waits."""

    def events(self) -> list[Event]:
        """What became known since the last call; waits while there is work, [] when there is none.

        Raises:
            EngineDead: the engine is gone; requests in flight can be resumed on another one.
        """

    def stats(self) -> EngineStats: ...

    def close(self) -> None: ...


class InProcessClient:
    """An engine in this process and thread; ``events`` makes it step.

    Messages pass as bytes, as they would between processes.
    """

    def __init__(self, engine: Engine, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._engine = engine
        self._sleep = sleep
        self._outbox: deque[bytes] = deque()

    def submit(self, request: Request) -> None:
        self._receive(encode(Submit(request)))

    def abort(self, request_id: str, choice: int | None = None) -> None:
        self._receive(encode(Abort(request_id, choice)))

    def events(self) -> list[Event]:
        while not self._outbox and self._engine.has_work:
            self._send(self._engine.step())
            if not self._outbox:
                wakeup_s = self._engine.next_wakeup_s()
                if wakeup_s:
                    self._sleep(wakeup_s)
        return self.poll()

    def poll(self) -> list[Event]:
        events: list[Event] = []
        while self._outbox:
            events.extend(decode_events(self._outbox.popleft()).events)
        return events

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def close(self) -> None:
        self._engine.close()

    def _receive(self, data: bytes) -> None:
        """The engine's side of the connection."""
        message = decode_client_message(data)
        if isinstance(message, Abort):
            self._send(self._engine.abort(message.request_id, message.choice))
            return
        try:
            self._engine.add(message.request)
        except OctavoError as error:
            request_id = message.request.request_id
            self._send([Failed(request_id, error.code, error.message, error.hint)])

    def _send(self, events: list[Event]) -> None:
        if events:
            self._outbox.append(encode(Events(events)))
