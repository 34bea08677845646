"""From an application to a process that listens: sockets, signals, the way to stop."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from octavo.core.errors import ConfigError
from octavo.runtime.async_client import AsyncClient
from octavo.server.app import ServerApp, create_app
from octavo.server.protocol import make_protocol
from octavo.server.settings import ServerSettings

KEEP_ALIVE_S = 30
_SHUTDOWN_EXTRA_S = 5
_BACKLOG = 2048
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class AddressInUse(ConfigError):
    """Somebody listens there already."""

    code = "address_in_use"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        AddressInUse: another process has the port.
        ConfigError: there is no such address, or it may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} is not an address: {error.strerror}", hint="try --host 127.0.0.1"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} of {host} is in use",
                hint="stop the other server, choose another --port, or let --port 0 choose one",
            ) from error
        hint = "ports below 1024 need a privilege" if error.errno == errno.EACCES else None
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", hint=hint) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    clients: Mapping[str, AsyncClient],
    settings: ServerSettings,
    listener: socket.socket,
    *,
    ready: Callable[[], None],
) -> bool:
    """Serve until SIGTERM or SIGINT: then take nothing new and finish what is under way. A second
    signal, or the end of the time for that, cuts it off; a third one ends the process.

    Args:
        clients: closed at the end.
        ready: called once requests are served.

    Returns whether everything was finished.
    """
    app = create_app(clients, settings)
    server = _Server(_uvicorn_config(app, settings), ready)
    signals = _Signals()
    with signals.caught():
        async with app.running():
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await _first_of(serving, signals.first.wait())
            finally:  # also when it is cancelled
                app.drain()
                server.should_exit = True
            timeout_s = settings.drain_timeout_s
            await _first_of(serving, signals.second.wait(), timeout_s=timeout_s)
            is_clean = serving.done()
            for client in clients.values():
                await client.close()  # fails what is left, so that streams end with an error
            await serving
    return is_clean


def _uvicorn_config(app: ServerApp, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=make_protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + _SHUTDOWN_EXTRA_S,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it is ready, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Signals:
    """Counts signals to stop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    @contextmanager
    def caught(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._take)
        try:
            yield
        finally:
            self._let_go()

    def _take(self) -> None:
        if self.first.is_set():
            self.second.set()
            self._let_go()
        self.first.set()

    def _let_go(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _first_of(
    task: asyncio.Task[None], event: Coroutine[Any, Any, Any], *, timeout_s: float | None = None
) -> None:
    """Until the task is done, the event happens, or the time is over."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait((task, waiting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
