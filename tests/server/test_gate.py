"""Who may ask, what every answer carries, and what is never written down."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from octavo.server.app import _PATHS
from octavo.server.auth import ApiKeys
from octavo.server.errors import Forbidden
from octavo.server.gate import ACCESS_LOGGER, OPEN_ROUTES, check_host
from octavo.server.settings import LOOPBACK_HOSTS, ServerSettings
from tests.server.serving import COMPLETIONS, MODEL, Serving, serving

pytestmark = pytest.mark.anyio
KEY = "correct-horse-battery"
POSTED = ("/v1/completions", "/v1/chat/completions")
SECRET = "the-secret-of-the-prompt"


@pytest.fixture(scope="module")
async def guarded(folder: Path, anyio_backend: str) -> AsyncIterator[Serving]:
    async with serving(folder, settings=ServerSettings(keys=ApiKeys([KEY]))) as server:
        yield server


def concrete(path: str) -> str:
    return path.replace("{name:path}", MODEL)


async def request(server: Serving, path: str, **headers: str) -> httpx.Response:
    method = "POST" if path in POSTED else "GET"
    return await server.http.request(method, concrete(path), headers=headers)


@pytest.mark.parametrize("path", _PATHS)
async def test_every_route_asks_for_a_key(guarded: Serving, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong-key-of-16-or-more"}):
        response = await request(guarded, path, **headers)
        if path in OPEN_ROUTES:
            assert response.status_code == 200
        else:
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["type"] == "authentication_error"
            assert response.json()["error"]["code"] == "invalid_api_key"
    response = await request(guarded, path, authorization=f"Bearer {KEY}")
    assert response.status_code == (400 if path in POSTED else 200)


async def test_what_is_not_there_asks_for_a_key_too(guarded: Serving) -> None:
    assert (await guarded.http.get("/nothing")).status_code == 401


@pytest.mark.parametrize("path", _PATHS)
async def test_every_route_looks_at_host_and_origin(served: Serving, path: str) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        response = await request(served, path, **headers)
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "host_not_allowed"
        assert "evil" not in response.text
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8000"]
)
def test_hosts_of_this_machine(host: str) -> None:
    check_host([(b"host", host.encode())], LOOPBACK_HOSTS)
    check_host([(b"host", b"localhost"), (b"origin", f"http://{host}".encode())], LOOPBACK_HOSTS)


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "localhost.evil.example", "127.0.0.1.evil", "[::2]", "::1", "null"),
        *("localhost:evil.example", "localhost:", "localhost:80:80", "[::1]evil", "[::1]:x"),
    ],
)
def test_other_hosts(host: str) -> None:
    with pytest.raises(Forbidden):
        check_host([(b"host", host.encode())], LOOPBACK_HOSTS)
    with pytest.raises(Forbidden):
        check_host([(b"host", b"localhost"), (b"origin", host.encode())], LOOPBACK_HOSTS)


def test_none_or_two_hosts() -> None:
    for headers in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
        with pytest.raises(Forbidden):
            check_host(headers, LOOPBACK_HOSTS)
    check_host([], None)


async def test_unknown_paths_and_methods(served: Serving) -> None:
    response = await served.http.get("/v2/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "route_not_found")
    response = await served.http.put(COMPLETIONS)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert response.json()["error"]["hint"] == "possible: POST"
    assert (await served.http.get("/v1/models/")).status_code == 404


async def test_models_are_listed(served: Serving) -> None:
    listed = (await served.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    [card] = listed["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", 512)
    assert (await served.http.get(f"/v1/models/{MODEL}")).json() == card
    assert (await served.http.get("/v1/models/other")).status_code == 404


async def test_a_draining_server_takes_nothing_new(folder: Path) -> None:
    async with serving(folder) as server:
        server.app.drain()
        response = await server.post(COMPLETIONS, {"prompt": "Once"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.headers["connection"] == "close"
        assert response.json()["error"]["code"] == "draining"
        assert (await server.http.get("/readyz")).status_code == 503
        assert (await server.http.get("/livez")).status_code == 200
        assert (await server.http.get("/metrics")).status_code == 200


async def test_too_much_at_once_is_429(folder: Path) -> None:
    async with serving(folder, max_waiting_tokens=8) as server:
        response = await server.post(COMPLETIONS, {"prompt": "a prompt of many tokens"})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert (await server.metrics())[
            f'octavo_requests_total{{model="{MODEL}",outcome="overloaded",route="{COMPLETIONS}"}}'
        ] == 1


async def test_a_bug_tells_nothing_and_is_logged_without_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(folder) as server:

        def broken(prompt: str) -> None:
            raise ZeroDivisionError(prompt)

        monkeypatch.setattr(server.client.text, "encode", broken)
        response = await server.post(COMPLETIONS, {"prompt": SECRET})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "ZeroDivision" not in response.text
    assert SECRET not in response.text
    request_id = response.headers["x-request-id"]
    assert any(request_id in line and "ZeroDivisionError" in line for line in caplog.messages)
    assert SECRET not in caplog.text


async def test_the_access_log_has_no_content(
    guarded: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=ACCESS_LOGGER)
    headers = {"authorization": f"Bearer {KEY}", "user-agent": SECRET}
    bodies = [
        {"model": MODEL, "prompt": SECRET, "user": SECRET},
        {"model": SECRET, "prompt": SECRET},
        {"model": MODEL, "prompt": SECRET, "temperature": SECRET, SECRET: 1},
    ]
    for body in bodies:
        await guarded.http.post(f"{COMPLETIONS}?{SECRET}", json=body, headers=headers)
    await guarded.http.get(f"/{SECRET}", headers=headers)
    lines = [json.loads(line) for line in caplog.messages if line.startswith("{")]
    assert [line["status"] for line in lines] == [200, 404, 400, 404]
    assert [line["outcome"] for line in lines] == ["ok", "refused", "refused", "refused"]
    assert lines[0]["prompt_tokens"] == len(SECRET)
    assert lines[0]["completion_tokens"] >= 1
    assert SECRET not in caplog.text
    assert KEY not in caplog.text
    assert len({line["request_id"] for line in lines}) == 4
