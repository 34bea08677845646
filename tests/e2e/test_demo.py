"""``make demo`` as a process: what it shows, where it is shown, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from octavo.bench.ladder import LADDER
from tests.small_model import write_small_model

# Each starts the demo and the processes in which it measures.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RUNG_NAMES = [rung.name for rung in LADDER]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "octavo.demo", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **variables},
        timeout=240,
    )


def check_story(text: str) -> None:
    assert "Computed with w8 weights, bf16 keys and values." in text
    assert "> Tell me a story about a dog who lost his ball." in text
    assert "tokens/s, the first one after" in text
    assert text.count("answers: equal") == 2
    rows = [line for line in text.splitlines() if line.strip().startswith(tuple(RUNG_NAMES))]
    assert [row.strip().split("  ")[0] for row in rows] == RUNG_NAMES
    assert all(len(line) <= 100 for line in rows)


def test_without_a_model_it_is_the_built_in_one() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert text.startswith("The built-in model")
    check_story(text)
    assert "\x1b" not in text, "no colours for a file"


def test_a_given_model_on_a_stream_that_takes_few_characters(tmp_path: Path) -> None:
    """This model writes every byte there is."""
    done = run("--model", str(write_small_model(tmp_path)), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    check_story(done.stdout.decode("ascii"))


def test_on_a_terminal_no_control_character_of_the_model_gets_through(tmp_path: Path) -> None:
    folder = str(write_small_model(tmp_path))
    child = pexpect.spawn(
        sys.executable,
        ["-m", "octavo.demo", "--model", folder],
        encoding="utf-8",
        timeout=240,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    )
    text = child.read()
    child.close()
    assert child.exitstatus == 0
    check_story(text)
    assert not {character for character in text if ord(character) < 32} - set("\r\n\t")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path / "nothing"))
    assert done.returncode not in (0, 1)
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr


def test_whoever_reads_only_the_beginning_sees_no_complaint() -> None:
    command = f"{sys.executable} -m octavo.demo | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=240)
    assert done.stderr == ""
    assert done.stdout.startswith("The built-in model")
