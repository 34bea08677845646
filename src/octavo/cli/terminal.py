"""Reading a person's messages from a terminal, and writing answers to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from octavo.cli.output import CONTROL, dim

PROMPT, CONTINUED = ">>> ", "... "
BLOCK = '"""'
MAX_HISTORY = 1_000

ReadLine = Callable[[str], str]
"""Shows a prompt, gives a line without its end; raises EOFError when there are no more."""


def read_message(read_line: ReadLine) -> str | None:
    """One message; None at the end of the input.

    A line that ends in a backslash goes on in the next one; a line that begins with three quotes
    begins a block that goes on to three quotes at the end of a line.
    """
    try:
        line = read_line(PROMPT)
    except EOFError:
        return None
    if line.lstrip().startswith(BLOCK):
        return _read_block(line.lstrip().removeprefix(BLOCK), read_line)
    lines = []
    try:
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = read_line(CONTINUED)
        lines.append(line)
    except EOFError:
        pass
    return "\n".join(lines)


def _read_block(line: str, read_line: ReadLine) -> str:
    lines = []
    try:
        while not line.rstrip().endswith(BLOCK):
            lines.append(line)
            line = read_line(CONTINUED)
        lines.append(line.rstrip().removesuffix(BLOCK))
    except EOFError:
        pass
    return "\n".join(lines).strip("\n")


class LineReader:
    """Lines with editing and a history that outlives the process.

    Args:
        history: the file, which only its owner may read; None keeps none.
    """

    def __init__(self, history: Path | None) -> None:
        self._history = history
        self._readline = _import_readline()
        if self._readline is not None:
            self._readline.set_auto_history(False)
            for line in self._stored():
                self._readline.add_history(line)

    def read(self, prompt: str) -> str:
        """A ``ReadLine``."""
        if not sys.stdout.isatty():  # the answers go elsewhere, the prompt does not
            sys.stderr.write(prompt)
            sys.stderr.flush()
            prompt = ""
        line = input(prompt)
        if line.strip() and self._readline is not None:
            self._readline.add_history(line)
        return line

    def close(self) -> None:
        """Write the history; one that cannot be written is not worth an error."""
        readline = self._readline
        if readline is None or self._history is None:
            return
        length = readline.get_current_history_length()
        lines = [readline.get_history_item(index + 1) for index in range(length)]
        kept = "".join(f"{line}\n" for line in lines[-MAX_HISTORY:] if line)
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_privately(self._history, kept)
        except OSError as error:
            print(f"warning: the history is not kept: {error}", file=sys.stderr)

    def _stored(self) -> list[str]:
        try:
            return self._history.read_text(encoding="utf-8").splitlines() if self._history else []
        except (OSError, UnicodeDecodeError):
            return []


def history_path(environment: Mapping[str, str]) -> Path:
    """Where messages that were typed are remembered."""
    home = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "octavo" / "history"


def write_privately(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner may read it. Raises OSError."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


class Screen:
    """Where answers are shown. A terminal is never sent control characters of a model."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._at_line_start = True

    def write(self, text: str) -> None:
        """A piece of an answer, at once."""
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        if self._is_terminal:
            text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def end_line(self) -> None:
        """What follows begins on a line of its own."""
        if not self._at_line_start:
            self.write("\n")

    def say(self, text: str) -> None:
        """Something of ours, on lines of its own."""
        self.end_line()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Something of ours that stands back."""
        self.say(dim(text, sys.stdout))


def _import_readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # a Python without it: lines without editing
        return None
    return readline
