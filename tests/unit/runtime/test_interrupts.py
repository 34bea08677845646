"""Ctrl-C held back: when it is dealt with, by whom, and how often the handler is exchanged."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import pytest

from octavo import LLM, SamplingParams
from octavo.core.config import EngineConfig
from octavo.core.events import Event, Finished
from octavo.core.request import Request
from octavo.engine.load import load_engine
from octavo.runtime.client import InProcessClient
from octavo.runtime.interrupts import Handler, Interrupts
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


@pytest.mark.parametrize("delivered", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_a_handler_may_put_another_one_in_its_place(delivered: bool, raises: bool) -> None:
    """As those do that say: press again to quit."""
    interrupts, dealt_with = Interrupts(), []

    def second(number: int, frame: FrameType | None) -> None:
        dealt_with.append("second")

    def first(number: int, frame: FrameType | None) -> None:
        dealt_with.append("first")
        signal.signal(signal.SIGINT, second)
        if raises:
            raise KeyboardInterrupt

    def work() -> None:
        with interrupts.held():
            ctrl_c()
            if delivered:
                interrupts.deliver()
            ctrl_c()
            if delivered:
                assert dealt_with == ["first"]
                assert interrupts.are_held

    before = signal.signal(signal.SIGINT, first)
    try:
        with pytest.raises(KeyboardInterrupt) if raises else nullcontext():
            work()
        assert signal.getsignal(signal.SIGINT) is second
        ctrl_c()
        if delivered and not raises:
            assert dealt_with == ["first", "second", "second"]
        else:
            assert dealt_with == ["first", "second"]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_may_decide_that_it_is_ignored_from_now_on() -> None:
    interrupts = Interrupts()

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    before = signal.signal(signal.SIGINT, first)
    try:
        with interrupts.held():
            ctrl_c()
            interrupts.deliver()
            assert not interrupts.are_held
            ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_is_still_held_after_it_was_delivered() -> None:
    """What the block does to end its work is not disturbed either."""
    interrupts, reached = Interrupts(), []

    def work() -> None:
        with interrupts.held():
            try:
                ctrl_c()
                interrupts.deliver()
            finally:
                ctrl_c()
                reached.append("the end of the block")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached


def test_nothing_is_left_over_of_two_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes when the handler was given back, and the first not yet dealt with."""
    interrupts = Interrupts()
    exchange = signal.signal

    def exchange_and_press(number: int, handler: Handler) -> None:
        exchange(number, handler)
        if handler is signal.default_int_handler:
            ctrl_c()

    def work() -> None:
        with interrupts.held():
            ctrl_c()
            monkeypatch.setattr(signal, "signal", exchange_and_press)

    with pytest.raises(KeyboardInterrupt):
        work()
    monkeypatch.undo()
    try:
        with interrupts.held():
            interrupts.deliver()
    except KeyboardInterrupt:
        pytest.fail("raised, and nothing was pressed")


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
        assert len(exchanged) == 2
        assert llm.stats().steps >= 30
        stream = llm.stream([5, 6], params)
        exchanged.clear()
        deltas = list(stream)
        assert len(exchanged) == 2 * len(deltas)
        monkeypatch.undo()
