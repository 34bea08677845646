"""Ctrl-C held back: when it is dealt with, by whom, and how often the handler is exchanged."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.core.config import EngineConfig
from octavo.core.events import Event, Finished
from octavo.core.request import Request
from octavo.engine.load import load_engine
from octavo.runtime.client import InProcessClient
from octavo.runtime.interrupts import Interrupts
from tests.tiny import write_tiny_model


@pytest.fixture(autouse=True)
def same_handler_afterwards() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_comes_after_the_block_and_once() -> None:
    interrupts, reached = Interrupts(), []

    def block() -> None:
        with interrupts.held():
            ctrl_c()
            ctrl_c()
            reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached
    assert not interrupts.are_held
    with interrupts.held():
        interrupts.deliver()  # nothing is left over


def test_it_is_delivered_where_the_block_says_so() -> None:
    interrupts, steps = Interrupts(), []

    def work() -> None:
        with interrupts.held():
            for step in range(5):
                if step == 2:
                    ctrl_c()
                steps.append(step)
                interrupts.deliver()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == [0, 1, 2]


def test_a_block_within_a_block_does_nothing() -> None:
    interrupts, reached = Interrupts(), []

    def work() -> None:
        with interrupts.held():
            with interrupts.held():
                ctrl_c()
            assert interrupts.are_held
            reached.append("the outer block goes on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached


def test_the_callers_own_handler_deals_with_it() -> None:
    interrupts, dealt_with = Interrupts(), []
    before = signal.signal(signal.SIGINT, lambda number, _: dealt_with.append(number))
    try:
        with interrupts.held():
            ctrl_c()
            assert dealt_with == []
            interrupts.deliver()
            assert dealt_with == [signal.SIGINT]
        assert dealt_with == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_ignores_it_ignores_it() -> None:
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.held():
            assert not interrupts.are_held
            ctrl_c()
    finally:
        signal.signal(signal.SIGINT, before)


def test_let_through_it_comes_at_once_and_is_held_again() -> None:
    interrupts, reached = Interrupts(), []

    def wait() -> None:
        with interrupts.let_through():
            assert not interrupts.are_held
            ctrl_c()
            reached.append("past the signal")

    with interrupts.held():
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert interrupts.are_held
    assert not reached


def test_what_came_before_is_let_through_first() -> None:
    interrupts, reached = Interrupts(), []

    def work() -> None:
        with interrupts.held():
            ctrl_c()
            with interrupts.let_through():
                reached.append("the wait")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not reached


def test_other_threads_hold_nothing() -> None:
    interrupts, held, failures = Interrupts(), [], []

    def work() -> None:
        try:
            with interrupts.held(), interrupts.let_through():
                held.append(interrupts.are_held)
                interrupts.deliver()
        except BaseException as error:
            failures.append(error)

    def work_in_a_thread() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def interrupted() -> None:
        with interrupts.held():
            ctrl_c()
            work_in_a_thread()  # is not the one to deal with it

    work_in_a_thread()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (held, failures) == ([False, True], [])


def test_waiting_for_a_batch_ends_at_once(tmp_path: Path) -> None:
    """And the engine is as usable as before."""
    now_s = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now_s
        slept.append(seconds)
        now_s += seconds
        if len(slept) == 1:
            ctrl_c()
            raise AssertionError("slept on")

    config = EngineConfig(continuous_batching=False, max_batch_size=3, max_wait_ms=250.0)
    engine = load_engine(write_tiny_model(tmp_path), config, clock=lambda: now_s).engine
    client = InProcessClient(engine, sleep=sleep)
    params = SamplingParams(max_tokens=3, seed=1, ignore_eos=True)
    client.submit(Request(request_id="r", prompt_ids=(5, 6), params=params))
    with pytest.raises(KeyboardInterrupt), client.interrupts.held():
        client.events()
    events: list[Event] = []
    while told := client.events():
        events += told
    assert isinstance(events[-1], Finished)


def test_a_batch_of_answers_exchanges_the_handler_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged: list[object] = []
    exchange = signal.signal

    def counted(number: int, handler: object) -> object:
        exchanged.append(handler)
        return exchange(number, handler)  # type: ignore[arg-type]

    params = SamplingParams(max_tokens=30, ignore_eos=True)
    with LLM(write_tiny_model(tmp_path)) as llm:
        monkeypatch.setattr(signal, "signal", counted)
        llm.generate([[5, 6], [7]], params, progress=False)
        assert llm.stats().steps >= 30
        assert len(exchanged) == 2
        exchanged.clear()
        deltas = list(llm.stream([5, 6], params))
        assert len(exchanged) == 2 * len(deltas)
        monkeypatch.undo()
