"""Ctrl-C that waits until it does no harm: an engine is as usable after it as before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


class Interrupts:
    """SIGINT, held back over blocks of code, and dealt with afterwards by whatever did before.

    Only the main thread handles signals; in others nothing is held, and nothing needs to be.
    """

    def __init__(self) -> None:
        self._handler: Handler | None = None  # who deals with them when they are not held
        self._came: list[tuple[int, FrameType | None]] = []

    @property
    def are_held(self) -> bool:
        """Whether the main thread is in such a block."""
        return self._handler is not None

    @contextmanager
    def held(self) -> Iterator[None]:
        """What comes in here is dealt with after it. Within another such block it does nothing.

        Entering and leaving cost two system calls and more: whoever has many steps to make puts
        one block around them all, and calls ``deliver`` between them.
        """
        handler = signal.getsignal(signal.SIGINT)
        if self.are_held or not callable(handler) or not _is_main_thread():
            yield
            return
        self._take_over(handler)
        try:
            yield
        finally:
            self._give_back(handler)

    def deliver(self) -> None:
        """Deal with what came so far. Raises what the handler raises: KeyboardInterrupt."""
        if self._came and self._handler is not None and _is_main_thread():
            self._deal(self._handler)

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Nothing is held in here, whatever it stands in: for waiting."""
        handler = self._handler
        if handler is None or not _is_main_thread():
            yield
            return
        self._give_back(handler)
        try:
            yield
        finally:
            self._take_over(handler)

    # Between these two whatever comes is only noted: nothing is raised where it would do harm.

    def _take_over(self, handler: Handler) -> None:
        signal.signal(signal.SIGINT, self._note)
        self._handler = handler

    def _give_back(self, handler: Handler) -> None:
        self._handler = None
        signal.signal(signal.SIGINT, handler)
        if self._came:
            self._deal(handler)

    def _deal(self, handler: Handler) -> None:
        """However often it came, once."""
        came = self._came[-1]
        self._came.clear()
        handler(*came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
