"""A session's commands and what is kept of a conversation, on a real small model."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.cli.run import MESSAGES_COME_LATER
from octavo.cli.session import Session
from octavo.cli.terminal import Screen
from octavo.core.errors import ConfigError, InvalidRequest, OctavoError
from octavo.runtime.async_client import AsyncClient
from tests.command_line import CommandLine
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


def prompt_size(status: str) -> int:
    found = re.search(r"prompt of (\d+)", status)
    assert found is not None
    return int(found[1])


async def test_a_conversation_goes_on_for_ever(
    open_session: Open, client: AsyncClient, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    session = open_session(system="Be brief.", max_tokens=40)
    left_out, sizes = [], []
    for index in range(30):
        await session.answer(f"message {index}")
        session.note_speed()
        out = capsys.readouterr().out
        left_out += [int(count) for count in re.findall(r"\(the oldest (\d+) messages no lo", out)]
        sizes.append(prompt_size(out))
        # The prompt is the system message and what is not left out, with room for the answer.
        turns = session.conversation.turns[:-2]
        kept = turns[left_out[-1] if left_out else 0 :]
        system = {"role": "system", "content": "Be brief."}
        messages = [system, *kept, {"role": "user", "content": f"message {index}"}]
        assert sizes[-1] == len(client.text.encode_chat(messages).token_ids)
        assert sizes[-1] + 40 <= client.max_model_len
    # Once it is full, each message takes the place of one; each time is told, and only once.
    assert left_out[0] == 2
    assert left_out == sorted(set(left_out))
    assert all(count % 2 == 0 for count in left_out)
    assert min(sizes[15:]) > client.max_model_len * 0.6  # not more is left out than must be
    assert len(session.conversation.turns) == 60
    session.command(f"/save {tmp_path / 'talk'}")
    assert len(json.loads((tmp_path / "talk").read_text())["turns"]) == 60

    # A conversation that was loaded is all there at first, and cut to the same prompt.
    other = open_session(system="Be brief.", max_tokens=40)
    other.command(f"/load {tmp_path / 'talk'}")
    capsys.readouterr()
    await other.answer("and now?")
    others = capsys.readouterr().out
    await session.answer("and now?")
    assert re.findall(r"oldest \d+", others) == re.findall(r"oldest \d+", capsys.readouterr().out)
    assert other.conversation == session.conversation

    session.command("/reset")
    await session.answer("one")
    assert "no longer fit" not in capsys.readouterr().out


async def test_what_is_left_out_is_told_once(
    open_session: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(allowed_token_ids=(5,))
    notices = []
    for length in (200, 200, 50, 1, 1):
        await session.answer("x" * length)
        notices.append("(the oldest 2 messages no longer fit" in capsys.readouterr().out)
    assert notices == [False, False, True, False, False]


async def test_a_conversation_leaves_a_third_of_the_context_to_a_long_answer(
    open_session: Open, client: AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(max_tokens=10, allowed_token_ids=(5,))
    for _ in range(4):
        await session.answer("x" * 50)
    assert "no longer fit" not in capsys.readouterr().out
    session.command("/set max_tokens default")
    await session.answer("y" * 50)
    session.note_speed()
    out = capsys.readouterr().out
    assert "(the oldest 2 messages no longer fit and are left out)" in out
    assert client.max_model_len / 2 < prompt_size(out) <= client.max_model_len * 2 / 3
    assert out.endswith(" · cut off: the context is full]\n")


async def test_a_message_that_is_too_long_alone_leaves_nothing_out(
    open_session: Open, client: AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session()
    await session.answer("one")
    with pytest.raises(InvalidRequest, match=r"prompt has (\d+) tokens .* no room for an answer"):
        await session.answer("x" * client.max_model_len)
    assert "no longer fit" not in capsys.readouterr().out
    await session.answer("two")
    session.note_speed()
    everything = session.conversation.turns[:3]
    expected = len(client.text.encode_chat(everything).token_ids)
    assert prompt_size(capsys.readouterr().out) == expected

    # One that is answered, though the answer has less room than it should, pushes all else out.
    await session.answer("x" * (client.max_model_len - 30))
    session.note_speed()
    out = capsys.readouterr().out
    assert "(the oldest 4 messages no longer fit and are left out)" in out
    assert prompt_size(out) > client.max_model_len - 30


async def test_why_an_answer_was_cut_off(
    open_session: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    session = open_session(max_tokens=4)
    await session.answer("one")
    session.note_speed()
    assert capsys.readouterr().out.endswith(" · cut off: --max-tokens]\n")

    session.command("/set allowed_token_ids 5")
    session.command("/set stop_token_ids 5")
    await session.answer("two")  # ends of its own accord
    session.note_speed()
    out = capsys.readouterr().out
    assert "[1 tokens · " in out
    assert "cut off" not in out


@pytest.mark.parametrize(
    ("first_s", "later_s", "max_tokens", "expected"),
    [
        (0.0004, 0.0006, 17, "[17 tokens · first after 0.4 ms · "),
        (0.2, 0.0199, 17, "[17 tokens · first after 0.20 s · "),
        (0.0999, 0.2, 17, "[17 tokens · 80.0 tokens/s · first after 99.9 ms · "),
        (1.234, 0.1, 17, "[17 tokens · 160 tokens/s · first after 1.23 s · "),
        (0.1, 2.0, 2, "[2 tokens · first after 0.10 s · "),
        (0.1, 2.0, 3, "[3 tokens · 1.0 tokens/s · first after 0.10 s · "),
    ],
)
async def test_a_speed_is_shown_where_it_says_something(
    client: AsyncClient,
    capsys: pytest.CaptureFixture[str],
    first_s: float,
    later_s: float,
    max_tokens: int,
    expected: str,
) -> None:
    times = iter([0.0, first_s, first_s + later_s])
    session = Session(
        client,
        model="m",
        is_chat=True,
        system=None,
        sampling={"max_tokens": max_tokens, "seed": 1, "ignore_eos": True},
        screen=Screen(),
        clock=lambda: next(times),
    )
    await session.answer("one")
    session.note_speed()
    assert capsys.readouterr().out.splitlines()[-1].startswith(expected)


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


@pytest.mark.parametrize(
    ("words", "is_told"),
    [
        (["Tell me a story about a cat"], True),
        (["Hello!"], True),
        (["this and/or that"], True),
        (["./missing"], False),
        (["builtin", "--tokenizer", "missing"], False),
    ],
)
def test_who_gives_a_message_for_a_model_is_told_where_it_belongs(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch, words: list[str], is_told: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
    ended = octavo("run", *words)
    assert (ended.status, ended.out) == (3, "")
    assert f"error: {words[-1]}: no such folder\n" in ended.err
    assert "hint: give a folder, a hub id" in ended.err
    assert ended.err.endswith(f"; {MESSAGES_COME_LATER}\n") == is_told


@pytest.mark.parametrize(("model", "is_told"), [("Tell me a story", True), ("builtin", False)])
def test_who_pipes_in_nothing_is_told_so(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch, model: str, is_told: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    ended = octavo("run", model)
    assert (ended.status, ended.out) == (2, "")
    assert "error: the input is empty\n" in ended.err
    assert ended.err.endswith(f"; {MESSAGES_COME_LATER}\n") == is_told


async def test_stats(open_session: Open, capsys: pytest.CaptureFixture[str]) -> None:
    session = open_session()
    await session.answer("one")
    session.note_speed()
    await session.show_stats()
    out = capsys.readouterr().out
    assert "[4 tokens · " in out
    assert "requests                   1\n" in out
