"""The asynchronous client: the same answers, an event loop that stays free, nothing left over."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from octavo import LLM, SamplingParams
from octavo.core.config import EngineConfig
from octavo.core.errors import EngineDead, InvalidRequest
from octavo.engine.load import load_engine
from octavo.runtime.async_client import AsyncClient
from octavo.runtime.codec import Submit, encode
from octavo.runtime.model_text import EncodedPrompt, ModelText
from tests.small_model import ENDLESS, write_endless_model, write_small_model

pytestmark = pytest.mark.anyio
PARAMS = SamplingParams(max_tokens=20, seed=4, n=2, logprobs=1)
LONG = SamplingParams(max_tokens=ENDLESS, ignore_eos=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("async"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For answers that must be under way."""
    return write_endless_model(tmp_path_factory.mktemp("async-endless"))


async def test_the_answer_is_that_of_llm(folder: Path) -> None:
    with LLM(folder) as llm:
        whole = llm.generate("Once", PARAMS)[0]
    async with await AsyncClient.load(folder) as client:
        answer = client.start(client.text.encode("Once"), PARAMS)
        deltas = [delta async for delta in answer]
        output = await answer.output()
    for choice, expected in zip(output.choices, whole.choices, strict=True):
        mine = [delta for delta in deltas if delta.choice == choice.index]
        assert "".join(delta.text for delta in mine) == choice.text == expected.text
        assert choice.logprobs == expected.logprobs


async def test_many_at_once(folder: Path) -> None:
    loaded = load_engine(folder, EngineConfig())
    all_are_there, run = threading.Event(), loaded.executable.run

    def wait_and_run(batch: Any) -> Any:
        assert all_are_there.wait(20)
        return run(batch)

    loaded.executable.run = wait_and_run  # type: ignore[method-assign]
    async with AsyncClient(loaded, ModelText(folder)) as client:
        prompts = [client.text.encode(f"number {number}") for number in range(30)]
        answers = [client.start(prompt, PARAMS) for prompt in prompts]
        all_are_there.set()
        outputs = await asyncio.gather(*(answer.output() for answer in answers))
        stats = await client.stats()
        assert stats.scheduler.max_running > 8
        assert client.num_live == 0
    assert [output.prompt for output in outputs] == [f"number {number}" for number in range(30)]


async def test_leaving_an_answer_aborts_it(endless: Path) -> None:
    async with await AsyncClient.load(endless) as client:
        async with client.start(client.text.encode("Hello"), LONG) as answer:
            await anext(answer)
        stats = await client.stats()
        assert (stats.scheduler.running, stats.scheduler.waiting) == (0, 0)
        assert all(pages.held == 0 for pages in stats.scheduler.pages)
        assert client.num_live == 0


async def test_a_refusal_is_raised_to_the_reader(folder: Path) -> None:
    async with await AsyncClient.load(folder) as client:
        answer = client.start(EncodedPrompt(None, (10**6,)), PARAMS)
        with pytest.raises(InvalidRequest, match="outside of the vocabulary"):
            await answer.output()
        assert client.num_live == 0


async def test_an_engine_that_dies_fails_what_is_in_flight_and_what_comes(endless: Path) -> None:
    loaded = load_engine(endless, EngineConfig())
    deaths: list[EngineDead] = []
    client = AsyncClient(loaded, ModelText(endless), on_death=deaths.append)
    answer = client.start(client.text.encode("Hello"), LONG)
    await anext(answer)
    loaded.executable.run = broken_run  # type: ignore[method-assign, assignment]
    with pytest.raises(EngineDead, match="out of luck"):
        await answer.output()
    with pytest.raises(EngineDead, match="out of luck"):
        client.start(client.text.encode("Hello"), LONG)
    with pytest.raises(EngineDead, match="out of luck"):
        await client.stats()
    assert len(deaths) == 1
    await client.close()


def broken_run(batch: object) -> None:
    raise RuntimeError("out of luck")


async def test_bad_values_are_refused_and_hurt_nobody(folder: Path) -> None:
    async with await AsyncClient.load(folder) as client:
        prompt = client.text.encode("Hello")
        good = client.start(prompt, PARAMS)
        wrong: list[dict[str, Any]] = [
            {"priority": 9},
            {"tenant": 5},
            {"deadline_s": "soon"},
            {"request_id": 5},
            {"request_id": good.request_id},
        ]
        for fields in wrong:
            with pytest.raises(InvalidRequest):
                client.start(prompt, PARAMS, **fields)
        assert client.num_live == 1
        assert (await good.output()).finished


