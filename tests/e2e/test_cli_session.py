"""``octavo run`` in a pseudo-terminal: what a person sees, and what keys do."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.e2e.processor_time import check_start, processor_time_of
from tests.small_model import write_small_model

pytestmark = [
    pytest.mark.slow,  # each starts a process of its own
    pytest.mark.timeout(2400),  # more than a test waits for, one thing after the other
]
PROMPT = ">>> "
TIMEOUT_S = 120
FIRST_TOKEN_S = 1.5


class Terminal:
    """A session in a terminal of 120 columns; with the built-in model if none is given."""

    def __init__(self, model: Path | None, home: Path, *flags: str) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        self.history = home / "state" / "octavo" / "history"
        words = [] if model is None else [str(model), "--ignore-eos"]
        self.started_s = time.perf_counter()
        self._process = pexpect.spawn(
            sys.executable,
            ["-m", "octavo", "run", *words, "--seed", "1", *flags],
            env={
                **kept,
                "HOME": str(home),
                "TERM": "xterm",
                "PYTHONUTF8": "1",
                "XDG_STATE_HOME": str(home / "state"),
                "XDG_CONFIG_HOME": str(home / "config"),
            },
            cwd=str(home),
            encoding="utf-8",
            timeout=TIMEOUT_S,
            dimensions=(40, 120),
        )
        self.greeting = self.until(PROMPT)

    def until(self, *patterns: str) -> str:
        """Wait for the patterns, one after the other; what came before the last of them."""
        for pattern in patterns:
            self._process.expect(pattern)
        return str(self._process.before)

    def say(self, line: str) -> str:
        """Type a line; all that is shown until the next prompt."""
        self._process.sendline(line)
        return self.until(PROMPT)

    def type(self, text: str) -> None:
        self._process.send(text)

    def stop(self) -> None:
        """Ctrl-C."""
        self._process.sendintr()

    def processor_time(self) -> float:
        """Seconds that the session has computed."""
        return processor_time_of(self._process.pid)

    def leave(self) -> int:
        """Ctrl-D; the exit status."""
        self._process.sendeof()
        return self.wait()

    def wait(self) -> int:
        self._process.expect(pexpect.EOF)
        self._process.close()
        assert self._process.exitstatus is not None, f"killed by {self._process.signalstatus}"
        return int(self._process.exitstatus)

    def close(self) -> None:
        self._process.close(force=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session-model")
    return write_small_model(folder, max_position_embeddings=16384)


@pytest.fixture
def terminal(model: Path, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(model, tmp_path, "--max-tokens", "12")
    yield opened
    opened.close()


def test_a_whole_session(terminal: Terminal, tmp_path: Path) -> None:
    shown = terminal.say("Hello")
    assert re.search(
        r"12 tokens · ([\d.]+ tokens/s · )?first after [\d.]+ m?s .* cut off: --max-tokens\]", shown
    )

    # Ctrl-C ends an answer of ten thousand tokens, and not the session.
    assert "max_tokens = 10000" in terminal.say("/set max_tokens 10000")
    terminal.type("go on\r")
    terminal.until("go on\r\n", r"\S")  # something of the answer is there
    terminal.stop()
    shown = terminal.until(PROMPT)
    assert "stopped" in shown
    stopped_after = int(re.findall(r"(\d+) tokens ·", shown)[0])
    assert 0 < stopped_after < 10_000

    assert "max_tokens = 3" in terminal.say("/set max_tokens 3")
    assert "3 tokens" in terminal.say("again")

    terminal.type("one\\\r")
    terminal.until(r"\.\.\. ")
    assert "3 tokens" in terminal.say("two")
    terminal.type('"""three\r')
    terminal.until(r"\.\.\. ")
    assert "3 tokens" in terminal.say('four"""')

    assert re.search(r"requests +5\b", terminal.say("/stats"))
    assert "'/help'" in terminal.say("/hepl")
    assert "temperature must be a number" in terminal.say("/set temperature -1")
    assert "saved 10 messages" in terminal.say("/save talk.json")
    turns = json.loads((tmp_path / "talk.json").read_text())["turns"]
    said = [turn["content"] for turn in turns if turn["role"] == "user"]
    assert said == ["Hello", "go on", "again", "one\ntwo", "three\nfour"]

    terminal.stop()  # at the prompt: a reminder, no end
    assert "Ctrl-D" in terminal.until(PROMPT)
    assert terminal.leave() == 0


def test_a_conversation_outlives_its_context(terminal: Terminal) -> None:
    shown = [terminal.say(f"{index}" + "x" * 3000) for index in range(8)]
    assert "error" not in "".join(shown)
    assert "(the oldest 2 messages no longer fit and are left out)" in "".join(shown)
    assert "12 tokens" in shown[-1]


def test_history_is_private_and_comes_back(model: Path, tmp_path: Path) -> None:
    first = Terminal(model, tmp_path, "--max-tokens", "2")
    first.say("something to remember")
    assert first.leave() == 0
    assert stat.S_IMODE(first.history.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.history.parent.stat().st_mode) == 0o700
    second = Terminal(model, tmp_path, "--max-tokens", "2")
    second.type("\x1b[A")  # up
    second.until("something to remember")
    second.type("\r")
    second.until("2 tokens", PROMPT)
    second.type("/quit\r")
    assert second.wait() == 0
    third = Terminal(model, tmp_path, "--no-history")
    third.say("/help")
    assert third.leave() == 0
    assert first.history.read_text().splitlines()[-1] == "/quit"


def test_control_characters_of_a_model_do_not_reach_the_terminal(
    model: Path, tmp_path: Path
) -> None:
    # One token a byte: of the 256 only the escape character is allowed.
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    escape = tokenizer["model"]["vocab"]["\u011b"]  # how byte-level vocabularies write byte 27
    terminal = Terminal(model, tmp_path, "--max-tokens", "4", "--allowed-token-ids", str(escape))
    shown = terminal.say("x")
    assert "\N{REPLACEMENT CHARACTER}" * 4 in shown
    assert terminal.leave() == 0


def test_without_a_model_the_built_in_one_tells_a_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Processor time adds up the threads, and those of a pool spin while they wait for work.
    terminal = Terminal(None, tmp_path, "--num-threads", "2")
    assert "built-in model" in terminal.greeting
    assert "octavo run MODEL" in terminal.greeting
    assert "weights w8 (from bf16); --weights bf16 keeps" in terminal.greeting
    assert "a conversation" in terminal.greeting
    terminal.type("Tell me a story about a dog.\r")
    terminal.until(r"a dog\.\r\n", "[A-Za-z]")
    first_s, processor_s = time.perf_counter() - terminal.started_s, terminal.processor_time()
    with capsys.disabled():
        check_start(
            "octavo run to the first token",
            promised_s=FIRST_TOKEN_S,
            wall_s=first_s,
            processor_s=processor_s,
        )
    shown = terminal.until(PROMPT)
    assert len(shown.split()) > 40
    assert re.search(r"\d+ tokens · .* · prompt of \d+", shown)
    assert re.search(r"\d+ tokens", terminal.say("Another one, about a cat."))
    assert terminal.leave() == 0
