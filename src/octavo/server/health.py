"""Whether a server can do its work: its engines live, and make steps while there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from starlette.types import Receive, Scope, Send

from octavo.core.clock import Clock
from octavo.core.errors import EngineDead
from octavo.engine.engine import EngineStats
from octavo.runtime.async_client import AsyncClient
from octavo.server.errors import NotReady
from octavo.server.respond import responder_of

_OK = msgspec.json.encode({"status": "ok"})


class EngineWatch:
    """Looks at one engine from time to time.

    Args:
        stall_s: work without a step for so long is a stall.
    """

    def __init__(self, client: AsyncClient, clock: Clock, *, stall_s: float) -> None:
        self._client = client
        self._clock = clock
        self._stall_s = stall_s
        self._progress_s = clock()  # when it was last seen to advance, or to have nothing to do
        self.last_stats: EngineStats | None = None

    async def look(self) -> EngineStats:
        """Ask for the counters, which an engine tells between two steps. Raises EngineDead."""
        if not self._client.num_live:
            self._progress_s = self._clock()
        stats = await self._client.stats()
        if self.last_stats is None or stats.steps > self.last_stats.steps:
            self._progress_s = self._clock()
        self.last_stats = stats
        return stats

    def fault(self) -> str | None:
        """Why the engine is of no use at the moment, if it is not."""
        if self._client.death is not None:
            return self._client.death.message
        still_s = self._clock() - self._progress_s
        if self._client.num_live and still_s > self._stall_s:
            return f"the engine has work and made no step for {still_s:.0f} seconds"
        return None


async def keep_watch(
    watches: list[EngineWatch], *, interval_s: float, late: Callable[[float], None]
) -> None:
    """Look at all engines again and again; tells by how much the event loop is late."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for watch in watches:
            group.create_task(_watch(watch, interval_s))
        while True:
            due_s = loop.time() + interval_s
            await asyncio.sleep(interval_s)
            late(max(0.0, loop.time() - due_s))


async def _watch(watch: EngineWatch, interval_s: float) -> None:
    try:
        while True:
            await watch.look()
            await asyncio.sleep(interval_s)
    except EngineDead:
        return  # the client remembers


class LiveEndpoint:
    """``GET /livez``: the event loop turns."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await responder_of(scope).whole(200, _OK)


class ReadyEndpoint:
    """``GET /readyz``: new requests are served.

    Args:
        fault: why they would not be, if they would not.
    """

    def __init__(self, fault: Callable[[], str | None]) -> None:
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault()
        if fault is not None:
            raise NotReady(fault)
        await responder_of(scope).whole(200, _OK)
