"""Command lines run inside the test's process: what they print, and how they end."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from octavo.cli.main import main


@dataclass(frozen=True)
class Ended:
    """What a command line came to."""

    status: int
    out: str
    err: str


class CommandLine:
    """Runs commands in a folder of their own, with none of the user's settings."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.folder = folder
        for name in list(os.environ):
            if name.startswith(("OCTAVO_", "XDG_")):
                monkeypatch.delenv(name)
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            monkeypatch.setenv(variable, str(folder / variable))
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.chdir(folder)

    def __call__(self, *words: object, **variables: str) -> Ended:
        with self._monkeypatch.context() as context:
            # A process has one command; handlers of earlier ones would write to closed streams.
            context.setattr(logging.getLogger("octavo"), "handlers", [])
            for name, value in variables.items():
                context.setenv(name, value)
            self._capsys.readouterr()
            status = main([str(word) for word in words])
        out, err = self._capsys.readouterr()
        return Ended(status, out, err)
