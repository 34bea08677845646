"""A real server and the ``openai`` client."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion

from tests.e2e.server_process import ServerProcess, poll, server_process
from tests.small_model import ENDLESS, write_endless_model, write_small_model

pytestmark = [
    pytest.mark.slow,  # each starts a real process, or asks one
    pytest.mark.timeout(900),  # more than all that one of them waits for: that says what is missing
]
STORY: Any = [{"role": "user", "content": "Tell me a story about a dog."}]
HELLO: Any = [{"role": "user", "content": "Hello there"}]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [write_small_model(root / "small"), write_endless_model(root / "endless")]


@pytest.fixture(scope="module")
def server(folders: list[Path]) -> Iterator[ServerProcess]:
    with server_process(*folders, f"nick={folders[0]}") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed(server: ServerProcess, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small", "endless", "nick"]
    assert client.models.retrieve("endless").id == "endless"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("third")


def test_completions_whole_and_streamed(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": "Once", "seed": 1, "n": 2, "logprobs": 2, "max_tokens": 9}
    whole = client.completions.create(model="small", **fields)
    stream = client.completions.create(
        model="small", stream=True, stream_options={"include_usage": True}, **fields
    )
    chunks = list(stream)
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(one.text for one in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        assert choice.logprobs is not None
        told = [value for one in mine if one.logprobs for value in one.logprobs.token_logprobs]
        assert told == choice.logprobs.token_logprobs
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_chats_whole_and_streamed(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"messages": HELLO, "seed": 1, "n": 2, "max_completion_tokens": 9}
    fields |= {"logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(model="small", **fields)
    chunks = list(client.chat.completions.create(model="small", stream=True, **fields))
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in mine) == choice.message.content
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        told = [e for one in mine if one.logprobs for e in one.logprobs.content or []]
        assert told == choice.logprobs.content
        assert all(len(entry.top_logprobs) == 3 for entry in told)


def test_models_answer_for_themselves(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": "Once", "seed": 1}
    answers = [
        client.completions.create(model=name, **fields).choices[0].text
        for name in ("small", "nick", "endless")
    ]
    assert answers[0] == answers[1] == answers[2]  # three engines, one set of weights


def test_stop_and_extensions(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"prompt": "Once", "seed": 3, "max_tokens": 40}
    extra = {"ignore_eos": True, "top_k": 30}
    text = client.completions.create(model="small", extra_body=extra, **fields).choices[0].text
    stop = text[5:7]
    choice = client.completions.create(model="small", stop=stop, extra_body=extra, **fields)
    assert choice.choices[0].text == text[: text.index(stop)]
    assert choice.choices[0].finish_reason == "stop"


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"temperature must be a number in") as bad:
        client.chat.completions.create(model="small", messages=HELLO, temperature=-1)
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_request")
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model="small",
            messages=HELLO,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    with pytest.raises(openai.NotFoundError, match="no model 'large'"):
        client.completions.create(model="large", prompt="Once", stream=True)
    with pytest.raises(openai.BadRequestError, match="unknown field 'topk'"):
        client.completions.create(model="small", prompt="Once", extra_body={"topk": 3})


LONG: dict[str, Any] = {"prompt": "Once", "max_tokens": ENDLESS, "n": 8, "ignore_eos": True}


def check_it_was_abandoned(server: ServerProcess, before: dict[str, float]) -> None:
    """A request that was far from its end: it is counted, and gave back its pages."""
    abandoned = 'octavo_requests_total{model="endless",outcome="abandoned",route="/v1/completions"}'
    poll(lambda: server.metrics().get(abandoned, 0) == before.get(abandoned, 0) + 1)
    poll(lambda: server.held_pages() == 0)
    steps = 'octavo_engine_steps_total{model="endless"}'
    assert server.metrics()[steps] - before[steps] < ENDLESS


@pytest.mark.parametrize("after", [0, 3])
def test_a_client_that_leaves_frees_its_pages(
    server: ServerProcess, client: openai.OpenAI, after: int
) -> None:
    before = server.metrics()
    fields = {name: value for name, value in LONG.items() if name != "ignore_eos"}
    stream = client.completions.create(
        model="endless", stream=True, extra_body={"ignore_eos": True}, **fields
    )
    for _ in range(after):
        next(stream)
    poll(lambda: server.held_pages() > 0)
    stream.close()
    check_it_was_abandoned(server, before)
    tokens = 'octavo_generated_tokens_total{model="endless"}'
    assert after <= server.metrics()[tokens] - before[tokens] < 8 * ENDLESS


def test_a_client_that_leaves_a_whole_answer(server: ServerProcess) -> None:
    body = json.dumps({"model": "endless", **LONG})
    before = server.metrics()
    with closing(socket.create_connection(("127.0.0.1", server.port))) as raw:
        raw.sendall(post("/v1/completions", body.encode()))
        poll(lambda: server.held_pages() > 0)
    check_it_was_abandoned(server, before)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def exchange(server: ServerProcess, *parts: bytes) -> bytes:
    """Everything that a raw connection answers until it ends."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as raw:
        # A server that has heard enough may close before all is sent; its answer is there then.
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                raw.sendall(part)
        answer = b""
        with suppress(ConnectionResetError):
            while data := raw.recv(2**16):
                answer += data
        return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


