"""The connection to an engine: messages, refusals, waiting for batches, an engine's death."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.config import EngineConfig
from octavo.core.errors import EngineDead, InvalidRequest
from octavo.core.events import Event, Failed, Finished, FinishReason, Timings, Token, Usage
from octavo.core.request import ChoiceSoFar, Priority, Request, SamplingParams
from octavo.core.step import TokenLogprobs
from octavo.engine.load import LoadedEngine, load_engine
from octavo.runtime.client import InProcessClient
from octavo.runtime.codec import (
    Abort,
    Events,
    Submit,
    decode_client_message,
    decode_engine_message,
    encode,
)
from tests.tiny import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("client"))


def load(folder: Path, **options: object) -> LoadedEngine:
    return load_engine(folder, EngineConfig.from_options(options))


def make_request(name: str = "r", prompt: tuple[int, ...] = (5, 6, 7), **params: object) -> Request:
    fields = {"max_tokens": 4, "seed": 1, "ignore_eos": True, **params}
    return Request(request_id=name, prompt_ids=prompt, params=SamplingParams(**fields))  # type: ignore[arg-type]


def drain(client: InProcessClient) -> list[object]:
    events: list[object] = []
    while batch := client.events():
        events.extend(batch)
    return events


def test_messages_survive_the_wire() -> None:
    request = Request(
        request_id="r",
        prompt_ids=(1, 2),
        params=SamplingParams(
            logit_bias={5: 1.5}, stop=("x",), bad_words=((1, 2),), seed=2**63 - 1, logprobs=3
        ),
        tenant="t",
        priority=Priority.BATCH,
        deadline_s=1.5,
        resume=(ChoiceSoFar(choice=0, output_ids=(4, 5)),),
    )
    assert decode_client_message(encode(Submit(request))) == Submit(request)
    assert decode_client_message(encode(Abort("r", 1))) == Abort("r", 1)
    events = Events(
        [
            Token("r", 0, 3, 9, TokenLogprobs(-0.25, (9, 1), (-0.25, -7.5))),
            Finished("r", 0, FinishReason.STOP, 9, Usage(2, 0, 4), Timings(0.1, 0.2, 0.3)),
            Failed("r", "request_failed", "why", "what to do"),
        ]
    )
    assert decode_engine_message(encode(events)) == events


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    for decode in (decode_client_message, decode_engine_message):
        with pytest.raises((msgspec.DecodeError, InvalidRequest)):
            decode(data)


def test_values_out_of_range_do_not_pass_the_wire() -> None:
    message = msgspec.msgpack.decode(encode(Submit(make_request())))
    message["request"]["params"]["temperature"] = -3.0
    with pytest.raises(InvalidRequest, match="temperature"):
        decode_client_message(msgspec.msgpack.encode(message))


def test_a_refusal_is_an_event_and_hurts_nobody(folder: Path) -> None:
    client = InProcessClient(load(folder, max_waiting_requests=2).engine)
    client.submit(make_request("a"))
    client.submit(make_request("bad", prompt=(10**6,)))
    client.submit(make_request("b"))
    client.submit(make_request("too-many"))
    refused = client.poll()
    assert [(event.request_id, event.code) for event in refused if isinstance(event, Failed)] == [
        ("bad", "invalid_request"),
        ("too-many", "overloaded"),
    ]
    finished = [event.request_id for event in drain(client) if isinstance(event, Finished)]
    assert sorted(finished) == ["a", "b"]


def test_events_are_empty_when_there_is_nothing_to_do(folder: Path) -> None:
    client = InProcessClient(load(folder).engine)
    assert client.events() == []
    client.abort("unknown")
    assert client.poll() == []


def test_a_dynamic_batch_is_waited_for_and_not_spun_on(folder: Path) -> None:
    now_s = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now_s
        slept.append(seconds)
        now_s += seconds

    config = EngineConfig(continuous_batching=False, max_batch_size=3, max_wait_ms=250.0)
    engine = load_engine(folder, config, clock=lambda: now_s).engine
    client = InProcessClient(engine, sleep=sleep)
    client.submit(make_request("a"))
    client.submit(make_request("b"))
    assert len([event for event in drain(client) if isinstance(event, Finished)]) == 2
    assert slept == [pytest.approx(0.25)]


def test_a_deadline_that_passes_in_the_queue_is_never_computed(folder: Path) -> None:
    now_s = 10.0
    engine = load_engine(folder, EngineConfig(max_num_seqs=1), clock=lambda: now_s).engine
    client = InProcessClient(engine)
    client.submit(make_request("first"))
    client.submit(msgspec.structs.replace(make_request("late"), deadline_s=11.0))
    client.events()
    now_s = 12.0
    events = drain(client)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.request_id, event.code) for event in failed] == [("late", "deadline_exceeded")]
    assert engine.stats().scheduler.computed_tokens == 3 + 3  # the first request's alone


def test_nobody_sleeps_while_there_is_something_to_compute(folder: Path) -> None:
    """A prompt in chunks makes steps without events, and the request behind it has a deadline."""
    slept: list[float] = []
    config = EngineConfig(max_num_seqs=1, max_num_batched_tokens=8)
    engine = load_engine(folder, config, clock=lambda: 0.0).engine
    client = InProcessClient(engine, sleep=slept.append)
    client.submit(make_request("long", prompt=tuple(range(2, 80))))
    client.submit(msgspec.structs.replace(make_request("waiting"), deadline_s=1000.0))
    assert len([event for event in drain(client) if isinstance(event, Finished)]) == 2
    assert slept == []


@pytest.mark.parametrize("are_held", [True, False])
def test_ctrl_c_waits_for_one_step_of_a_long_prompt(folder: Path, are_held: bool) -> None:
    engine = load(folder, max_num_seqs=1, max_num_batched_tokens=8).engine
    client = InProcessClient(engine)
    step = engine.step

    def interrupted() -> list[Event]:
        signal.raise_signal(signal.SIGINT)
        return step()

    client.submit(make_request("long", prompt=tuple(range(2, 80))))
    engine.step = interrupted  # type: ignore[method-assign]
    held = client.interrupts.held() if are_held else nullcontext()
    with pytest.raises(KeyboardInterrupt), held:
        client.events()
    assert engine.stats().steps == 1
    engine.step = step  # type: ignore[method-assign]
    tokens = [event for event in drain(client) if isinstance(event, Token)]
    assert [token.index for token in tokens] == [0, 1, 2, 3]


def test_a_backend_that_breaks_kills_the_engine_with_its_reason(folder: Path) -> None:
    loaded = load(folder)
    client = InProcessClient(loaded.engine)
    client.submit(make_request())
    client.events()
    loaded.executable.run = broken_run  # type: ignore[method-assign]
    with pytest.raises(EngineDead, match="out of luck"):
        client.events()
    with pytest.raises(EngineDead, match="out of luck"):
        client.events()
    client.submit(make_request("another"))
    (refused,) = client.poll()
    assert isinstance(refused, Failed)
    assert refused.code == "engine_dead"


def broken_run(batch: object) -> None:
    raise RuntimeError("out of luck")
