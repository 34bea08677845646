"""What reaches a terminal from files is text, never an order to the terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from octavo.cli.output import print_error, print_json, print_table, show_warnings
from tests.command_line import CommandLine
from tests.small_model import write_small_model

EVIL = "\x1b]0;title\x07\x9b2Ja\tb"
HARMLESS = r"\x1b]0;title\x07\x9b2Ja" + "\tb"


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(f"a {EVIL}", f"b {EVIL}")
    assert capsys.readouterr().err == f"error: a {HARMLESS}\nhint: b {HARMLESS}\n"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [(EVIL, EVIL)])
    assert capsys.readouterr().out == f"{HARMLESS}  {HARMLESS}\n"


@contextmanager
def warnings_shown() -> Iterator[logging.Logger]:
    log = logging.getLogger("octavo")
    before = list(log.handlers)
    log.handlers.clear()  # of commands in other tests, whose streams are closed
    show_warnings()
    try:
        yield log
    finally:
        log.handlers[:] = before


def test_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_shown() as log:
        log.warning("file says %s", EVIL)
    assert capsys.readouterr().err == f"warning: file says {HARMLESS}\n"


def test_json_escapes_what_json_leaves_raw(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: "é\x7f\x80\x9f\xa0"}
    print_json(value)
    out = capsys.readouterr().out
    assert r"é\u007f\u0080\u009f" in out
    assert out.removesuffix("\n").replace("\xa0", "").isprintable()
    assert json.loads(out) == value


def test_a_models_configuration(octavo: CommandLine) -> None:
    folder = octavo.folder / "evil"
    folder.mkdir()
    write_small_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [EVIL]}))
    ended = octavo("info", folder)
    assert ended.status == 3
    assert "title" in ended.err
    assert "\x1b" not in ended.out + ended.err
