"""One small model for all tests of a server, and one server a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.serving import Serving, serving
from tests.small_model import write_endless_model, write_small_model


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="session")
def endless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that need an answer to be under way."""
    return write_endless_model(tmp_path_factory.mktemp("endless") / "endless")


@pytest.fixture(scope="module")
async def served(folder: Path, anyio_backend: str) -> AsyncIterator[Serving]:
    async with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
async def endless(endless_folder: Path, anyio_backend: str) -> AsyncIterator[Serving]:
    async with serving(endless_folder) as server:
        yield server
