"""Large blocks of memory for weights and pages: aligned, zeroed, taken from the system as used."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

_HUGE_PAGE = 2 << 20


def zeroed_bytes(size: int) -> NDArray[np.uint8]:
    """``size`` bytes of zeros that begin at a multiple of 64; large ones in huge pages.

    Memory is taken when it is first written, and given back with the array.
    """
    if size < _HUGE_PAGE:
        block = np.zeros(size + 64, np.uint8)
        start = -block.ctypes.data % 64
        return block[start : start + size]
    mapped = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # only a wish
        mapped.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(mapped, np.uint8)
    start = -block.ctypes.data % _HUGE_PAGE
    return block[start : start + size]
