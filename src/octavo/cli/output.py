"""What a command says: data on stdout, errors and notes on stderr, colours on a terminal only."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that move a terminal's cursor or give it orders, unlike tab and newline."""
_RED, _DIM, _RESET = "\x1b[31m", "\x1b[2m", "\x1b[0m"


def has_colours(stream: TextIO) -> bool:
    """Whether escape sequences are welcome there."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """Text from files and users, with what would command a terminal written out: ``\\x1b``."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def print_error(message: str, hint: str | None = None) -> None:
    """The form of every error: a sentence, and what to do about it."""
    red, reset = (_RED, _RESET) if has_colours(sys.stderr) else ("", "")
    print(f"{red}error:{reset} {visible(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {visible(hint)}", file=sys.stderr)


def print_warning(message: str, hint: str) -> None:
    """What is odd, and goes on all the same."""
    print(f"warning: {visible(message)}\nhint: {visible(hint)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON value on one line of stdout; JSON itself leaves some control characters raw."""
    text = json.dumps(value, ensure_ascii=False)
    print(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def dim(text: str, stream: TextIO) -> str:
    """Text that stands back, where the stream can show that."""
    return f"{_DIM}{text}{_RESET}" if has_colours(stream) else text


def console() -> Console:
    """A rich console on stdout."""
    from rich.console import Console

    return Console(highlight=False)


def print_table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they are: drawn on a terminal, plain lines elsewhere."""
    rows = [(visible(name), visible(text)) for name, text in rows]
    width = max(len(name) for name, _ in rows)
    if not sys.stdout.isatty():
        for name, text in rows:
            print(f"{name:{width}}  {text}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))  # as it is: brackets in it are no markup
    console().print(table)


def show_warnings() -> None:
    """Send the warnings of the layers below to stderr, in the form of our errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_VisibleFormatter("%(levelname)s: %(message)s"))
    handler.addFilter(_lower_level_name)
    logging.getLogger("octavo").addHandler(handler)


class _VisibleFormatter(logging.Formatter):
    """Warnings quote what stands in files."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _lower_level_name(record: logging.LogRecord) -> bool:
    record.levelname = record.levelname.lower()
    return True


def bytes_text(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def formats_text(weights: str, kv: str) -> str:
    """The formats of an engine for people."""
    return f"{weights} weights, {kv} keys and values"


def count_text(count: float) -> str:
    """A large number for people: 1.2 billion."""
    for word, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {word}"
    return f"{count:.0f}"
