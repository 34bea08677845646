"""The matrices of a fused program in panels: one block of memory, packed, or read from the cache.

Matrices that are multiplied together lie together from the start. How products use panels is the
business of ``native_layout``; what a panel is, of ``weights/formats.py``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octavo._native import Products
from octavo.backends.base import WeightSource
from octavo.backends.memory import zeroed_bytes
from octavo.core.errors import ModelError
from octavo.program.fuse import Fused, Product
from octavo.program.ir import Embed, EmbedBy, Weight
from octavo.weights.formats import FORMATS, PANEL_COLUMNS
from octavo.weights.pack_cache import Blocked, PackCache
from octavo.weights.packed_file import BrokenOff, Contents

PACKER = "octavo panels 1"
"""Raised by every change of the bytes of a panel, or of the order of panels."""
BLOCK_BYTES = 16 * 2**20
"""Of float32: what is packed at once. What loading takes above the result."""
QUIET_S = 1.0
LONGEST_WAIT_S = 60.0
_POLL_S = 0.1
PATIENCE_S = 0.5
"""Of whoever waits without knowing for what."""

U8 = NDArray[np.uint8]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices that are multiplied with together, in the order of their panels."""

    weights: tuple[Weight, ...]
    takes_turns: bool = False
    """A panel of each in turn, not all panels of each; there are two then."""

    @classmethod
    def of(cls, product: Product) -> Stack:
        """Those of a product."""
        weights = tuple(part.weight for part in product.parts)
        return cls(weights, takes_turns=product.gate is not None)


class PackedWeights:
    """Packs, or reads, everything when it is made.

    Args:
        recipe: names what decides ``formats``.
        cache: None: always pack.
        num_threads: for reading from the cache.

    Raises:
        ModelError: a weight cannot be loaded, or is NaN or infinite.
    """

    def __init__(
        self,
        fused: Fused,
        source: WeightSource,
        packer: Products,
        formats: dict[Weight, str],
        recipe: str,
        cache: PackCache | None,
        num_threads: int,
    ) -> None:
        self._formats = formats
        self._views: dict[Stack, tuple[int, int, int]] = {}  # begin, panels, bytes of a panel
        self.num_bytes = 0
        for stack in dict.fromkeys(_stacks(fused, formats)):  # a tied head is one with the table
            shapes = [FORMATS[formats[weight]].shape(*weight.shape) for weight in stack.weights]
            num_panels, panel_bytes = sum(panels for panels, _ in shapes), shapes[0][1]
            self._views[stack] = self.num_bytes, num_panels, panel_bytes
            self.num_bytes += num_panels * panel_bytes
        self._memory = zeroed_bytes(self.num_bytes)
        self._wanted = self._contents(source, recipe, cache)
        self._cache = cache
        self._source = source
        found = None
        if cache is not None and self._wanted is not None:
            try:
                found = cache.load(self._wanted, self._memory, num_threads)
            except Blocked as error:
                logger.warning("%s", error)
                self._cache = None  # whoever was told that is not told again that it was so
        self.from_cache = found is not None
        self.fingerprint = None if found is None else found.fingerprint
        """Of the source, if the cache knows it, or if somebody told; it is kept with the rest."""
        self._is_kept = self.fingerprint is not None  # with all there is to know
        self.num_steps = 0
        """Counted by whoever computes with the weights."""
        self._is_closed = False
        if found is None:
            for stack in self._views:
                _pack(stack, formats, source, packer, self.panels(stack))

    def panels(self, stack: Stack) -> U8:
        """(panels, bytes of one), a view; every panel begins at a multiple of 64."""
        begin, num_panels, panel_bytes = self._views[stack]
        block: U8 = self._memory[begin : begin + num_panels * panel_bytes]
        return block.reshape(num_panels, panel_bytes)

    def keep(self) -> bool:
        """Write them to the cache, for the next start; False: there is no need.

        Begins once nobody waits for an answer: QUIET_S after the last step, or after
        LONGEST_WAIT_S at the latest. :meth:`close` and the end of the process, which waits for it,
        make it begin at once, whether there was a step or not.
        """
        if self._cache is None or self._wanted is None or self._is_kept:
            return False
        _Writer(self, self._cache, self._wanted).start()
        return True

    def close(self) -> None:
        """Nobody computes with them any more: they are held for as long as writing them takes.

        Returns at once. A file that is being written is finished, unless it is broken off.
        """
        self._is_closed = True  # no event: garbage is collected wherever locks are held

    def _write(self, writer: _Writer, cache: PackCache, wanted: Contents) -> None:
        _wait_until_quiet(lambda: self.num_steps, lambda: self._is_closed or writer.is_hurried)
        if self.from_cache and self.fingerprint is None:
            return  # still nobody has asked for it
        identity = self._source.identity()
        if identity is None or identity.state != wanted.state:
            return  # the files changed: which numbers were packed, nobody knows
        kept = replace(wanted, fingerprint=self.fingerprint)
        try:
            if not cache.store(kept, self._memory, lambda: not writer.is_broken_off):
                logger.info("the packed weights of %s are too large to be kept", wanted.place)
        except BrokenOff:
            logger.info("the packed weights of %s are not kept: interrupted", wanted.place)
        except OSError as error:
            logger.warning(
                "the packed weights of %s are not kept (%s), and are packed anew at each start; %s",
                *(wanted.place, error.strerror or error, cache.advice(error)),
            )

    def _contents(
        self, source: WeightSource, recipe: str, cache: PackCache | None
    ) -> Contents | None:
        """What the cache is asked for; None: nothing."""
        if cache is None or not cache.wants(self.num_bytes):
            return None
        identity = source.identity()
        if identity is None:
            return None
        arrays = tuple(
            f"{self._formats[stack.weights[0]]} {'/' if stack.takes_turns else '+'}"
            f" {num_panels}x{panel_bytes} {' '.join(map(_described, stack.weights))}"
            for stack, (_, num_panels, panel_bytes) in self._views.items()
        )
        return Contents(identity.place, identity.state, recipe, PACKER, arrays, None)


