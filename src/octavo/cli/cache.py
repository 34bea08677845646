"""``octavo cache``: the packed weights that are kept on disk."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from octavo.cli.exit_codes import ExitCode
from octavo.cli.output import bytes_text, print_json, print_table
from octavo.core.errors import ConfigError, OctavoError
from octavo.weights.pack_cache import Entry, PackCache

cache = App(name="cache")


@cache.command
def ls(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """List what is there, the most recently used first.

    Args:
        json: machine-readable output.
    """
    kept = _of_user()
    most_bytes = None
    with _hinting(kept):
        entries = kept.entries()
        with contextlib.suppress(FileNotFoundError):  # nothing was ever kept
            most_bytes = kept.most_bytes()
    if json:
        files = [_facts(entry) for entry in entries]
        print_json({"folder": str(kept.folder), "most_bytes": most_bytes, "files": files})
        return ExitCode.OK
    if entries:
        print_table("Packed weights", [_row(entry) for entry in entries])
    bound = "" if most_bytes is None else f" of at most {bytes_text(most_bytes)}"
    print(f"{_summary(entries)}{bound} in {kept.folder}", file=sys.stderr)
    return ExitCode.OK


@cache.command
def clear(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Delete all of it. Engines that run go on.

    There is no need to: what was not used for longest goes first once the cache is full, and a
    checkpoint that changed is packed again. The setting pack_cache switches it off.

    Args:
        json: machine-readable output.
    """
    kept = _of_user()
    with _hinting(kept):
        gone = kept.clear()
    if json:
        print_json({"folder": str(kept.folder), "deleted": [_facts(entry) for entry in gone]})
    else:
        print(f"deleted {_summary(gone)} in {kept.folder}", file=sys.stderr)
    return ExitCode.OK


def _of_user() -> PackCache:
    kept = PackCache.of_user(os.environ)
    if kept is None:
        raise ConfigError(
            "there is no folder for caches", hint="set XDG_CACHE_HOME or HOME to a folder"
        )
    return kept


@contextlib.contextmanager
def _hinting(kept: PackCache) -> Iterator[None]:
    """What the system refuses is told with what helps."""
    try:
        yield
    except OSError as error:
        message = f"{kept.folder}: {error.strerror}" if error.strerror else str(error)
        raise OctavoError(message, hint=kept.advice(error)) from error


def _facts(entry: Entry) -> dict[str, Any]:
    contents = entry.contents
    return {
        "file": entry.name,
        "bytes": entry.num_bytes,
        "used_s": entry.used_s,
        "model": None if contents is None else contents.place,
        "weights": None if contents is None else contents.recipe,
    }


def _row(entry: Entry) -> tuple[str, str]:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_s))
    size = bytes_text(entry.num_bytes)
    if entry.contents is None:
        return entry.name, f"of no use (another version, damaged, or no file)  {size}  {used}"
    return entry.contents.place, f"{entry.contents.recipe}  {size}  {used}"


def _summary(entries: Sequence[Entry]) -> str:
    total = bytes_text(sum(entry.num_bytes for entry in entries))
    return f"{len(entries)} file{'' if len(entries) == 1 else 's'}, {total}"
