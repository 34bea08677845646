"""An engine that steps on a thread of its own, so that an event loop stays free.

Messages go in from any thread; what the engine has to say is handed, on the engine's thread, to
one function. Nothing else crosses between the two.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from enum import Enum

from octavo.core.errors import EngineDead
from octavo.engine.engine import Engine
from octavo.runtime.port import EnginePort


class _Signal(Enum):
    CLOSE = "close"


class EngineThread:
    """Runs an engine until it is closed or dies.

    Args:
        deliver: takes messages, in order; must not block.
        died: takes the reason when the backend failed as a whole; nothing comes after that.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        deliver: Callable[[bytes], None],
        died: Callable[[EngineDead], None],
    ) -> None:
        self._port = EnginePort(engine, deliver)
        self._died = died
        self._inbox: queue.SimpleQueue[bytes | _Signal] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="octavo-engine", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        """A client's message, from any thread; never blocks."""
        self._inbox.put(data)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop after the current step and wait for that; requests in flight are dropped."""
        self._inbox.put(_Signal.CLOSE)
        self._thread.join()

    def _run(self) -> None:
        try:
            wait_s: float | None = None
            while self._receive(wait_s):
                wait_s = self._port.step() if self._port.has_work else None
        except EngineDead as error:
            self._died(error)
        except Exception as error:  # a bug between engine and client is as deadly
            self._died(EngineDead(f"the engine's thread failed: {error!r}"))
        finally:
            self._port.close()

    def _receive(self, wait_s: float | None) -> bool:
        """Take in what has arrived, waiting if there is nothing to do; False when closed."""
        wait = not self._port.has_work or bool(wait_s)
        while True:
            try:
                message = self._inbox.get(block=wait, timeout=wait_s if wait else None)
            except queue.Empty:
                return True
            if isinstance(message, _Signal):
                return False
            self._port.receive(message)
            wait = False
