"""A closed executable holds neither weights nor pages, though somebody still holds it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.backends.base import Backend, Batch, Executable, Limits
from octavo.backends.native import NativeBackend
from octavo.backends.reference import ReferenceBackend
from octavo.core.errors import Misuse
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.program.ir import Weight
from octavo.weights.checkpoint import Checkpoint
from tests.forward import Sequences
from tests.tiny import write_tiny_model

LIMITS = Limits(max_num_seqs=2, max_num_batched_tokens=32, max_model_len=64, num_pages=5)
NO_ROWS = np.zeros(0, np.int32)


class WatchedWeights(Checkpoint):
    """Knows which of the arrays that it gave away are still held."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._given: list[weakref.ref[np.ndarray]] = []

    def load(self, weight: Weight) -> np.ndarray:
        found = super().load(weight)
        self._given.append(weakref.ref(found))
        return found

    def num_held(self) -> int:
        return sum(array() is not None for array in self._given)


BACKENDS: dict[str, Callable[[], Backend]] = {
    "native": lambda: NativeBackend(2, weights="w8"),
    "reference": lambda: ReferenceBackend(2),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]()


@pytest.fixture
def source(tmp_path: Path) -> WatchedWeights:
    return WatchedWeights(write_tiny_model(tmp_path))


@pytest.fixture
def executable(backend: Backend, source: WatchedWeights) -> Executable:
    return backend.compile(build(ModelSpec.read(source.folder), 64), source, LIMITS)


def a_batch(executable: Executable) -> Batch:
    sequences = Sequences(executable, LIMITS)
    return sequences.batch([(sequences.add(), [1, 2, 3])])


def test_weights_and_pages_are_let_go_of(executable: Executable, source: WatchedWeights) -> None:
    pages = weakref.ref(executable.page(0, 1).base)
    executable.run(a_batch(executable))
    assert source.num_held() > 0
    assert pages() is not None
    executable.close()
    assert source.num_held() == 0
    assert pages() is None


USES: dict[str, Callable[[Executable, Batch], Any]] = {
    "run": lambda executable, batch: executable.run(batch),
    "logits": lambda executable, batch: executable.logits(batch, NO_ROWS),
    "page": lambda executable, batch: executable.page(0, 1),
    "numerics": lambda executable, batch: executable.numerics(),
    "seconds": lambda executable, batch: executable.seconds(),
}


@pytest.mark.parametrize("use", USES)
def test_whoever_uses_it_afterwards_is_told(use: str, executable: Executable) -> None:
    batch = a_batch(executable)
    USES[use](executable, batch)
    executable.close()
    executable.close()
    with pytest.raises(Misuse, match="the model was closed"):
        USES[use](executable, batch)
