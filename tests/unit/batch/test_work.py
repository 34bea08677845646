"""Working through a batch: windows, order, failures; and answers equal to the server's."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.batch.lines import MAX_LINE_BYTES, Survey
from octavo.batch.local_server import LocalServer, Response
from octavo.batch.output import OutputFile
from octavo.batch.work import BatchWork, Tally
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError, EngineDead, Overloaded
from octavo.engine.load import load_engine
from octavo.runtime.async_client import Answer, AsyncClient
from octavo.runtime.model_text import ModelText
from tests.small_model import ENDLESS, write_endless_model, write_small_model

pytestmark = pytest.mark.anyio
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 2},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class ScriptedServer:
    """Answers when it is told to."""

    def __init__(self, script: Callable[[int], Response | Exception] | None = None) -> None:
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.most_waiting = 0
        self._script = script or (lambda number: Response(200, "r", _body(number)))

    async def post(self, path: str, fields: dict[str, Any]) -> Response:
        number = fields["number"]
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        try:
            await self.waiting[number]
        finally:
            del self.waiting[number]
        response = self._script(number)
        if isinstance(response, Exception):
            raise response
        return response

    async def answer(self, number: int) -> None:
        async with asyncio.timeout(60):
            while number not in self.waiting:
                await asyncio.sleep(0)
        self.waiting[number].set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def _body(number: int) -> bytes:
    return json.dumps({"number": number, "usage": USAGE}).encode()


class Run:
    """A batch of ``count`` lines on some server."""

    def __init__(self, folder: Path, count: int, **options: Any) -> None:
        self.input = folder / "in.jsonl"
        self.output = folder / "out.jsonl"
        if not self.input.exists():
            lines = [
                {"custom_id": f"n{number}", "url": "/x", "body": {"number": number}}
                for number in range(count)
            ]
            self.input.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.server = ScriptedServer(options.pop("script", None))
        self.tally = Tally()
        self.reports = 0
        self.options = {"limit": None, "in_flight": 4, "ordered": False, **options}

    async def go(self) -> None:
        survey = Survey.of(self.input)
        with closing(OutputFile(self.output, survey)) as output:
            await BatchWork(
                self.server,  # type: ignore[arg-type]
                survey,
                output,
                tally=self.tally,
                progress=self._report,
                **self.options,
            ).run()

    def _report(self) -> None:
        self.reports += 1

    def names(self) -> list[str]:
        return [answer["custom_id"] for answer in read(self.output)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def test_answers_come_as_they_are_completed(tmp_path: Path) -> None:
    run = Run(tmp_path, 4)
    task = asyncio.create_task(run.go())
    for number in (2, 0, 3, 1):
        await run.server.answer(number)
    await task
    assert run.names() == ["n2", "n0", "n3", "n1"]
    assert run.tally == Tally(4, 0, 20, 8, 12)
    assert run.reports == 4


async def test_or_in_the_order_of_the_input(tmp_path: Path) -> None:
    run = Run(tmp_path, 5, ordered=True)
    task = asyncio.create_task(run.go())
    for number in (2, 3, 1):
        await run.server.answer(number)
    assert run.names() == []
    assert run.tally == Tally()  # what is held back is not done
    assert 4 not in run.server.waiting  # those that wait for their turn are among the window
    for number in (0, 4):
        await run.server.answer(number)
    await task
    assert run.names() == ["n0", "n1", "n2", "n3", "n4"]


async def test_a_window_of_requests_is_under_way(tmp_path: Path) -> None:
    run = Run(tmp_path, 40, in_flight=3)
    task = asyncio.create_task(run.go())
    for number in range(40):
        await run.server.answer(number)
    await task
    assert run.server.most_waiting == 3
    assert len(run.names()) == 40


async def test_a_limit_counts_requests_of_the_input(tmp_path: Path) -> None:
    for limit, expected in ((2, ["n0", "n1"]), (3, ["n0", "n1", "n2"]), (3, ["n0", "n1", "n2"])):
        run = Run(tmp_path, 10, limit=limit)
        task = asyncio.create_task(run.go())
        while not task.done():
            for number in list(run.server.waiting):
                await run.server.answer(number)
            await asyncio.sleep(0)
        await task
        assert run.names() == expected


async def test_being_cancelled_keeps_what_is_done_and_a_second_run_does_the_rest(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, 6)
    task = asyncio.create_task(run.go())
    await run.server.answer(1)
    await run.server.answer(4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not run.server.waiting
    assert run.names() == ["n1", "n4"]
    second = Run(tmp_path, 6)
    task = asyncio.create_task(second.go())
    for number in (0, 2, 3, 5):
        await second.server.answer(number)
    await task
    assert sorted(second.names()) == [f"n{number}" for number in range(6)]
    assert second.tally.answered == 4


async def test_what_fails_because_it_is_cancelled_is_no_reason_to_end(tmp_path: Path) -> None:
    """Ctrl-C is an interruption, also where a request does not take it well."""

    class Fragile(ScriptedServer):
        async def post(self, path: str, fields: dict[str, Any]) -> Response:
            try:
                return await super().post(path, fields)
            except asyncio.CancelledError:
                raise EngineDead("in the middle of something") from None

    run = Run(tmp_path, 6)
    run.server = Fragile()
    task = asyncio.create_task(run.go())
    await run.server.answer(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.names() == ["n1"]


async def test_an_engine_that_dies_ends_the_run_without_an_answer(tmp_path: Path) -> None:
    def script(number: int) -> Response | Exception:
        return EngineDead("gone") if number == 1 else Response(200, "r", _body(number))

    run = Run(tmp_path, 6, script=script)
    task = asyncio.create_task(run.go())
    await run.server.answer(0)
    await run.server.answer(1)
    with pytest.raises(EngineDead, match="gone"):
        await task
    assert run.names() == ["n0"]


@pytest.mark.parametrize("error", [EngineDead("gone"), OSError(28, "no space")])
async def test_what_fails_after_all_lines_are_started_is_told_too(
    tmp_path: Path, error: Exception
) -> None:
    """The group then cancels whoever waits for it, which is no interruption."""
    run = Run(tmp_path, 3, script=lambda number: error)
    task = asyncio.create_task(run.go())
    await run.server.answer(1)
    with pytest.raises(type(error), match=str(error.args[-1])):
        await task
    assert run.names() == []


async def test_an_input_that_changes_meanwhile_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, 3)
    survey = Survey.of(run.input)
    with closing(OutputFile(run.output, survey)) as output:
        run.input.write_text(run.input.read_text().replace("n1", "n9"))
        work = BatchWork(
            run.server,  # type: ignore[arg-type]
            survey,
            output,
            tally=run.tally,
            progress=lambda: None,
            **run.options,
        )
        with pytest.raises(ConfigError, match="line 2 was changed"):
            await work.run()


async def test_refusals_and_bad_lines_are_answers_and_stop_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, 2, script=lambda number: Response(400, "r", b'{"error":{}}'))
    with run.input.open("a") as file:
        file.write('nonsense\n{"custom_id": "n0", "url": "/x", "body": {"number": 3}}\n')
    task = asyncio.create_task(run.go())
    await run.server.answer(0)
    await run.server.answer(1)
    await task
    assert run.tally == Tally(failed=4)
    answers = {answer["id"].split("_")[2]: answer for answer in read(run.output)}
    assert len(answers) == 4
    assert answers["1"]["response"]["status_code"] == 400
    assert answers["3"]["error"]["code"] == "invalid_request"
    assert "an earlier line has the custom_id 'n0'" in answers["4"]["error"]["message"]
    assert answers["4"]["custom_id"] == "n0"


async def test_answers_are_those_of_the_engine(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path / "model")
    bodies = [
        ("/v1/completions", {"prompt": f"number {number}", "max_tokens": 9, "seed": number, "n": 2})
        for number in range(12)
    ]
    bodies += [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "seed": 1},
        ),
        ("/v1/completions", {"prompt": "a", "stream": True}),
        ("/v1/completions", {"prompt": "a", "model": "another"}),
        ("/v1/completions", {"prompt": "a", "temperature": -1}),
        ("/v1/nowhere", {}),
    ]
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(
            json.dumps({"custom_id": f"c{index}", "url": url, "body": body}) + "\n"
            for index, (url, body) in enumerate(bodies)
        )
    )
    survey = Survey.of(path)
    tally = Tally()
    loaded = load_engine(folder, EngineConfig())
    run, some_are_there = loaded.executable.run, threading.Event()

    def wait_and_run(batch: Any) -> Any:
        assert some_are_there.wait(60)
        return run(batch)

    loaded.executable.run = wait_and_run  # type: ignore[method-assign]
    async with AsyncClient(loaded, ModelText(folder)) as client:
        start = client.start

        def start_and_tell(*arguments: Any, **options: Any) -> Answer:
            answer = start(*arguments, **options)
            if client.num_live == 4:
                some_are_there.set()
            return answer

        client.start = start_and_tell  # type: ignore[method-assign]
        server = LocalServer("small", client, max_body_bytes=MAX_LINE_BYTES)
        with closing(OutputFile(tmp_path / "out.jsonl", survey)) as output:
            await BatchWork(
                server,
                survey,
                output,
                limit=None,
                in_flight=8,
                ordered=False,
                progress=lambda: None,
                tally=tally,
            ).run()
        assert client.num_live == 0
        stats = await client.stats()
    assert stats.scheduler.max_running > 2
    answers = {answer["custom_id"]: answer["response"] for answer in read(output_of(tmp_path))}
    statuses = [answers[f"c{index}"]["status_code"] for index in range(len(bodies))]
    assert statuses == [200] * 13 + [400, 404, 400, 404]
    with LLM(folder) as llm:
        for number in range(12):
            params = SamplingParams(max_tokens=9, seed=number, n=2)
            [expected] = llm.generate(f"number {number}", params)
            body = answers[f"c{number}"]["body"]
            texts = [choice["text"] for choice in body["choices"]]
            assert texts == [choice.text for choice in expected.choices]
            assert body["usage"]["completion_tokens"] == expected.usage.completion_tokens
    assert answers["c12"]["body"]["object"] == "chat.completion"
    assert answers["c13"]["body"]["error"]["param"] == "stream"
    assert (tally.succeeded, tally.failed) == (13, 4)
    assert tally.completion_tokens == sum(
        answer["body"]["usage"]["completion_tokens"]
        for answer in answers.values()
        if answer["status_code"] == 200
    )


def output_of(folder: Path) -> Path:
    return folder / "out.jsonl"


async def test_any_model_may_be_named_if_that_is_wanted(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path)
    async with await AsyncClient.load(folder) as client:
        server = LocalServer("small", client, any_model=True, max_body_bytes=MAX_LINE_BYTES)
        fields = {"model": "another", "prompt": "a", "max_tokens": 2}
        response = await server.post("/v1/completions", fields)
        assert response.status == 200
        assert json.loads(response.body)["model"] == "small"
        assert fields["model"] == "another"


async def test_a_dead_engine_is_no_answer(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path)
    async with await AsyncClient.load(folder) as client:
        server = LocalServer("small", client, max_body_bytes=MAX_LINE_BYTES)
        await client.close()
        with pytest.raises(EngineDead):
            await server.post("/v1/completions", {"prompt": "a"})


async def test_a_full_queue_is_no_answer(tmp_path: Path) -> None:
    folder = write_endless_model(tmp_path)
    async with await AsyncClient.load(folder, max_num_seqs=1, max_waiting_requests=2) as client:
        server = LocalServer("small", client, max_body_bytes=MAX_LINE_BYTES)
        fields = {"prompt": ["a", "b", "c", "d"], "max_tokens": ENDLESS, "ignore_eos": True}
        with pytest.raises(Overloaded) as refusal:
            await server.post("/v1/completions", fields)
    assert "--in-flight" in (refusal.value.hint or "")