CLOSE = "Connection: close"


def test_raw_bodies(server: ServerProcess) -> None:
    cases = {
        b"{": 400,
        b"\xff\xfe": 400,
        b"[" * 100_000: 400,
        b'{"model": "small", "prompt": "' + b"x" * 2**21 + b'"}': 413,
    }
    for body, status in cases.items():
        answer = exchange(server, post("/v1/completions", body, CLOSE))
        assert status_of(answer) == status, body[:40]
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["type"] == "invalid_request_error"
    gzip = exchange(server, post("/v1/completions", b"x", CLOSE, "Content-Encoding: gzip"))
    assert status_of(gzip) == 415


def test_raw_heads(server: ServerProcess) -> None:
    start = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert status_of(exchange(server, start + b"\r\n")) == 200
    many = b"".join(b"X-%d: y\r\n" % number for number in range(8000))
    for bomb in (many, b"X: " + b"y" * 40_000, b"X" * 200_000):
        answer = exchange(server, start, bomb, b"\r\n\r\n")
        assert status_of(answer) == 431
        assert b"head_too_large" in answer
    assert status_of(exchange(server, b"nonsense\r\n\r\n")) == 400
    smuggled = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert status_of(exchange(server, start + smuggled)) == 400


def test_a_pipelining_client_is_cut_off(server: ServerProcess) -> None:
    one = post("/v1/completions", json.dumps({"model": "endless", **LONG}).encode())
    before = server.metrics()
    assert exchange(server, one + one) == b""
    check_it_was_abandoned(server, before)


def test_a_pipelining_client_is_cut_off_in_the_middle_of_an_answer(server: ServerProcess) -> None:
    one = post("/v1/completions", json.dumps({"model": "endless", **LONG}).encode())
    before = server.metrics()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as raw:
        raw.sendall(one)
        poll(lambda: server.held_pages() > 0)
        raw.sendall(one)
        with suppress(ConnectionResetError):
            assert raw.recv(1) == b""
        check_it_was_abandoned(server, before)


def test_prompts_and_keys_are_not_logged(server: ServerProcess, client: openai.OpenAI) -> None:
    secret = "a-secret-in-a-prompt"
    client.completions.create(model="small", prompt=secret, max_tokens=2)
    poll(lambda: any('"prompt_tokens": 20' in line for line in list(server.errors)))
    assert not any(secret in line for line in server.errors)


SLOWLY = ("--backend", "reference", "--num-threads", "1", "--no-access-log")
"""So that a client keeps up with an answer, and an answer of hundreds of tokens takes a while."""


