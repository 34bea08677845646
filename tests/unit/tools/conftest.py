"""Fixtures of tests that need PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More would spend their processor time on waiting for each other: there is little to do."""
    torch = pytest.importorskip("torch", reason="the extra train")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
