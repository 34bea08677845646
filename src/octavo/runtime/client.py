"""How everything above speaks to an engine: submit, events, abort, stats.

A request that the engine refuses is told like one that fails later, by a Failed event: over a
socket there is no other way, and in process it is the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Protocol

from octavo.core.events import Event
from octavo.core.request import Request
from octavo.engine.engine import Engine, EngineStats
from octavo.runtime.codec import (
    Abort,
    AskStats,
    Events,
    Submit,
    decode_engine_message,
    encode,
)
from octavo.runtime.port import EnginePort


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
        self._port = EnginePort(engine)
        self._sleep = sleep
        self._events: list[Event] = []
        self._replies: dict[int, EngineStats] = {}
        self._numbers = itertools.count()

    def submit(self, request: Request) -> None:
        self._port.receive(encode(Submit(request)))

    def abort(self, request_id: str, choice: int | None = None) -> None:
        self._port.receive(encode(Abort(request_id, choice)))

    def poll(self) -> list[Event]:
        self._read()
        events, self._events = self._events, []
        return events

    def events(self) -> list[Event]:
        self._read()
        while not self._events and self._port.has_work:
            wait_s = self._port.step()
            if wait_s:
                self._sleep(wait_s)
            self._read()
        return self.poll()

    def stats(self) -> EngineStats:
        number = next(self._numbers)
        self._port.receive(encode(AskStats(number)))
        self._read()
        return self._replies.pop(number)

    def close(self) -> None:
        self._port.close()

    def _read(self) -> None:
        for data in self._port.take():
            message = decode_engine_message(data)
            if isinstance(message, Events):
                self._events.extend(message.events)
            else:
                self._replies[message.number] = message.stats
