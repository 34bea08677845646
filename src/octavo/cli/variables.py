"""Environment variables of ours: how they are called, and which ones nobody heeds."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from octavo.cli.settings import TABLES

PREFIX = "OCTAVO_"
CONFIG_VARIABLE = "OCTAVO_CONFIG"
SHARED = {setting.name: table for table, settings in TABLES.items() for setting in settings}
"""Settings that every command knows, and the table of the TOML file that each belongs to."""
_SETTINGS = tuple(PREFIX + name.upper() for name in SHARED)
_OTHERS = (CONFIG_VARIABLE, "OCTAVO_API_KEY", "OCTAVO_CPU_ISA")
_OF_TESTS = ("OCTAVO_TEST_", "OCTAVO_TRAFFIC_")
_ADVICE = "octavo info --settings lists the settings"


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """One that looks like ours, and is not."""

    name: str
    hint: str


def variable_of(command: str, key: str) -> str:
    """The variable that sets a parameter of a command."""
    return PREFIX + (key if key in SHARED else f"{command}_{key}").upper()


def unknown_variables(
    names: Iterable[str],
    command_names: Iterable[str],
    command: str = "",
    own: Collection[str] | None = None,
) -> list[UnknownVariable]:
    """Those that nobody heeds, by name.

    Args:
        names: of all variables.
        command_names: variables of other commands than ``command`` are taken for known.
        command: the one in use.
        own: the variables of its own parameters; None: not known either.
    """
    known = (*_SETTINGS, *_OTHERS, *(own or ()))
    passed = tuple(
        f"{PREFIX}{name.upper()}_" for name in command_names if own is None or name != command
    )
    return [
        UnknownVariable(name, _meant(name, known) or _ADVICE)
        for name in sorted(names)
        if name.startswith(PREFIX)
        and name not in known
        and not name.startswith((*passed, *_OF_TESTS))
    ]


def _meant(variable: str, known: Collection[str]) -> str | None:
    """A hint that names the closest; the common prefix makes nothing alike."""
    names = [name.removeprefix(PREFIX) for name in known]
    close = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1)
    return f"did you mean '{PREFIX}{close[0]}'?" if close else None
