"""Readers of a client that waits: the answers of a whole batch, and one answer as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from octavo.core.errors import OctavoError
from octavo.core.events import Event, Token
from octavo.runtime.outputs import ChoiceDelta, OutputAssembler, RequestOutput
from octavo.runtime.routes import Routes

MOST_UNREAD = 64
"""Tokens of a request that a collector keeps as they came."""


@dataclass(slots=True)
class Work:
    """How far a batch of requests is; counted as it goes, whatever its size."""

    num_finished: int = 0
    num_tokens: int = 0


class Collector:
    """Waits for the whole answer of one request.

    Nobody sees it before it is whole, so that its tokens are read many at once: read step by step,
    each would find the code that reads it put out of the processor's caches by the model's weights.
    Only stop strings are looked for in every token as it comes: they end the work, too.
    """

    __slots__ = ("_most_unread", "_unread", "_work", "assembler")

    def __init__(self, assembler: OutputAssembler, work: Work) -> None:
        self.assembler = assembler
        self._work = work
        self._unread: list[Token] = []
        self._most_unread = 1 if assembler.request.params.stop else MOST_UNREAD

    def take(self, event: Event) -> Iterable[int]:
        if isinstance(event, Token):  # ends nothing: the engine has not accounted for it
            self._work.num_tokens += 1
            self._unread.append(event)
            if len(self._unread) < self._most_unread:
                return ()
            self._read()
        else:
            self._read()
            self.assembler.apply(event)
            self._work.num_finished += self.assembler.finished
        return self.assembler.take_aborts()

    def fail(self, request_id: str, error: OctavoError) -> None:
        self._read()
        self._work.num_finished += not self.assembler.finished
        self.assembler.fail(error)

    def _read(self) -> None:
        unread, self._unread = self._unread, []  # first: what cannot be read is not tried again
        self.assembler.apply_tokens(unread)


class StreamReader:
    """Keeps the pieces of one answer until somebody takes them."""

    __slots__ = ("assembler", "deltas")

    def __init__(self, assembler: OutputAssembler) -> None:
        self.assembler = assembler
        self.deltas: deque[ChoiceDelta] = deque()

    def take(self, event: Event) -> list[int]:
        delta = self.assembler.apply(event)
        if delta is not None:
            self.deltas.append(delta)
        return self.assembler.take_aborts()

    def fail(self, request_id: str, error: OctavoError) -> None:
        self.assembler.fail(error)


class AnswerStream(Iterator[ChoiceDelta]):
    """One answer, piece by piece. Closing it, or letting go of it, aborts the request.

    Args:
        reader: what the routes know; they do not know the stream, so that it can be let go of.
        pump: lets the engine work until something is known; raises when nothing more will come.
        routes: where its request is open.
    """

    def __init__(self, reader: StreamReader, *, pump: Callable[[], None], routes: Routes) -> None:
        self._reader = reader
        self._pump = pump
        self._routes = routes
        self._closed = False

    @property
    def request_id(self) -> str:
        return self._reader.assembler.request.request_id

    def __next__(self) -> ChoiceDelta:
        """The next piece. Raises OctavoError when the request failed on the way."""
        deltas, assembler = self._reader.deltas, self._reader.assembler
        while not deltas:
            if assembler.error is not None:
                raise assembler.error
            if self._closed or assembler.finished:
                raise StopIteration
            self._pump()
        return deltas.popleft()

    def so_far(self) -> RequestOutput:
        """Everything known by now."""
        return self._reader.assembler.output()

    def close(self) -> None:
        """Nobody reads it any more."""
        self._closed = True
        self._reader.deltas.clear()
        self._routes.close(self.request_id)

    def __del__(self) -> None:
        self._routes.abandon(self.request_id)  # the collector may run in the middle of a step
