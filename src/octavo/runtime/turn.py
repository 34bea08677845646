"""Whose turn it is: one thread at a time, of one process."""

from __future__ import annotations

import os
import threading

from octavo.core.errors import Misuse


class Turn:
    """Lets one thread in at a time, of the process in which it was made, until it is closed.

    Taken only where interrupts are held: one that is raised at the entry or the exit would leave
    it locked for ever.
    """

    def __init__(self) -> None:
        self.closed = False
        self._process_id = os.getpid()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if self.closed:
            raise Misuse("the engine was closed", hint="make a new one")
        if os.getpid() != self._process_id:
            raise Misuse(
                "the engine belongs to another process, and its threads did not come along",
                hint="load the model after the fork",
            )
        if not self._lock.acquire(blocking=False):
            raise Misuse(
                "another thread is using the engine",
                hint="use an AsyncClient, or a lock of your own",
            )

    def __exit__(self, *error: object) -> None:
        self._lock.release()