def stream_in_a_thread(
    url: str, events: list[str], *, model: str, max_tokens: int
) -> threading.Thread:
    def take(chunk: Completion) -> None:
        events.append(chunk.choices[0].finish_reason or "")

    def work() -> None:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            try:
                for chunk in client.completions.create(
                    model=model,
                    prompt="Once",
                    max_tokens=max_tokens,
                    n=8,
                    stream=True,
                    extra_body={"ignore_eos": True},
                ):
                    take(chunk)
            except openai.APIError as error:
                events.append(f"error: {error.message}")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_sigterm_finishes_streams(folders: list[Path]) -> None:
    with server_process(folders[0], *SLOWLY, "--drain-timeout-s", "120") as server:
        events: list[str] = []
        thread = stream_in_a_thread(server.url, events, model="small", max_tokens=480)
        poll(lambda: len(events) > 20)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=130) == 0
        thread.join()
        assert events.count("length") == 8
        assert server.errors == []


def test_a_second_sigterm_cuts_off(folders: list[Path]) -> None:
    with server_process(folders[1], *SLOWLY) as server:
        events: list[str] = []
        thread = stream_in_a_thread(server.url, events, model="endless", max_tokens=ENDLESS)
        poll(lambda: len(events) > 20)
        server.process.send_signal(signal.SIGTERM)
        poll(lambda: not is_listening(server.port))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 1
        thread.join()
        assert events[-1] == "error: the engine was closed"
        assert "length" not in events
        assert "error: answers were cut off" in "".join(server.errors)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_time_to_drain_is_bounded(folders: list[Path]) -> None:
    with server_process(folders[1], *SLOWLY, "--drain-timeout-s", "0.05") as server:
        events: list[str] = []
        thread = stream_in_a_thread(server.url, events, model="endless", max_tokens=ENDLESS)
        poll(lambda: len(events) > 20)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 1
        thread.join()
        assert events[-1].startswith("error: ")


def test_keys_are_asked_for(folders: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("the-key-in-the-file-1\n")
    path.chmod(0o600)
    environment = {"OCTAVO_API_KEY": "the-key-of-the-environment"}
    with server_process(folders[0], "--api-key-file", path, environment=environment) as server:
        for key in ("the-key-in-the-file-1", "the-key-of-the-environment"):
            with openai.OpenAI(base_url=server.url, api_key=key, max_retries=0) as client:
                assert client.completions.create(model="small", prompt="Once").choices
        with (
            openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError, match="not valid"),
        ):
            client.models.list()
        assert not any("the-key" in line for line in server.errors)


def failed_start(*words: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "octavo.cli.main", "serve", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_port_in_use_is_a_clear_error(server: ServerProcess, folders: list[Path]) -> None:
    status, errors = failed_start(folders[0], "--port", str(server.port))
    assert status == 2
    assert errors.splitlines() == [
        f"error: port {server.port} of 127.0.0.1 is in use",
        "hint: stop the other server, choose another --port, or let --port 0 choose one",
    ]


def test_an_open_address_without_keys_is_refused(folders: list[Path]) -> None:
    status, errors = failed_start(folders[0], "--host", "0.0.0.0", "--port", "0")
    assert status == 2
    assert "error: other machines can reach 0.0.0.0, and there are no API keys" in errors


def test_the_curl_examples_of_the_guide(server: ServerProcess) -> None:
    guide = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
    scripts = re.findall(r"^```sh\n(curl .*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert len(scripts) >= 3
    for script in scripts:
        script = script.replace("http://127.0.0.1:8000", server.root)
        script = script.replace('"NAME"', '"small"')
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert '"error"' not in done.stdout
        assert done.stdout


def test_without_a_model_the_built_in_one_answers() -> None:
    with server_process() as server:
        assert server.models == ["builtin"]
        with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            chat = client.chat.completions.create(model="builtin", messages=STORY, temperature=0)
            text = client.completions.create(
                model="builtin", prompt="Once upon a", temperature=0, max_tokens=8
            )
        assert server.stop() == 0
    assert chat.choices[0].finish_reason in ("stop", "length")
    assert len((chat.choices[0].message.content or "").split()) > 20
    assert text.choices[0].text.startswith(" time")
