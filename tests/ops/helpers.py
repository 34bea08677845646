"""Tools for tests of operations: comparing bits, awkward values, arrays beside protected pages."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
ArrayType = TypeVar("ArrayType", bound=NDArray[Any])

AWKWARD_VALUES = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        np.finfo(np.float32).max,
        np.finfo(np.float32).min,
        np.finfo(np.float32).tiny,
        -np.finfo(np.float32).tiny,
        np.finfo(np.float32).smallest_subnormal,
        -np.finfo(np.float32).smallest_subnormal,
        1e-40,
        -3e-42,
        1.0000001,
    ],
    np.float32,
)


def assert_same_bits(actual: F32, expected: F32) -> None:
    """Equal shapes and equal bits; two NaNs are equal whatever their payloads."""
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    differ = actual.view(np.uint32) != expected.view(np.uint32)
    differ &= ~(np.isnan(actual) & np.isnan(expected))
    if differ.any():
        where = tuple(int(index[0]) for index in np.nonzero(differ))
        raise AssertionError(
            f"{np.count_nonzero(differ)} of {differ.size} elements differ, first at {where}: "
            f"{actual[where]!r} instead of {expected[where]!r}"
        )


def normal(rng: np.random.Generator, *shape: int) -> F32:
    return rng.standard_normal(shape, np.float32)


def at_end_of_page(array: ArrayType) -> ArrayType:
    """A copy whose last byte is the last one before a page that nobody may touch.

    A kernel that reads or writes past the array ends the process with a fault.
    """
    page = mmap.PAGESIZE
    num_pages = array.nbytes // page + 1
    memory = mmap.mmap(-1, (num_pages + 1) * page)
    anchor = ctypes.c_char.from_buffer(memory)
    guard = ctypes.addressof(anchor) + num_pages * page
    del anchor
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = np.frombuffer(
        memory, array.dtype, count=array.size, offset=num_pages * page - array.nbytes
    ).reshape(array.shape)
    copy[...] = array
    return copy
