"""The sampler's rows of `octavo bench kernels`."""

from __future__ import annotations

from octavo._native import ThreadPool
from octavo.bench.sampler_times import sampler_times


def test_each_way_is_timed_once() -> None:
    times = sampler_times(ThreadPool(1), "scalar", vocab_size=2000, seconds_each=0.001)
    assert len({row.name for row in times}) == len(times) >= 8
    assert all(0 < row.seconds < 1 and row.bytes == 8000 for row in times)