async def test_what_is_no_message_is_dropped(endless: Path) -> None:
    async with await AsyncClient.load(endless) as client:
        good = client.start(client.text.encode("Hello"), PARAMS)
        submit = msgspec.msgpack.decode(encode(Submit(good.request)))
        submit["request"]["params"]["temperature"] = -1.0
        for data in (b"", b"nonsense", b"\xc1", msgspec.msgpack.encode(submit)[:-5]):
            client._thread.send(data)
        assert (await good.output()).error is None

        submit["request"]["request_id"] = "wrong"
        told = client.start(client.text.encode("Hello"), LONG, request_id="wrong")
        client._thread.send(msgspec.msgpack.encode(submit))
        with pytest.raises(InvalidRequest, match="temperature"):
            await told.output()


async def test_reading_after_leaving_ends(endless: Path) -> None:
    async with await AsyncClient.load(endless) as client:
        answer = client.start(client.text.encode("Hello"), LONG)
        await answer.aclose()
        assert [delta async for delta in answer] == []
        assert not (await answer.output()).finished


async def test_an_answer_that_nobody_holds_is_aborted(endless: Path) -> None:
    async with await AsyncClient.load(endless) as client:
        answer = client.start(client.text.encode("Hello"), LONG)
        await anext(answer)
        del answer
        gc.collect()
        assert client.num_live == 0
        assert (await client.stats()).scheduler.running == 0


async def test_an_answer_that_is_let_go_of_leaves_the_next_one_of_its_name(folder: Path) -> None:
    async with await AsyncClient.load(folder) as client:
        prompt = client.text.encode("Hello")
        answer = client.start(prompt, PARAMS, request_id="mine")
        first = await answer.output()
        before = answer
        answer = client.start(prompt, PARAMS, request_id="mine")
        await before.aclose()
        del before
        gc.collect()
        second = await asyncio.wait_for(answer.output(), 60)
        assert [one.token_ids for one in second.choices] == [one.token_ids for one in first.choices]


async def test_what_a_closed_request_still_says_is_not_for_the_next_one_of_its_name(
    endless: Path,
) -> None:
    async with await AsyncClient.load(endless) as client:
        prompt, other = client.text.encode("Hello"), client.text.encode("Once upon a time")
        params = SamplingParams(max_tokens=6, n=2, temperature=1.0, seed=3)
        expected = await client.start(other, params).output()
        for seconds in (0.0, 0.001, 0.003, 0.01, 0.02):
            closed = client.start(prompt, msgspec.structs.replace(LONG, n=3), request_id="mine")
            time.sleep(seconds)  # the engine goes on, and nobody hears what it says
            await closed.aclose()
            refused = client.start(
                prompt, msgspec.structs.replace(LONG, max_tokens=10**6), request_id="mine"
            )
            await refused.aclose()
            answer = client.start(other, params, request_id="mine")
            found = await asyncio.wait_for(answer.output(), 60)
            assert [one.token_ids for one in found.choices] == [
                one.token_ids for one in expected.choices
            ]


async def test_a_close_that_is_cancelled_leaves_nobody_waiting(endless: Path) -> None:
    client = await AsyncClient.load(endless)
    answer = client.start(client.text.encode("Hello"), LONG)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(EngineDead, match="closed"):
        await answer.output()
    with pytest.raises(EngineDead, match="closed"):
        await client.stats()
    await client.close()


async def test_leaving_wakes_whoever_reads(endless: Path) -> None:
    async with await AsyncClient.load(endless, max_num_seqs=1) as client:
        client.start(client.text.encode("Hello"), LONG)
        waiting = client.start(client.text.encode("Hello"), LONG)
        reader = asyncio.create_task(waiting.output())
        await asyncio.sleep(0)
        await waiting.aclose()
        assert not (await reader).finished


async def test_closing_fails_what_is_in_flight_and_ends_the_thread(endless: Path) -> None:
    before = threading.active_count()
    deaths: list[EngineDead] = []
    loaded = load_engine(endless, EngineConfig(steps_in_flight=2))
    client = AsyncClient(loaded, ModelText(endless), on_death=deaths.append)
    answer = client.start(client.text.encode("Hello"), LONG)
    await anext(answer)
    await client.close()
    with pytest.raises(EngineDead, match="closed"):
        await answer.output()
    assert not deaths, "it was closed on purpose"
    names = [thread.name for thread in threading.enumerate()]
    assert "octavo-engine" not in names
    assert threading.active_count() <= before + 1  # to_thread keeps one worker
