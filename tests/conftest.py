"""What every test lives under: hypothesis settings and a limit on a test's computing time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

WANTED_CPU_SECONDS = 2.0
MAX_CPU_SECONDS = 3 * WANTED_CPU_SECONDS
"""Machines differ, and hypothesis draws larger examples at one time than at another."""

# No deadlines: a neighbour on the machine must not fail a test.
settings.register_profile(
    "octavo",
    deadline=None,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("octavo")


def pytest_configure() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and so would our children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail an unmarked test that computes for much longer than is wanted.

    Processor time, not wall time: that does not grow when the machine is busy with others.
    OCTAVO_TEST_TIME_LIMIT=off lifts the limit, for builds with sanitizers or coverage.
    """
    started = time.process_time()
    yield
    used = time.process_time() - started
    limited = os.environ.get("OCTAVO_TEST_TIME_LIMIT") != "off"
    exempt = item.get_closest_marker("slow") or item.get_closest_marker("parity")
    if limited and not exempt and used > MAX_CPU_SECONDS:
        pytest.fail(
            f"took {used:.1f} s of processor time, and {WANTED_CPU_SECONDS} are wanted:"
            " make it quicker or mark it slow"
        )
