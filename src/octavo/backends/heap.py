"""Keeping freed memory: what one step of NumPy arrays gives back, the next one needs again.

The GNU C library returns the top of the heap to the system whenever enough of it is free, and takes
large arrays from the system one by one. A backend that makes its values anew in every step then
spends half of its time on page faults.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 64 << 20
_LARGEST_KEPT_BYTES = 32 << 20  # the most that the library accepts


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed memory; whether that was possible.

    It is a setting of the whole process. Where the user has settings of their own (``MALLOC_...``
    or ``GLIBC_TUNABLES`` in the environment), and on other C libraries, nothing is changed.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {
        _M_TRIM_THRESHOLD: _KEPT_BYTES,
        _M_TOP_PAD: _PAD_BYTES,
        _M_MMAP_THRESHOLD: _LARGEST_KEPT_BYTES,
    }
    taken = [mallopt(name, size) for name, size in settings.items()]  # all, also after a refusal
    return all(taken)
