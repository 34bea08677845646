"""Health is progress; the metrics page is what the engine and the server counted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import msgspec
import pytest

from octavo.core.errors import ConfigError
from octavo.engine.engine import EngineStats
from octavo.runtime.async_client import AsyncClient
from octavo.server.health import EngineWatch
from octavo.server.record import OUTCOMES, RequestRecord
from octavo.server.settings import ServerSettings
from tests.fakes import FakeClock
from tests.server.serving import CHAT, COMPLETIONS, HELLO, MODEL, Connection, Serving, serving
from tests.small_model import ENDLESS

pytestmark = pytest.mark.anyio


class StillClient:
    """A client whose engine makes the steps that it is told to make."""

    death = None

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats
        self.num_live = 0
        self.steps = 0

    async def stats(self) -> EngineStats:
        return msgspec.structs.replace(self._stats, steps=self.steps)


async def test_work_without_steps_is_a_fault(served: Serving) -> None:
    clock = FakeClock()
    client = StillClient(await served.client.stats())
    watch = EngineWatch(cast("AsyncClient", client), clock, stall_s=10)
    await watch.look()
    clock.advance(1000)
    assert watch.fault() is None  # nothing to do
    await watch.look()
    client.num_live = 1
    clock.advance(9)
    await watch.look()
    assert watch.fault() is None
    clock.advance(2)
    await watch.look()
    assert watch.fault() == "the engine has work and made no step for 11 seconds"
    client.steps += 1
    await watch.look()
    assert watch.fault() is None
    clock.advance(11)
    assert watch.fault() is not None


async def test_an_engine_that_never_answers_is_a_fault(served: Serving) -> None:
    clock = FakeClock()
    client = StillClient(await served.client.stats())
    watch = EngineWatch(cast("AsyncClient", client), clock, stall_s=10)
    await watch.look()
    client.num_live = 1
    clock.advance(11)  # and nobody could look
    assert watch.fault() is not None


async def test_ready_while_it_works(served: Serving) -> None:
    assert (await served.http.get("/readyz")).json() == {"status": "ok"}
    await served.ask(COMPLETIONS, prompt="Once")
    assert (await served.http.get("/readyz")).status_code == 200
    assert (await served.http.get("/livez")).json() == {"status": "ok"}


async def test_the_watch_looks_by_itself(folder: Path) -> None:
    async with serving(folder, settings=ServerSettings(watch_interval_s=0.001)) as server:
        async with asyncio.timeout(20):
            while (await server.metrics())["octavo_event_loop_lag_seconds"] == 0:
                pass


async def test_the_page_counts_what_was_done(folder: Path) -> None:
    async with serving(folder) as server:
        prompt = [7] * 64
        first = (await server.ask(COMPLETIONS, prompt=prompt, max_tokens=5))["usage"]
        await server.stream(COMPLETIONS, prompt=prompt, max_tokens=5, ignore_eos=True)
        await server.post(CHAT, {"messages": HELLO, "tools": [1]})
        await server.http.get("/nothing")
        page = await server.metrics()
    label = f'{{model="{MODEL}"}}'
    assert page[f"octavo_prompt_tokens_total{label}"] == 128
    assert page[f"octavo_generated_tokens_total{label}"] == first["completion_tokens"] + 5
    assert page[f"octavo_prefix_hit_tokens_total{label}"] == 48
    assert page[f"octavo_sequences_running{label}"] == 0
    assert page[f"octavo_sequences_waiting{label}"] == 0
    assert page[f"octavo_time_to_first_token_seconds_count{label}"] == 2
    assert page[f"octavo_request_seconds_count{label}"] == 2
    inter = first["completion_tokens"] - 1 + 4
    assert 0 < page[f"octavo_inter_token_seconds_count{label}"] <= inter
    pages = {
        state: page[f'octavo_kv_pages{{group="0",model="{MODEL}",state="{state}"}}']
        for state in ("free", "cached", "held")
    }
    assert pages["held"] == 0
    assert pages["cached"] >= 4
    requests = {name: value for name, value in page.items() if "octavo_requests_total" in name}
    assert requests == {
        f'octavo_requests_total{{model="{MODEL}",outcome="ok",route="{COMPLETIONS}"}}': 2,
        f'octavo_requests_total{{model="unknown",outcome="refused",route="{CHAT}"}}': 1,
        'octavo_requests_total{model="unknown",outcome="refused",route="unknown"}': 1,
    }


async def test_each_server_has_its_own_numbers(folder: Path) -> None:
    async with serving(folder) as one, serving(folder) as other:
        await one.ask(COMPLETIONS, prompt="Once")
        name = f'octavo_prompt_tokens_total{{model="{MODEL}"}}'
        assert ((await one.metrics())[name], (await other.metrics())[name]) == (4, 0)


async def test_held_pages_show_while_a_stream_runs(endless_folder: Path) -> None:
    async with serving(endless_folder) as server:
        body = {"model": MODEL, "messages": HELLO, "max_tokens": ENDLESS, "ignore_eos": True}
        one = Connection(CHAT, json.dumps({**body, "stream": True}).encode())
        running = asyncio.create_task(one.run(server.app))
        async with asyncio.timeout(20):
            while (await server.held_pages()) == 0:
                pass
        assert (await server.metrics())[f'octavo_sequences_running{{model="{MODEL}"}}'] == 1
        one.left.set()
        await running
        assert await server.held_pages() == 0


@pytest.mark.parametrize(
    ("status", "code", "complete", "outcome"),
    [
        (200, None, True, "ok"),
        (200, None, False, "abandoned"),
        (None, None, False, "abandoned"),
        (200, "engine_dead", True, "failed"),
        (500, "internal_error", True, "failed"),
        (503, "engine_dead", True, "failed"),
        (503, "draining", True, "overloaded"),
        (429, "overloaded", True, "overloaded"),
        (400, "invalid_request", True, "refused"),
        (401, "invalid_api_key", True, "refused"),
    ],
)
def test_outcomes(status: int | None, code: str | None, complete: bool, outcome: str) -> None:
    record = RequestRecord("id", 0.0, status=status, error_code=code, is_complete=complete)
    assert record.outcome == outcome
    assert outcome in OUTCOMES


@pytest.mark.parametrize(
    "field", ["max_body_bytes", "max_prompts", "stall_s", "body_timeout_s", "drain_timeout_s"]
)
def test_settings_are_checked(field: str) -> None:
    for value in (0, -1, True, "1"):
        with pytest.raises(ConfigError, match=field):
            ServerSettings(**{field: value})
    with pytest.raises(ConfigError, match="sampling_defaults"):
        ServerSettings(sampling_defaults="other")  # type: ignore[arg-type]
