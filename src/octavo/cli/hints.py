"""What to do about an error that does not say so itself: a word mistyped, a value out of range."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from octavo.cli.fields import Setting
from octavo.cli.settings import ENGINE, SAMPLING, show_value
from octavo.core.errors import ConfigError

if TYPE_CHECKING:
    from cyclopts import Argument, CycloptsError

EXAMPLES = {
    "bench quality": "octavo bench quality --text stories.txt",
    "completion": "octavo completion bash",
    "pull": "octavo pull owner/name",
}
"""Of the commands that cannot do without an argument."""
_SETTINGS = {setting.name: setting for setting in (*ENGINE, *SAMPLING)}
_FIRST_NAME = re.compile(r"(?:prompt \d+: )?(\w+)")
_KINDS = {int: "an integer", float: "a number", bool: "no value"}


def hint_of_value(message: str) -> str | None:
    """For an error about a setting, which its sentence names first: what the setting is."""
    named = _FIRST_NAME.match(message)
    setting = None if named is None else _SETTINGS.get(named[1])
    return None if setting is None else _meaning(setting)


def require_positive(**flags: int | None) -> None:
    """Refuse what is given and below 1.

    Raises:
        ConfigError: names the first of them.
    """
    for name, value in flags.items():
        if value is not None and value < 1:
            hint = f"leave --{name.replace('_', '-')} out for what is usual"
            raise ConfigError(f"{name} must be at least 1, got {value}", hint=hint)


def hint_of_words(error: CycloptsError) -> str:
    """For a command line that cannot be understood."""
    from cyclopts.exceptions import (
        CoercionError,
        RepeatArgumentError,
        UnknownCommandError,
        UnknownOptionError,
    )

    command = " ".join(error.command_chain or ())
    help_of_it = f"octavo {command} --help" if command else "octavo --help"
    if isinstance(error, UnknownCommandError):
        return f"{help_of_it} lists its commands"
    if isinstance(error, UnknownOptionError):
        return f"{help_of_it} lists its options"
    if isinstance(error, RepeatArgumentError):
        return f"give {error.token.keyword} once"
    if isinstance(error, CoercionError) and error.argument is not None:
        return hint_of_argument(command, error.argument)
    return f"{help_of_it} lists what there is"


def hint_of_argument(command: str, argument: Argument) -> str:
    """What a flag or an argument takes."""
    name = argument.name
    if command in EXAMPLES and argument.required:
        return EXAMPLES[command]
    setting = _SETTINGS.get(name.removeprefix("--").replace("-", "_"))
    if setting is not None:
        return _meaning(setting)
    takes = _taken_by(argument.hint)
    more = f"octavo {command} --help says what it is"
    return f"{name} takes {takes}; {more}" if takes else more


def _meaning(setting: Setting) -> str:
    flag = f"--{setting.name.replace('_', '-')}"
    left_out = "left out: " if setting.default is None else ""
    doc = setting.doc.replace("None: ", left_out).rstrip(".")
    meaning = f"{flag} takes {setting.takes}; {doc[:1].lower()}{doc[1:]}".removesuffix("; ")
    if setting.default in (None, (), {}):
        return meaning
    return f"{meaning} (default: {show_value(setting.default)})"


def _taken_by(hint: Any) -> str | None:
    """A type in words; None: text of some kind, of which only the help knows more."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    return _taken_by(inner[0]) if inner else _KINDS.get(hint)
