"""Bodies: bounded in bytes, time and depth before anything looks at them."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import InvalidRequest
from octavo.server.body import ClientGone, Readings, parse_object, read_body
from octavo.server.errors import BodyTimeout, BodyTooLarge, UnsupportedEncoding

pytestmark = pytest.mark.anyio


class Sender:
    """The receiving end of an ASGI connection: gives out parts, then waits or leaves."""

    def __init__(self, *parts: bytes, ends: bool = True, leaves: bool = False) -> None:
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not ends or part is not parts[-1]}
            for part in parts
        ]
        if leaves:
            self._messages.append({"type": "http.disconnect"})
        self.num_read = 0

    async def __call__(self) -> dict[str, Any]:
        if self.num_read == len(self._messages):
            await anyio.sleep_forever()
        self.num_read += 1
        return self._messages[self.num_read - 1]


async def read(sender: Sender, **limits: Any) -> bytes:
    scope = {"type": "http", "headers": []}
    return await read_body(
        scope, sender, readings=Readings(), **{"max_bytes": 10, "timeout_s": 5.0, **limits}
    )


async def test_parts_are_joined() -> None:
    assert await read(Sender(b"01234", b"56789")) == b"0123456789"


async def test_a_large_body_is_read_on_and_refused() -> None:
    sender = Sender(*[bytes([65 + i]) * 6 for i in range(4)])
    with pytest.raises(BodyTooLarge, match="larger than 10 bytes"):
        await read(sender)
    assert sender.num_read == 4


async def test_nobody_reads_on_forever() -> None:
    sender = Sender(*[b"%06d" % i for i in range(100)])
    with pytest.raises(BodyTooLarge):
        await read(sender)
    assert sender.num_read == 7


async def test_a_slow_body_is_refused() -> None:
    with pytest.raises(BodyTimeout):
        await read(Sender(b"01", ends=False), timeout_s=0.01)


async def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientGone):
        await read(Sender(b"01", ends=False, leaves=True))


async def test_compressed_bodies_are_refused() -> None:
    scope = {"type": "http", "headers": [(b"content-encoding", b"gzip")]}
    with pytest.raises(UnsupportedEncoding):
        await read_body(scope, Sender(b"x"), max_bytes=10, timeout_s=1, readings=Readings())


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def test_depth_is_exact() -> None:
    assert parse_object(nested(64), max_depth=64)
    with pytest.raises(InvalidRequest, match="deeper than 64"):
        parse_object(nested(65), max_depth=64)


def test_brackets_in_strings_do_not_count() -> None:
    text = '[{"\\"[' * 100
    body = json.dumps({text: [text, text]}).encode()
    assert parse_object(body, max_depth=3) == {text: [text, text]}


def test_many_siblings_are_not_deep() -> None:
    body = json.dumps({"prompt": [[1, 2], [3]] * 1000}).encode()
    assert len(parse_object(body, max_depth=4)["prompt"]) == 2000


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(st.dictionaries(st.text(), values, max_size=3), st.integers(1, 6))
def test_taken_if_and_only_if_shallow_enough(value: dict[str, Any], max_depth: int) -> None:
    body = json.dumps(value).encode()
    few_brackets = body.count(b"[") + body.count(b"{") <= max_depth
    if depth_of(value) <= max_depth:
        assert parse_object(body, max_depth=max_depth) == value
    else:
        assert not few_brackets
        with pytest.raises(InvalidRequest):
            parse_object(body, max_depth=max_depth)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(parse_object(body, max_depth=2), dict)


@pytest.mark.parametrize(
    "unit", [b"[", b"{", b"[]", b'"\\', b'\\"', b'["', b'{"":', b"[{", b"\\", b'"[']
)
def test_time_is_linear(unit: bytes) -> None:
    """Two MiB of anything that a scanner could stumble over."""
    body = b"[" * 65 + unit * (2**21 // len(unit))
    started = time.process_time()
    with pytest.raises(InvalidRequest):
        parse_object(body, max_depth=64)
    used_s = time.process_time() - started
    assert used_s < 1.5, used_s
