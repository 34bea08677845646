"""Ctrl-C at any instruction of a call: whatever it meets, the next call is answered as ever."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import octavo.runtime
from octavo import LLM, SamplingParams
from octavo.core.config import EngineConfig
from octavo.core.events import Finished
from octavo.core.request import Request
from octavo.engine.load import load_engine
from octavo.runtime.client import InProcessClient
from tests.tiny import write_tiny_model

PLACES = (str(Path(octavo.runtime.__file__).parent), contextlib.__file__)
GREEDY = SamplingParams(max_tokens=3, temperature=0.0, seed=0, ignore_eos=True)


class Interrupter:
    """Presses Ctrl-C before one of the instructions that a call carries out in ``PLACES``."""

    def __init__(self, at: int) -> None:
        self.num_seen = 0
        self._at = at

    def call(self, function: Callable[[], Any]) -> bool:
        """Whether it was interrupted."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            result = function()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        del result  # not before: what a finaliser raises reaches nobody
        return False

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PLACES):
            return None
        frame.f_trace_opcodes = True
        return self._see

    def _see(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.num_seen += 1
            if self.num_seen == self._at:
                signal.raise_signal(signal.SIGINT)
        return self._see


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("interrupted"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder) as llm:
        yield llm


CLIENT_CALLS: list[Callable[[InProcessClient], Any]] = [
    lambda client: client.abort("r"),
    lambda client: client.poll(),
    lambda client: client.stats(),
    lambda client: client.events(),
]


@pytest.mark.parametrize("call", CLIENT_CALLS, ids=["abort", "poll", "stats", "events"])
def test_no_instruction_of_a_clients_call_leaves_it_locked(
    folder: Path, call: Callable[[InProcessClient], Any]
) -> None:
    client = InProcessClient(load_engine(folder, EngineConfig()).engine)
    before = signal.getsignal(signal.SIGINT)
    at = num_interrupted = 0
    while True:
        at += 1
        interrupter = Interrupter(at)
        num_interrupted += interrupter.call(lambda: call(client))
        client.stats()
        client.poll()
        assert signal.getsignal(signal.SIGINT) is before
        if interrupter.num_seen < at:
            break
    assert num_interrupted == at - 1 > 50


def test_no_event_is_lost_in_a_step_that_is_interrupted(folder: Path) -> None:
    engine = load_engine(folder, EngineConfig()).engine
    client = InProcessClient(engine)
    step, num_pressed = engine.step, 0

    def pressed_step() -> Any:
        nonlocal num_pressed
        num_pressed += 1
        signal.raise_signal(signal.SIGINT)
        return step()

    engine.step = pressed_step  # type: ignore[method-assign]
    client.submit(Request(request_id="r", prompt_ids=(5, 6), params=GREEDY))
    events: list[object] = []
    for _ in range(10):
        with contextlib.suppress(KeyboardInterrupt):
            events += client.events()
    assert num_pressed == 3
    assert [type(event) for event in events].count(Finished) == 1
    assert len(events) == 4


LLM_CALLS: list[Callable[[LLM], Any]] = [
    lambda llm: llm.generate([[5, 6], [7, 8, 9]], GREEDY, progress=False),
    lambda llm: llm.beam_search([[5, 6], [7]], width=2, max_tokens=2),
    lambda llm: llm.stream([5, 6], GREEDY),
]


@pytest.mark.parametrize("call", LLM_CALLS, ids=["generate", "beam_search", "stream"])
def test_no_interrupted_call_leaves_a_request_behind(llm: LLM, call: Callable[[LLM], Any]) -> None:
    expected = llm.generate([7, 8], GREEDY)[0].choices[0].token_ids
    before = signal.getsignal(signal.SIGINT)
    whole = Interrupter(0)
    whole.call(lambda: call(llm))
    num_places = 100
    num_interrupted = 0
    for place in range(num_places):
        at = 1 + place * whole.num_seen // num_places
        num_interrupted += Interrupter(at).call(lambda: call(llm))
        assert signal.getsignal(signal.SIGINT) is before
        counts = llm.stats().scheduler
        assert (counts.running, counts.waiting) == (0, 0)
        assert llm.generate([7, 8], GREEDY)[0].choices[0].token_ids == expected
    assert num_interrupted > num_places // 2
