"""Where a setting's value comes from: flag, then environment, then TOML file, then default.

Flags are read first; this fills in what they left open, for the settings of the engine and of
sampling and for each command's own parameters alike, and remembers the origins.

    setting            environment             TOML
    --max-num-seqs     OCTAVO_MAX_NUM_SEQS     [engine] max_num_seqs
    --temperature      OCTAVO_TEMPERATURE      [sampling] temperature
    serve --port       OCTAVO_SERVE_PORT       [serve] port
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cyclopts import App
from cyclopts.argument import Argument, ArgumentCollection, Token

from octavo.cli.fields import to_texts
from octavo.cli.output import print_warning
from octavo.cli.settings import TABLES
from octavo.cli.variables import CONFIG_VARIABLE, SHARED, unknown_variables, variable_of
from octavo.core.errors import ConfigError, did_you_mean

CONFIG_FLAG = "--config"
LOCAL_FILE = Path("octavo.toml")
_SWITCHES = {"on": "true", "off": "false"}


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A TOML file: tables of settings."""

    path: Path
    tables: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, path: Path) -> SettingsFile:
        """Read a file that somebody named.

        Raises:
            ConfigError: it cannot be read, is not TOML, or has keys outside of tables.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error.strerror or error}",
                hint=f"{CONFIG_FLAG} takes the path of a TOML file",
            ) from error
        except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
            hint = "tables such as [engine], with lines such as max_num_seqs = 8 below them"
            raise ConfigError(f"{path}: not valid TOML: {error}", hint=hint) from error
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ConfigError(
                    f"{path}: the key {name!r} stands outside of a table",
                    hint=f"put it below [{SHARED.get(name, 'engine')}]",
                )
        return cls(path, tables)


def find_settings_file(
    named: str | None, environment: Mapping[str, str], folder: Path
) -> SettingsFile | None:
    """The one file that counts: the named one, else ./octavo.toml, else the user's own.

    Raises:
        ConfigError: it cannot be used, or the named one does not exist.
    """
    named = named or environment.get(CONFIG_VARIABLE)
    if named:
        return SettingsFile.read(Path(named).expanduser())
    for path in (folder / LOCAL_FILE, user_settings_path(environment)):
        if path.is_file():
            return SettingsFile.read(path)
    return None


def user_settings_path(environment: Mapping[str, str]) -> Path:
    """Where a user keeps settings for all folders."""
    home = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "octavo" / "config.toml"


def take_config_flag(arguments: list[str]) -> tuple[list[str], str | None]:
    """Split ``--config FILE`` off the command line, wherever it stands before ``--``.

    Raises:
        ConfigError: the file's name is missing.
    """
    rest: list[str] = []
    named = None
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--":
            break
        if word == CONFIG_FLAG:
            position += 1
            if position == len(arguments):
                raise ConfigError(
                    f"{CONFIG_FLAG} takes the path of a TOML file",
                    hint=f"{CONFIG_FLAG} octavo.toml",
                )
            named = arguments[position]
        elif word.startswith(f"{CONFIG_FLAG}="):
            named = word.partition("=")[2]
        else:
            rest.append(word)
        position += 1
    return rest + arguments[position:], named


class Layers:
    """Fills in what the command line left open; called by cyclopts with a command's arguments."""

    def __init__(
        self,
        environment: Mapping[str, str],
        file: SettingsFile | None,
        command_names: Collection[str],
    ) -> None:
        self.file = file
        self.origins: dict[str, str] = {}
        """Of every setting that has not its default: the flag, variable or file that set it."""
        self._environment = environment
        self._command_names = command_names
        if file is not None:
            _check_names(file, command_names)

    @property
    def file_path(self) -> Path | None:
        """Of the TOML file that counts."""
        return None if self.file is None else self.file.path

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Raises ConfigError: the file has a key that this command does not know."""
        del app
        command = commands[0] if commands else ""
        leaves = leaves_of(arguments)
        own = [key for key in leaves if key not in SHARED]
        self._check_own_table(command, own)
        self._warn_of_variables(command, own if len(commands) == 1 else None)
        for key, argument in leaves.items():
            if not argument.tokens:
                self._fill(command, key, argument)
            elif argument.tokens[0].keyword:
                self.origins[key] = f"flag {argument.tokens[0].keyword}"
            else:
                self.origins[key] = "command line"

    def _fill(self, command: str, key: str, argument: Argument) -> None:
        table = SHARED.get(key, command)
        variable = variable_of(command, key)
        if self._environment.get(variable):
            texts = [self._environment[variable]]
            name, source = variable, "environment"
        elif self.file is not None and key in self.file.tables.get(table, {}):
            texts = to_texts(self.file.tables[table][key])
            name, source = f"[{table}] {key}", str(self.file.path)
        else:
            return
        self.origins[key] = f"{source} {name}"
        if bool in (argument.hint, *get_args(argument.hint)):
            texts = [_SWITCHES.get(text.lower(), text) for text in texts]
        for index, text in enumerate(texts):
            argument.append(Token(keyword=name, value=text, source=source, index=index))

    def _check_own_table(self, command: str, known: list[str]) -> None:
        if self.file is None:
            return
        for key in self.file.tables.get(command, {}):
            if key not in known:
                raise _unknown(self.file.path, command, key, known)

    def _warn_of_variables(self, command: str, own: list[str] | None) -> None:
        """``own`` keys are None where commands below the command share its prefix."""
        variables = None if own is None else [variable_of(command, key) for key in own]
        for one in unknown_variables(self._environment, self._command_names, command, variables):
            print_warning(f"the environment variable {one.name} is unknown", one.hint)


def leaves_of(arguments: ArgumentCollection) -> dict[str, Argument]:
    """What a command takes, by key."""
    return {
        _key(argument): argument
        for argument in arguments
        if argument.parse and not argument.children
    }


def _key(argument: Argument) -> str:
    return argument.name.lstrip("-").replace("-", "_").lower()


def _check_names(file: SettingsFile, command_names: Collection[str]) -> None:
    tables = [*TABLES, *command_names]
    for table, values in file.tables.items():
        if table not in tables:
            raise ConfigError(
                f"{file.path}: unknown table [{table}]",
                hint=did_you_mean(table, tables) or f"tables are {', '.join(tables)}",
            )
        known = [setting.name for setting in TABLES.get(table, ())]
        for key in values if known else ():
            if key not in known:
                raise _unknown(file.path, table, key, known)


def _unknown(path: Path, table: str, key: str, known: Collection[str]) -> ConfigError:
    return ConfigError(
        f"{path}: unknown key {key!r} in [{table}]",
        hint=did_you_mean(key, known) or _home_of(key, table),
    )


def _home_of(key: str, table: str) -> str | None:
    """The table that a misplaced key belongs to."""
    home = SHARED.get(key)
    return f"it belongs below [{home}]" if home not in (None, table) else None
