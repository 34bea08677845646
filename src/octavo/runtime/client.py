"""How everything above speaks to an engine: submit, events, abort, stats.

A request that the engine refuses is told like one that fails later, by a Failed event: over a
socket there is no other way, and in process it is the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from octavo.runtime.interrupts import Interrupts
from octavo.runtime.port import EnginePort
from octavo.runtime.turn import Turn


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

    Messages pass as bytes, as they would between processes. Ctrl-C waits for the end of a step, and
    of every other call, so that the engine is as usable afterwards as before. Every method raises
    Misuse after ``close``, in another process, and while another thread is in one.
    """

    def __init__(self, engine: Engine, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.interrupts = Interrupts()
        """Held back in every call; by whoever makes many, over all of them."""
        self._port = EnginePort(engine, self._hear)
        self._sleep = sleep
        self._events: list[Event] = []
        self._replies: dict[int, EngineStats] = {}
        self._numbers = itertools.count()
        self._turn = Turn()

    def submit(self, request: Request) -> None:
        with self.interrupts.held(), self._turn:
            self._port.receive(encode(Submit(request)))

    def abort(self, request_id: str, choice: int | None = None) -> None:
        with self.interrupts.held(), self._turn:
            self._port.receive(encode(Abort(request_id, choice)))

    def poll(self) -> list[Event]:
        with self.interrupts.held(), self._turn:
            return self._take()

    def events(self) -> list[Event]:
        interrupts = self.interrupts
        are_held = interrupts.are_held  # by the caller, so that nothing is raised in here
        while True:
            with self._turn if are_held else self._alone():
                if self._events or not self._port.has_work:
                    return self._take()
                wait_s = self._port.step()
                # What is raised at the end of the block would lose them.
                if self._events and (are_held or not interrupts.have_come):
                    return self._take()
            interrupts.deliver()  # a long prompt makes many steps without events
            if wait_s:
                with interrupts.let_through():
                    self._sleep(wait_s)

    def stats(self) -> EngineStats:
        number = next(self._numbers)
        with self.interrupts.held(), self._turn:
            self._port.receive(encode(AskStats(number)))
            return self._replies.pop(number)

    def close(self) -> None:
        """Closing again does nothing."""
        if not self._turn.closed:
            with self.interrupts.held(), self._turn:
                self._port.close()
                self._turn.closed = True

    def _take(self) -> list[Event]:
        """What is known and was not told yet."""
        events, self._events = self._events, []
        return events

    def _hear(self, data: bytes) -> None:
        message = decode_engine_message(data)
        if isinstance(message, Events):
            self._events.extend(message.events)
        else:
            self._replies[message.number] = message.stats

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Interrupts are held, and it is our turn."""
        with self.interrupts.held(), self._turn:
            yield
