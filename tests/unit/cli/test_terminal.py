"""Messages of one and of many lines, the history file, and what is shown of an answer."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from octavo.cli.terminal import (
    CONTINUED,
    PROMPT,
    LineReader,
    ReadLine,
    Screen,
    read_message,
    write_privately,
)


def typed(lines: Iterable[str], prompts: list[str] | None = None) -> ReadLine:
    left = list(lines)

    def read_line(prompt: str) -> str:
        if prompts is not None:
            prompts.append(prompt)
        if not left:
            raise EOFError
        return left.pop(0)

    return read_line


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], None),
        (["Hello"], "Hello"),
        ([""], ""),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (["one\\"], "one"),  # the input ends there
        (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
        (['"""', "one\\", "", "two", '"""'], "one\\\n\ntwo"),
        (['"""one"""'], "one"),
        (['"""'], ""),
        (['"""one', "two"], "one\ntwo"),
        (['say """ please'], 'say """ please'),
    ],
)
def test_messages(lines: list[str], message: str | None) -> None:
    assert read_message(typed(lines)) == message


def test_the_prompt_tells_whether_a_message_goes_on() -> None:
    prompts: list[str] = []
    read_message(typed(["a\\", "b"], prompts))
    assert prompts == [PROMPT, CONTINUED]


def test_a_private_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("before")
    path.chmod(0o644)
    write_privately(path, "after\n")
    assert path.read_text() == "after\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_history_that_cannot_be_kept_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    LineReader(tmp_path / "file" / "history").close()
    assert capsys.readouterr().err.startswith("warning: the history is not kept")


def test_output_that_is_no_terminal_gets_every_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    screen.write("a\x1b[31mb\t")
    screen.end_line()
    screen.end_line()
    screen.say("c")
    assert capsys.readouterr().out == "a\x1b[31mb\t\nc\n"
