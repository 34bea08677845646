"""Ctrl-C that waits until it does no harm: an engine is as usable after it as before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

    @property
    def have_come(self) -> bool:
        """Whether one waits for the end of the block, or for ``deliver``."""
        return self._handler is not None and bool(self._came)

    def held(self) -> AbstractContextManager[None]:
        """What comes in here is dealt with after it. Within another such block it does nothing.

        Entering and leaving cost two system calls and more: whoever has many steps to make puts
        one block around them all, and calls ``deliver`` between them.
        """
        if self.are_held or not _is_main_thread():
            return nullcontext()
        return self._hold()

    def deliver(self) -> None:
        """Deal with what came so far. Raises what the handler raises: KeyboardInterrupt."""
        if self._came and self.have_come and _is_main_thread():
            with self.let_through():
                pass

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Nothing is held in here, whatever it stands in: for waiting."""
        if not self.are_held or not _is_main_thread():
            yield
            return
        try:
            self._give_back()
            yield
        finally:
            self._take_over()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        try:
            self._take_over()
            yield
        finally:
            self._give_back()

    # Between these two whatever comes is only noted: nothing is raised where it would do harm.

    def _take_over(self) -> None:
        """From whoever deals with them now: a handler may have put another one in its place."""
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            self._came = []
            self._handler = handler
            signal.signal(signal.SIGINT, self._note)

    def _give_back(self) -> None:
        """And deal with what came: however often it did, once."""
        handler, self._handler = self._handler, None
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
            # Another one may raise here. What came before is then forgotten with the list, which
            # the next block does not inherit.
            if self._came:
                handler(*self._came[-1])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
