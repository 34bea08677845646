"""The server as one ASGI application, made from clients and settings; nothing is global."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.core.clock import Clock, monotonic
from octavo.core.errors import EngineDead
from octavo.engine.engine import EngineStats
from octavo.runtime.async_client import AsyncClient
from octavo.server.body import Readings
from octavo.server.endpoints import ChatEndpoint, CompletionEndpoint, ModelsEndpoint, Service
from octavo.server.gate import Gate
from octavo.server.health import EngineWatch, LiveEndpoint, ReadyEndpoint, keep_watch
from octavo.server.metrics import CONTENT_TYPE, ServerMetrics
from octavo.server.models import Models
from octavo.server.respond import responder_of
from octavo.server.settings import ServerSettings

STATS_TIMEOUT_S = 1.0
"""The metrics page waits no longer for an engine that is in the middle of a step."""


class ServerApp:
    """An ASGI application. ``running`` must be entered while it serves.

    Args:
        clients: models by the names under which they are served; whoever made them closes them.
        wall_clock: seconds since 1970, for the ``created`` of answers.
    """

    def __init__(
        self,
        clients: Mapping[str, AsyncClient],
        settings: ServerSettings,
        *,
        clock: Clock = monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._draining = False
        self._readings = Readings()
        models = Models(clients, int(wall_clock()))
        self._watches = {
            name: EngineWatch(client, clock, stall_s=settings.stall_s)
            for name, client in clients.items()
        }
        self._metrics = ServerMetrics(models, _PATHS)
        service = Service(models, settings, self._metrics, clock, wall_clock, self._readings)
        listing = ModelsEndpoint(service)
        endpoints: dict[str, tuple[str, ASGIApp]] = {
            "/livez": ("GET", LiveEndpoint()),
            "/readyz": ("GET", ReadyEndpoint(self.fault)),
            "/metrics": ("GET", MetricsEndpoint(self._metrics, self._watches)),
            "/v1/models": ("GET", listing),
            "/v1/models/{name:path}": ("GET", listing),
            "/v1/completions": ("POST", CompletionEndpoint(service)),
            "/v1/chat/completions": ("POST", ChatEndpoint(service)),
        }
        assert tuple(endpoints) == _PATHS
        router = Router(
            [
                Route(path, _Declared(path, endpoint), methods=[method])
                for path, (method, endpoint) in endpoints.items()
            ],
            redirect_slashes=False,
        )
        self._gate = Gate(
            router,
            settings,
            clock=clock,
            finished=self._metrics.count_request,
            is_draining=lambda: self._draining,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # so that the router raises instead of answering in its own words
        await self._gate(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps watch over the engines."""
        watch = asyncio.create_task(
            keep_watch(
                list(self._watches.values()),
                interval_s=self._settings.watch_interval_s,
                late=self._metrics.set_loop_lag,
            )
        )
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    def drain(self) -> None:
        """Take no new work from now on; what is under way goes on. Called on the event loop."""
        self._draining = True
        self._readings.end()

    def fault(self) -> str | None:
        """Why new requests would not be served, if they would not."""
        if self._draining:
            return "the server is about to stop"
        faults = {name: watch.fault() for name, watch in self._watches.items()}
        return next((f"{name}: {fault}" for name, fault in faults.items() if fault), None)


def create_app(clients: Mapping[str, AsyncClient], settings: ServerSettings) -> ServerApp:
    """A server of these models."""
    return ServerApp(clients, settings)


_PATHS = (
    "/livez",
    "/readyz",
    "/metrics",
    "/v1/models",
    "/v1/models/{name:path}",
    "/v1/completions",
    "/v1/chat/completions",
)


class _Declared:
    """An endpoint that notes its path in the request's record."""

    def __init__(self, path: str, endpoint: ASGIApp) -> None:
        self._path = path
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        responder_of(scope).record.route = self._path
        await self._endpoint(scope, receive, send)


class MetricsEndpoint:
    """``GET /metrics``."""

    def __init__(self, metrics: ServerMetrics, watches: Mapping[str, EngineWatch]) -> None:
        self._metrics = metrics
        self._watches = watches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = list(self._watches)
        answers = await asyncio.gather(*(_stats(self._watches[name]) for name in names))
        known = {name: one for name, one in zip(names, answers, strict=True) if one is not None}
        page = self._metrics.page(known)
        await responder_of(scope).whole(200, page, content_type=CONTENT_TYPE)


async def _stats(watch: EngineWatch) -> EngineStats | None:
    """The counters of now, or the last ones known."""
    try:
        async with asyncio.timeout(STATS_TIMEOUT_S):
            return await watch.look()
    except (TimeoutError, EngineDead):
        return watch.last_stats
