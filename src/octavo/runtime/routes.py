"""Which reader gets the events of which request, on the client's side of a connection.

A reader that fails over an event fails its own request only: the events of its neighbours, which
came in the same message, still reach them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from octavo.core.errors import (
    InvalidRequest,
    OctavoError,
    RequestFailed,
    traceback_without_values,
)
from octavo.core.events import Event, Failed, Finished, Token
from octavo.core.request import Request

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Whoever waits for what becomes of a request."""

    def take(self, event: Event) -> Iterable[int]:
        """An event of a request of this reader; choices that the engine is to abort."""

    def fail(self, request_id: str, error: OctavoError) -> None:
        """Nothing more will come of this request, and there is no event that says why."""


@dataclass(slots=True)
class _Route:
    reader: Reader
    choices_left: int


class Routes:
    """The open requests of one client. Used by one thread, ``abandon`` by any.

    Args:
        submit: hands a request to the engine. May raise, and then nothing was submitted.
        abort: tells the engine to end a request, or one of its choices.
    """

    def __init__(
        self, submit: Callable[[Request], None], abort: Callable[[str, int | None], None]
    ) -> None:
        self._submit = submit
        self._abort = abort
        self._routes: dict[str, _Route] = {}
        self._ends_to_come: dict[str, list[int]] = {}
        """Of each request that was closed, the ends that the engine is still to tell of, by id, the
        oldest first. Another request may have that id by then; what comes before these ends is not
        for it. The engine tells the end of every choice that it is given to compute, or one failure
        for all of them."""
        self._abandoned: deque[str] = deque()

    def __len__(self) -> int:
        """Requests of which something is still to come, and for which somebody waits."""
        return len(self._routes.keys() - set(self._abandoned))

    def open(self, request: Request, reader: Reader) -> None:
        """Submit a request; its events go to ``reader``.

        Raises:
            InvalidRequest: a request of that name is open.
        """
        self.close_abandoned()
        if request.request_id in self._routes:
            raise InvalidRequest(
                f"a request with id {request.request_id!r} is being served", param="request_id"
            )
        self._submit(request)
        finished = sum(known.finished for known in request.resume)
        self._routes[request.request_id] = _Route(reader, request.params.n - finished)

    def close(self, request_id: str) -> None:
        """Nobody waits for this request any more; one that is not open is ignored."""
        if request_id not in self._routes:
            return
        try:
            self._abort(request_id, None)  # first: an interrupt must not leave it running, unread
        finally:
            route = self._routes.pop(request_id, None)
            if route is not None:
                self._ends_to_come.setdefault(request_id, []).append(route.choices_left)

    def abandon(self, request_id: str) -> None:
        """``close``, when ``close_abandoned`` is called the next time; safe in a finaliser."""
        self._abandoned.append(request_id)

    def close_abandoned(self) -> None:
        """``dispatch`` ends with it: to be called when the program has run in between."""
        while self._abandoned:
            self.close(self._abandoned.popleft())

    def dispatch(self, events: Iterable[Event]) -> None:
        """Hand events to their readers; those of requests that were closed are dropped."""
        for event in events:
            request_id = event.request_id
            if request_id in self._ends_to_come:
                self._count_closed(event)
                continue
            route = self._routes.get(request_id)
            if route is None:
                continue
            if not isinstance(event, Token):  # which most are, and which end nothing
                self._count_end(event, route)
            try:
                aborts = route.reader.take(event)
            except Exception as error:
                self._fail(request_id, route, error)
                continue
            for choice in aborts:
                self._abort(request_id, choice)
        if self._abandoned:
            self.close_abandoned()

    def fail_all(self, error: OctavoError) -> None:
        """The connection is gone."""
        routes = list(self._routes.items())
        self._routes.clear()
        self._ends_to_come.clear()
        for request_id, route in routes:
            route.reader.fail(request_id, error)

    def _count_end(self, event: Event, route: _Route) -> None:
        route.choices_left -= isinstance(event, Finished)
        if isinstance(event, Failed) or not route.choices_left:
            del self._routes[event.request_id]

    def _count_closed(self, event: Event) -> None:
        """An event of the oldest request of its name that was closed."""
        ends = self._ends_to_come[event.request_id]
        if isinstance(event, Failed):
            ends[0] = 0
        else:
            ends[0] -= isinstance(event, Finished)
        if not ends[0]:
            del ends[0]
        if not ends:
            del self._ends_to_come[event.request_id]

    def _fail(self, request_id: str, route: _Route, error: Exception) -> None:
        logger.error(
            "reading the answer of %s failed: %s", request_id, traceback_without_values(error)
        )
        self.close(request_id)
        name = type(error).__name__
        route.reader.fail(request_id, RequestFailed(f"reading the answer failed: {name}"))
