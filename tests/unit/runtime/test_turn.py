"""Whose turn it is at an LLM: one thread's at a time, in the process that made it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.core.errors import Misuse
from octavo.core.events import Event
from octavo.engine.engine import Engine
from octavo.runtime.outputs import RequestOutput
from octavo.runtime.routes import Routes
from tests.small_model import write_small_model

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("turn"))


def test_two_threads_at_once_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, is_working, go_on = Engine.step, threading.Event(), threading.Event()

    def wait_and_step(self: Engine) -> Any:
        is_working.set()
        assert go_on.wait(20)
        return step(self)

    with LLM(folder) as llm:
        monkeypatch.setattr(Engine, "step", wait_and_step)
        outputs: list[RequestOutput] = []
        thread = threading.Thread(target=lambda: outputs.extend(llm.generate("Hello", GREEDY)))
        thread.start()
        assert is_working.wait(20)
        try:
            for _ in range(3):
                with pytest.raises(Misuse, match="another thread"):
                    llm.generate(["Hello"] * 4, GREEDY)
        finally:
            go_on.set()
        thread.join()
        assert outputs[0].error is None
        assert llm.generate("Hello", GREEDY)[0].text == outputs[0].text


def test_threads_that_meet_at_the_door_enter_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for the counters is one visit to the engine: whoever comes first is answered."""
    num_inside, most_inside, tell = 0, 0, Engine.stats

    def look_around_and_tell(self: Engine) -> Any:
        nonlocal num_inside, most_inside
        num_inside += 1
        most_inside = max(most_inside, num_inside)
        time.sleep(0.01)  # whoever else comes in is there before this one leaves
        num_inside -= 1
        return tell(self)

    def hesitate(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_qualname.endswith("Turn.__enter__"):
            time.sleep(0.001)  # before each of its lines all the others may do theirs
            return hesitate
        return None

    def visit(llm: LLM, door: threading.Barrier, results: list[str]) -> None:
        door.wait(20)
        sys.settrace(hesitate)
        try:
            results.append("answered" if llm.stats().steps == 0 else "wrong")
        except Misuse as error:
            results.append("told" if "another thread" in str(error) else str(error))
        finally:
            sys.settrace(None)

    with LLM(folder) as llm:
        monkeypatch.setattr(Engine, "stats", look_around_and_tell)
        for _ in range(5):
            door, results = threading.Barrier(4), list[str]()
            threads = [threading.Thread(target=visit, args=(llm, door, results)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(results) == 4
            assert "answered" in results
            assert set(results) <= {"answered", "told"}
            assert most_inside == 1
        assert llm.generate("Hello", GREEDY)[0].error is None


def test_a_call_of_another_thread_does_not_come_between(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole call has its turn, also while it is not in the engine but hands out what came."""
    dispatch, told = Routes.dispatch, list[str]()

    def ask(llm: LLM) -> None:
        for call in (lambda: llm.generate("Hello", GREEDY), llm.stats, llm.close):
            try:
                call()
            except Misuse as error:
                told.append(error.message)

    def dispatch_late(self: Routes, events: Sequence[Event]) -> None:
        if not told and threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=ask, args=(llm,))
            other.start()
            other.join()
        dispatch(self, events)

    with LLM(folder) as llm:
        alone = llm.generate("Hello", GREEDY)[0].text
        monkeypatch.setattr(Routes, "dispatch", dispatch_late)
        assert llm.generate("Hello", GREEDY)[0].text == alone
        assert told == ["another thread is using the engine"] * 3


def test_a_forked_process_is_told(folder: Path) -> None:
    with LLM(folder, steps_in_flight=2) as llm:
        llm.generate("Hello", GREEDY)
        process_id = os.fork()
        if process_id == 0:
            try:
                llm.generate("Hello", GREEDY)
            except Misuse:
                os._exit(17)
            os._exit(1)
        _, status = os.waitpid(process_id, 0)
        assert os.waitstatus_to_exitcode(status) == 17
        assert llm.generate("Hello", GREEDY)[0].error is None
