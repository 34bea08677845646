"""The thread pool: many small runs, several callers, forks, and one floating-point mode for all."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import pytest

from octavo import _native
from octavo.backends import canonical
from tests.ops.helpers import F32, assert_same_bits, normal

ON_X86_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_refuses_senseless_counts(threads: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1024"):
        _native.ThreadPool(threads)


@pytest.mark.parametrize("threads", [1, 2, 5, 8, 17])  # 8 and more: several lines of counters
def test_many_small_runs(threads: int) -> None:
    """More threads than cores, and runs shorter than a wake-up: nothing is lost or done twice."""
    kernels = _native.Kernels(_native.ThreadPool(threads))
    x = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    out = np.empty(len(x), np.float32)
    for i in range(300):
        out.fill(-1)
        rows = 1 + i * 66
        kernels.row_sums(x[:rows], out[:rows])
        np.testing.assert_array_equal(out[:rows], x[:rows, 0] + x[:rows, 1])
        assert (out[rows:] == -1).all()


def test_pools_come_and_go() -> None:
    gc.collect()
    before = num_threads_of_process()
    for i in range(60):
        kernels = _native.Kernels(_native.ThreadPool(1 + i % 4))
        out = np.empty(30_000, np.float32)
        kernels.exp(np.zeros_like(out), out)
        assert (out == 1).all()
    del kernels
    gc.collect()
    # A joined thread leaves the system's count a moment after it is joined.
    deadline = time.monotonic() + 60
    while num_threads_of_process() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert num_threads_of_process() <= before


def num_threads_of_process() -> int:
    """Threads of this process as the operating system counts them."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))


def test_kernels_keep_their_pool_alive() -> None:
    pool = _native.ThreadPool(3)
    assert pool.num_threads == 3
    kernels = _native.Kernels(pool)
    del pool
    gc.collect()
    out = np.empty((70, 90), np.float32)
    kernels.product(np.ones((70, 80), np.float32), np.ones((80, 90), np.float32), out)
    assert (out == 80).all()


def test_a_refused_call_leaves_the_pool_working() -> None:
    kernels = _native.Kernels(_native.ThreadPool(3))
    a, b, out = (np.ones((64, 64), np.float32) for _ in range(3))
    for _ in range(100):
        with pytest.raises(TypeError):
            kernels.product(a, b.astype(np.float64), out)
        kernels.product(a, b, out)
        assert (out == 64).all()


def test_several_python_threads_share_a_pool() -> None:
    kernels = _native.Kernels(_native.ThreadPool(2))
    rng = np.random.default_rng(0)
    inputs = [(normal(rng, 30, 50), normal(rng, 50, 70)) for _ in range(4)]
    expected = [canonical.product(a, b) for a, b in inputs]
    failures: list[BaseException] = []

    def repeat(a: F32, b: F32, wanted: F32) -> None:
        try:
            for _ in range(100):
                out = np.full_like(wanted, np.nan)
                kernels.product(a, b, out)
                assert_same_bits(out, wanted)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=repeat, args=(*pair, wanted))
        for pair, wanted in zip(inputs, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


FORK_SCRIPT = """
import os, warnings
import numpy as np
from octavo import _native
warnings.simplefilter("ignore")
pool = _native.ThreadPool(3)
kernels = _native.Kernels(pool)
x = np.ones((20000, 8), np.float32)
out = np.zeros(20000, np.float32)
kernels.row_sums(x, out)
assert (out == 8).all()
child = os.fork()
out[:] = 0
kernels.row_sums(x, out)                                    # the copy works alone
assert (out == 8).all()
fresh = _native.Kernels(_native.ThreadPool(2))
out[:] = 0
fresh.row_sums(x, out)                                      # a new pool has workers
assert (out == 8).all()
del kernels, pool, fresh                                    # and neither hangs when it ends
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print("both done")
"""


def test_a_forked_child_computes_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK_SCRIPT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "both done\n", "")


@contextmanager
def flushing_denormals() -> Generator[ctypes.Array[ctypes.c_char]]:
    """Sets FTZ and DAZ in this thread, as libraries built with -ffast-math do.

    The environment of <fenv.h> on x86-64 Linux is 32 bytes; MXCSR is at byte 28.
    """
    libm = ctypes.CDLL("libm.so.6")
    saved = ctypes.create_string_buffer(32)
    libm.fegetenv(saved)
    changed = ctypes.create_string_buffer(saved.raw, 32)
    mxcsr = ctypes.c_uint32.from_buffer(changed, 28)
    mxcsr.value |= 0x8040
    libm.fesetenv(changed)
    try:
        yield changed
    finally:
        libm.fesetenv(saved)


@pytest.mark.skipif(not ON_X86_LINUX, reason="sets MXCSR through glibc's fenv_t")
@pytest.mark.parametrize("threads", [1, 3])
def test_the_callers_denormal_mode_changes_nothing(instruction_set: str, threads: int) -> None:
    x = np.linspace(-104, -86, 50_000, dtype=np.float32)
    a = np.full((90, 3), 1e-25, np.float32)
    b = np.full((3, 600), 1e-18, np.float32)
    exp_expected, product_expected = canonical.exp(x), canonical.product(a, b)
    assert product_expected[0, 0] > 0  # a denormal
    exp_out, product_out = np.empty_like(x), np.empty((90, 600), np.float32)
    one = np.float32(1e-40)
    with flushing_denormals():
        flushed = one * np.float32(0.5)
        kernels = _native.Kernels(_native.ThreadPool(threads), instruction_set)
        kernels.exp(x, exp_out)
        kernels.product(a, b, product_out)
        still_flushed = one * np.float32(0.5)
    assert_same_bits(exp_out, exp_expected)
    assert_same_bits(product_out, product_expected)
    assert flushed == 0  # the mode was on,
    assert still_flushed == 0  # and the kernels gave it back
