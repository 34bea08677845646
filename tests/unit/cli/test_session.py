"""A session's commands and what is kept of a conversation, on a real small model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.cli.session import Session
from octavo.cli.terminal import Screen
from octavo.core.errors import ConfigError, InvalidRequest, OctavoError
from octavo.runtime.async_client import AsyncClient
from tests.small_model import ENDLESS, write_endless_model

pytestmark = pytest.mark.anyio
Open = Callable[..., Session]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(model: Path) -> AsyncIterator[AsyncClient]:
    async with await AsyncClient.load(model) as opened:
        yield opened


@pytest.fixture
def open_session(client: AsyncClient) -> Open:
    def opened(*, is_chat: bool = True, system: str | None = None, **sampling: Any) -> Session:
        values = {"max_tokens": 4, "seed": 1, "ignore_eos": True} | sampling
        return Session(
            client, model="m", is_chat=is_chat, system=system, sampling=values, screen=Screen()
        )

    return opened


async def test_a_conversation_is_that_of_the_chat_template(
    open_session: Open, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(system="Be brief.", logit_bias={5: 1.0})
    await session.answer("one")
    first = session.conversation.turns[1]["content"]
    assert capsys.readouterr().out.rstrip("\n") == first.rstrip("\n")
    await session.answer("two")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
    ]
    params = SamplingParams(max_tokens=4, seed=1, ignore_eos=True, logit_bias={5: 1.0})
    with LLM(model) as llm:
        assert session.conversation.turns[3]["content"] == llm.chat(messages, params)[0].text


async def test_without_a_template_each_message_stands_alone(
    open_session: Open, model: Path
) -> None:
    session = open_session(is_chat=False)
    await session.answer("one")
    await session.answer("two")
    with LLM(model) as llm:
        params = SamplingParams(max_tokens=4, seed=1, ignore_eos=True)
        expected = llm.generate(["one", "two"], params)
    assert [turn["content"] for turn in session.conversation.turns[1::2]] == [
        output.text for output in expected
    ]
    with pytest.raises(InvalidRequest, match="needs a chat template"):
        session.command("/system Be brief.")


async def test_cancelling_stops_the_answer_and_keeps_what_was_said(tmp_path: Path) -> None:
    async with await AsyncClient.load(write_endless_model(tmp_path)) as client:
        sampling = {"max_tokens": ENDLESS, "seed": 1, "ignore_eos": True}
        session = Session(
            client, model="m", is_chat=True, system=None, sampling=sampling, screen=Screen()
        )
        task = asyncio.create_task(session.answer("go"))
        while client.num_live == 0:
            await asyncio.sleep(0)
        task.cancel()
        assert await task is False
        assert client.num_live == 0
        assert len(session.conversation.turns) in (0, 2)
        session.command("/set max_tokens 4")
        assert await session.answer("on")


async def test_a_message_that_cannot_be_answered_changes_nothing(open_session: Open) -> None:
    session = open_session()
    with pytest.raises(InvalidRequest, match="no room for an answer"):
        await session.answer("x" * 600)
    assert session.conversation.turns == []


async def test_settings(open_session: Open, capsys: pytest.CaptureFixture[str]) -> None:
    session = open_session()
    session.command("/set temperature 0.5")
    session.command("/set stop_token_ids 1,2")
    session.command("/set seed none")
    session.command("/set max_tokens default")
    for wrong in ("/set temperature hot", "/set temperature -1", "/set sed 3", "/set n 2"):
        with pytest.raises(OctavoError):
            session.command(wrong)
    capsys.readouterr()
    session.command("/set")
    shown = dict(line.split(" = ") for line in capsys.readouterr().out.splitlines())
    assert shown["temperature"] == "0.5"
    assert shown["stop_token_ids"] == "(1, 2)"
    assert shown["seed"] == "none"
    assert shown["max_tokens"] == "512  (default)"
    session.command("/set temperature")
    assert capsys.readouterr().out == "temperature = 0.5\n"


async def test_system_and_reset(open_session: Open, capsys: pytest.CaptureFixture[str]) -> None:
    session = open_session()
    session.command("/system")
    session.command("/system Be brief.")
    await session.answer("one")
    session.command("/reset")
    assert session.conversation.turns == []
    assert session.conversation.system == "Be brief."
    session.command("/system off")
    assert session.conversation.system is None
    out = capsys.readouterr().out
    assert "system: none" in out
    assert "system: Be brief." in out


async def test_save_and_load(open_session: Open, tmp_path: Path) -> None:
    session = open_session(system="Be brief.")
    await session.answer("one")
    path = tmp_path / "talk.json"
    session.command(f"/save {path}")
    session.command(f"/save {path}")  # over a conversation of ours
    other = open_session()
    other.command(f"/load {path}")
    assert other.conversation == session.conversation
    await other.answer("two")
    await session.answer("two")
    assert other.conversation == session.conversation


@pytest.mark.parametrize(
    "content",
    [
        b"my diary",
        b"[]",
        b"{}",
        b"\xff",
        b'{"format": "octavo conversation 1"}',
        b'{"format": "octavo conversation 1", "system": null, "turns": 3}',
        b'{"format": "octavo conversation 1", "system": null, "turns": [{"role": "root"}]}',
        b'{"format": "octavo conversation 2", "system": null, "turns": []}',
        b"[" * 100_000,
    ],
)
async def test_what_is_not_ours_is_neither_read_nor_overwritten(
    open_session: Open, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    session = open_session()
    for command in ("/save", "/load"):
        with pytest.raises(ConfigError, match="not a saved conversation"):
            session.command(f"{command} {path}")
    assert path.read_bytes() == content


async def test_wrong_commands(open_session: Open, tmp_path: Path) -> None:
    session = open_session()
    with pytest.raises(ConfigError, match="unknown command '/rest'") as caught:
        session.command("/rest")
    assert caught.value.hint == "did you mean '/reset'?"
    with pytest.raises(ConfigError, match="the name of a file is missing"):
        session.command("/save")
    with pytest.raises(FileNotFoundError):
        session.command(f"/load {tmp_path / 'nowhere'}")


async def test_the_saved_file_says_what_was_asked_of_which_model(
    open_session: Open, tmp_path: Path
) -> None:
    session = open_session(logit_bias={5: 1.0})
    session.command(f"/save {tmp_path / 'f'}")
    saved = json.loads((tmp_path / "f").read_text())
    assert saved["model"] == "m"
    assert saved["sampling"]["seed"] == 1


async def test_wrong_values_are_told_before_the_first_message(open_session: Open) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        open_session(temperature=-1.0)


async def test_stats(open_session: Open, capsys: pytest.CaptureFixture[str]) -> None:
    session = open_session()
    await session.answer("one")
    session.note_speed()
    await session.show_stats()
    out = capsys.readouterr().out
    assert "[4 tokens · " in out
    assert "requests                   1\n" in out