class _Writer(threading.Thread):
    """Writes weights to the cache when nobody waits.

    No daemon: a command that ends with its first answer leaves packed weights too.
    """

    def __init__(self, weights: PackedWeights, cache: PackCache, wanted: Contents) -> None:
        super().__init__(name="octavo-pack-cache")
        self._work: tuple[PackedWeights, PackCache, Contents] | None = weights, cache, wanted
        self.is_hurried = False
        self.is_broken_off = False
        # Not join(): Python takes a thread for ended if an interrupt comes while it is joined.
        self.ended = threading.Event()

    def run(self) -> None:
        assert self._work is not None
        weights, cache, wanted = self._work
        self._work = None  # whoever keeps the thread keeps no weights
        try:
            weights._write(self, cache, wanted)
        finally:
            self.ended.set()


def finish_writing(say: Callable[[], None]) -> None:
    """Wait until all that this process keeps is written: for the main thread, at its end.

    Args:
        say: called if it takes longer than PATIENCE_S.

    Raises:
        KeyboardInterrupt: the user did not want to wait; see :func:`break_off_writing`.
    """
    writers = _writers()
    for writer in writers:
        writer.is_hurried = True
    deadline_s = time.monotonic() + PATIENCE_S
    for writer in writers:
        writer.ended.wait(max(0.0, deadline_s - time.monotonic()))
    if not all(writer.ended.is_set() for writer in writers):
        say()
    for writer in writers:
        writer.ended.wait()


def break_off_writing() -> None:
    """Give up what is being written; nothing of it stays on the disk."""
    writers = _writers()
    for writer in writers:
        writer.is_hurried = writer.is_broken_off = True
    with contextlib.suppress(KeyboardInterrupt):  # the end of the process waits for them too
        for writer in writers:
            writer.ended.wait()


def _writers() -> list[_Writer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, _Writer)]


def _stacks(fused: Fused, formats: dict[Weight, str]) -> Iterator[Stack]:
    """In the order in which they are used."""
    for _, operation in fused.operations:
        if isinstance(operation, Product):
            yield Stack.of(operation)
        elif isinstance(operation, Embed) and embeds_panels(operation, formats):
            yield Stack((operation.table,))


def embeds_panels(operation: Embed, formats: dict[Weight, str]) -> bool:
    """Whether rows are looked up in panels, not in float32."""
    return operation.by is not EmbedBy.POSITION and formats.get(operation.table, "f32") != "f32"


def _described(weight: Weight) -> str:
    rows = f"[{weight.first_row}:{weight.first_row + weight.shape[0]}]"
    return f"{weight.tensor}{'.T' if weight.transposed else ''}{rows}{weight.shape}"


def _pack(
    stack: Stack,
    formats: dict[Weight, str],
    source: WeightSource,
    packer: Products,
    panels: U8,
) -> None:
    first = 0
    for index, weight in enumerate(stack.weights):
        form = FORMATS[formats[weight]]
        num_panels, panel_bytes = form.shape(*weight.shape)
        num_rows, depth = weight.shape
        block = max(1, BLOCK_BYTES // (4 * depth * PANEL_COLUMNS))
        scratch = zeroed_bytes(min(block, num_panels) * panel_bytes).reshape(-1, panel_bytes)
        for begin in range(0, num_panels, block):
            end = min(begin + block, num_panels)
            # A mapping, gone again after the call.
            rows = source.load_rows(
                weight, begin * PANEL_COLUMNS, min(end * PANEL_COLUMNS, num_rows)
            )
            straight = not stack.takes_turns
            target = panels[first + begin : first + end] if straight else scratch[: end - begin]
            if not packer.pack(form.name, rows, target):
                raise ModelError(
                    f"tensor {weight.tensor!r} holds NaN or infinity",
                    hint="the checkpoint is damaged; fetch it again",
                )
            if not straight:
                panels[index::2][begin:end] = target
        first += num_panels


def _wait_until_quiet(steps: Callable[[], int], is_closed: Callable[[], bool]) -> None:
    """Until none was computed for QUIET_S after the first, or none will be, or the process ends.

    Whoever is never quiet, or never starts, is waited for LONGEST_WAIT_S.
    """
    started = changed = time.monotonic()
    seen = steps()
    while threading.main_thread().is_alive() and not is_closed():
        time.sleep(_POLL_S)
        now = time.monotonic()
        if steps() != seen:
            seen, changed = steps(), now
        is_quiet = seen > 0 and now - changed >= QUIET_S
        if is_quiet or now - started >= LONGEST_WAIT_S:
            return
