"""The asynchronous front door: answers as they come, for servers and for asyncio programs.

The engine steps on a thread of its own; the event loop only turns ids into text. An answer that
nobody reads any more is aborted.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from octavo.core.config import EngineConfig
from octavo.core.errors import EngineDead, OctavoError
from octavo.core.events import Event
from octavo.core.request import Priority, Request, SamplingParams
from octavo.engine.engine import EngineStats
from octavo.engine.load import LoadedEngine, load_engine
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve
from octavo.runtime.codec import Abort, AskStats, Events, Submit, decode_engine_message, encode
from octavo.runtime.engine_thread import EngineThread
from octavo.runtime.model_text import EncodedPrompt, ModelText
from octavo.runtime.outputs import ChoiceDelta, OutputAssembler, RequestOutput
from octavo.runtime.routes import Routes


class AnswerReader:
    """Keeps the deltas of one answer, and wakes whoever waits for them."""

    __slots__ = ("assembler", "deltas", "news")

    def __init__(self, assembler: OutputAssembler) -> None:
        self.assembler = assembler
        self.deltas: deque[ChoiceDelta] = deque()
        self.news = asyncio.Event()

    def take(self, event: Event) -> list[int]:
        delta = self.assembler.apply(event)
        if delta is not None:
            self.deltas.append(delta)
        if delta is not None or self.assembler.finished:
            self.news.set()
        return self.assembler.take_aborts()

    def fail(self, request_id: str, error: OctavoError) -> None:
        self.assembler.fail(error)
        self.news.set()


class Answer:
    """One request on its way: an asynchronous iterator of deltas.

    Leaving it before its end aborts the request and ends the iteration: by ``aclose``, by the end
    of ``async with``, or by letting go of it.

    Args:
        reader: what the routes know; they do not know the answer, so that it can be let go of.
    """

    def __init__(self, reader: AnswerReader, routes: Routes) -> None:
        self._reader = reader
        self._routes = routes
        self._closed = False

    @property
    def request(self) -> Request:
        """As it was submitted, its seed fixed."""
        return self._reader.assembler.request

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def __aiter__(self) -> AsyncIterator[ChoiceDelta]:
        return self

    async def __anext__(self) -> ChoiceDelta:
        """The next delta.

        Raises:
            OctavoError: the request was refused, or failed on the way.
        """
        reader = self._reader
        while not reader.deltas:
            if reader.assembler.error is not None:
                raise reader.assembler.error
            if self._closed or reader.assembler.finished:
                raise StopAsyncIteration
            reader.news.clear()
            await reader.news.wait()
        return reader.deltas.popleft()

    async def output(self) -> RequestOutput:
        """Everything, once it is finished. Raises as the iteration does."""
        async for _ in self:
            pass
        return self.so_far()

    def so_far(self) -> RequestOutput:
        """Everything known by now."""
        return self._reader.assembler.output()

    async def aclose(self) -> None:
        """Nobody reads it any more."""
        was_open, self._closed = self._is_open, True
        self._reader.deltas.clear()
        self._reader.news.set()
        if was_open:
            self._routes.close(self.request_id)

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._is_open:
            self._routes.abandon(self.request_id)  # the collector may run anywhere

    @property
    def _is_open(self) -> bool:
        """Whether its id is still its own: afterwards another request may have it."""
        return not (self._closed or self._reader.assembler.finished)


class AsyncClient:
    """A model that answers an event loop; used by that loop's thread only.

    Args:
        loaded: an engine; from now on it belongs to the client's thread.
        text: the model's text side.
        on_death: called once on the event loop when the engine died.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        text: ModelText,
        *,
        on_death: Callable[[EngineDead], None] | None = None,
    ) -> None:
        self.text = text
        self.spec = loaded.spec
        self.max_model_len = loaded.max_model_len
        self.num_pages = loaded.num_pages
        self.death: EngineDead | None = None
        self._on_death = on_death
        self._routes = Routes(
            lambda request: self._thread.send(encode(Submit(request))), self._send_abort
        )
        self._replies: dict[int, asyncio.Future[EngineStats]] = {}
        self._numbers = itertools.count()
        loop = asyncio.get_running_loop()
        self._thread = EngineThread(
            loaded.engine,
            deliver=lambda data: _call_soon(loop, self._on_message, data),
            died=lambda error: _call_soon(loop, self._die, error),
        )
        # A program that ends without closing its client still ends the thread in good order.
        self._at_exit = weakref.finalize(self, self._thread.close)

    @classmethod
    async def load(
        cls,
        model: str | Path = BUILTIN,
        *,
        tokenizer: str | Path | None = None,
        **options: Any,
    ) -> AsyncClient:
        """Load a model off the event loop. Arguments and errors as those of ``LLM``."""
        config = EngineConfig.from_options(options)

        def read() -> tuple[LoadedEngine, ModelText]:
            folder = resolve(model, weights=config.load_format != "dummy")
            return load_engine(folder, config), ModelText.load(folder, tokenizer)

        return cls(*await asyncio.to_thread(read))

    def start(
        self,
        prompt: EncodedPrompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
        deadline_s: float | None = None,
    ) -> Answer:
        """Submit a request at once; what becomes of it, a refusal too, is told by the answer.

        Raises:
            InvalidRequest: a value that no engine could take, an id that is in use, or stop
                strings without a tokeniser.
            EngineDead: the engine is gone.
        """
        if self.death is not None:
            raise self.death
        assembler = self.text.assembler(
            prompt,
            params,
            request_id=request_id or f"request-{next(self._numbers)}",
            priority=priority,
            tenant=tenant,
            deadline_s=deadline_s,
        )
        reader = AnswerReader(assembler)
        self._routes.open(assembler.request, reader)
        return Answer(reader, self._routes)

    @property
    def num_live(self) -> int:
        """Requests that are not finished."""
        return len(self._routes)

    async def stats(self) -> EngineStats:
        """The engine's counters, between two of its steps. Raises EngineDead."""
        if self.death is not None:
            raise self.death
        self._routes.close_abandoned()  # does not count
        number = next(self._numbers)
        reply: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        self._thread.send(encode(AskStats(number)))
        return await reply

    async def close(self) -> None:
        """Stop the engine after its current step; what is not finished fails."""
        self._at_exit.detach()
        try:
            await asyncio.shield(asyncio.to_thread(self._thread.close))
        finally:  # also when whoever closes it is cancelled
            if self.death is None:
                self._end(EngineDead("the engine was closed"))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _send_abort(self, request_id: str, choice: int | None) -> None:
        if self.death is None:
            self._thread.send(encode(Abort(request_id, choice)))

    def _on_message(self, data: bytes) -> None:
        message = decode_engine_message(data)
        if isinstance(message, Events):
            self._routes.dispatch(message.events)
            return
        reply = self._replies.pop(message.number)
        if not reply.done():  # whoever asked may have gone
            reply.set_result(message.stats)

    def _die(self, error: EngineDead) -> None:
        if self.death is None:
            self._end(error)
            if self._on_death is not None:
                self._on_death(error)

    def _end(self, error: EngineDead) -> None:
        self.death = error
        self._routes.fail_all(error)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)
        self._replies.clear()


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object
) -> None:
    """From the engine's thread; a loop that is closed has nobody left who listens."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *arguments)
