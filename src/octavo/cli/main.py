"""``octavo``: finds the command, reads its settings, runs it, and says how it ended.

A command's module is imported when the command is used; nothing here computes. What a command
prints is its own business, the errors that it raises are printed here.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from octavo import __version__

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError
    from cyclopts.exceptions import MissingArgumentError

    from octavo.cli.layers import Layers


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the function of its name in the module of its name."""

    name: str
    summary: str

    @property
    def module(self) -> str:
        return f"octavo.cli.{self.name}"

    @property
    def path(self) -> str:
        return f"{self.module}:{self.name}"


COMMANDS = (
    Command("run", "Talk to a model in the terminal."),
    Command("generate", "Complete prompts, once."),
    Command("serve", "Serve models over the OpenAI API."),
    Command("batch", "Work through a file of requests in the format of OpenAI's batches."),
    Command("bench", "Measure what each optimisation is worth here."),
    Command("plan", "What fits into memory: context, users, weights."),
    Command("info", "What this machine, a model, and the settings are."),
    Command("pull", "Download a model from the hub."),
    Command("cache", "The packed weights that are kept on disk."),
    Command("doctor", "Check this machine, and say what to do."),
    Command("completion", "Print a script that completes commands in a shell."),
)
EPILOGUE = (
    "Flags may also be set by environment variables (OCTAVO_...) and by a TOML file: --config FILE,"
    " ./octavo.toml, or octavo/config.toml in the user's configuration folder."
)
_DASH = "\0-"
"""Stands for a lone dash while cyclopts parses, which would take it for an option. No argument of
a process can have a NUL in it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default this process's own); the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:  # without waiting for anything
        print(__version__)
        return 0
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character
            stream.reconfigure(errors="replace")
    try:
        status = _status_of(words)
        _finish_writing()
        return status
    except KeyboardInterrupt:
        from octavo.cli.exit_codes import ExitCode

        _break_off_writing()
        return ExitCode.INTERRUPTED


def _status_of(words: list[str]) -> int:
    """Run it; errors are printed."""
    from octavo.cli.exit_codes import ExitCode, exit_code_of
    from octavo.cli.output import print_error
    from octavo.core.errors import OctavoError

    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich makes this of it, with status 1
            return ExitCode.BROKEN_PIPE
        raise
    except OctavoError as error:
        print_error(error.message, error.hint or _hint_of_value(error.message))
        return exit_code_of(error)
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except MemoryError:
        return _out_of_memory()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _out_of_memory()
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}")
        return ExitCode.FAILURE


def _hint_of_value(message: str) -> str | None:
    from octavo.cli.hints import hint_of_value

    return hint_of_value(message)


def _finish_writing() -> None:
    """Packed weights may still be on their way to the disk; who waits for that longer is told."""
    from octavo.cli.output import dim

    def say() -> None:
        if sys.stderr.isatty():
            note = "keeping the packed weights for the next start; Ctrl-C leaves that"
            print(dim(note, sys.stderr), file=sys.stderr)

    if (packed := _packed_weights()) is not None:
        packed.finish_writing(say)


def _break_off_writing() -> None:
    if (packed := _packed_weights()) is not None:
        packed.break_off_writing()


def _packed_weights() -> ModuleType | None:
    """If this command has loaded a model; nothing is imported for those that have not."""
    return sys.modules.get("octavo.backends.packed_weights")


def _out_of_memory() -> int:
    from octavo.cli.exit_codes import ExitCode
    from octavo.cli.output import print_error

    hint = "octavo plan says what fits; --weights w4, --kv int8 and fewer --num-pages take less"
    print_error("there is not enough memory", hint)
    return ExitCode.FAILURE


def _open_closed_streams() -> None:
    """Streams that the shell closed (``<&-``, ``>&-``) are empty, and swallow what is written.

    They are opened in the order of their numbers: each takes its own, which no other file may get.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _run(words: list[str]) -> int:
    from cyclopts import CycloptsError

    from octavo.cli.exit_codes import ExitCode
    from octavo.cli.layers import Layers, find_settings_file, take_config_flag
    from octavo.cli.output import print_error

    words, named = take_config_flag(words)
    file = find_settings_file(named, os.environ, Path.cwd())
    layers = Layers(os.environ, file, [command.name for command in COMMANDS])
    app = build_app(layers, used=words[0] if words else "")
    if words and words[0] not in app:
        _refuse_unknown_command(words[0], list(app))
    words = [_DASH if word == "-" else word for word in words]
    try:
        command, bound, ignored = app.parse_args(words, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        print_error(*_in_our_words(error))
        return ExitCode.USAGE
    for name, value in bound.arguments.items():
        bound.arguments[name] = _with_dashes(value)
    own = {"layers": layers} if "layers" in ignored else {}
    status = command(*bound.args, **bound.kwargs, **own)
    return status if isinstance(status, int) else ExitCode.OK


def build_app(layers: Layers | None = None, *, used: str = "") -> App:
    """The tree of commands.

    Args:
        layers: where settings come from besides flags.
        used: the command that is to be imported: its help is all of its docstring. The others
            have a summary.
    """
    from cyclopts import App

    app = App(
        name="octavo",
        help="An LLM inference engine: a model folder in, exact tokens out.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        help_formatter="default" if sys.stdout.isatty() else "plain",
        version=__version__,
        config=[] if layers is None else [layers],
    )
    for order, command in enumerate(COMMANDS):
        if find_spec(command.module) is None:
            continue  # left out of this build
        summary = None if command.name == used else command.summary
        app.command(command.path, name=command.name, help=summary, sort_key=order)
        if command.name == used:
            _unwrap_help(app[used], command.summary)
            _name_variables(app[used], command.name)
    return app


def _unwrap_help(app: App, summary: str) -> None:
    """Give a command, and those below it, the text of their docstrings as help."""
    app.help = _unwrapped(app.help) or summary
    for name in app:
        if not name.startswith("-"):
            _unwrap_help(app[name], "")


def _name_variables(app: App, command: str) -> None:
    """Say below the help of a command, and of those below it, which variables set its flags."""
    from octavo.cli.layers import leaves_of
    from octavo.cli.variables import SHARED, variable_of

    below = [name for name in app if not name.startswith("-")]
    for name in below:
        _name_variables(app[name], command)
    if below:
        return
    keys = list(leaves_of(app.assemble_argument_collection()))
    own = ", ".join(variable_of(command, key) for key in keys if key not in SHARED)
    shared = next((key for key in keys if key in SHARED), None)
    parts = [f"Environment: {own}."] if own else []
    if shared is not None:
        flag, variable = shared.replace("_", "-"), variable_of(command, shared)
        parts.append(f"For the engine and for sampling: --{flag} is {variable}, and so on.")
    app.help_epilogue = " ".join([*parts, "A TOML file sets flags too: octavo --help."])


def _unwrapped(docstring: str) -> str:
    """A docstring's text without its sections, a line for each paragraph."""
    text = re.split(r"^\w+:$", inspect.cleandoc(docstring), maxsplit=1, flags=re.MULTILINE)[0]
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text.strip())


def _refuse_unknown_command(name: str, known: list[str]) -> NoReturn:
    # Here, and not by cyclopts, which would import every command for the list of their names.
    from octavo.core.errors import ConfigError, did_you_mean

    hint = did_you_mean(name, known) or "octavo --help lists the commands"
    kind = "option" if name.startswith("-") else "command"
    raise ConfigError(f"unknown {kind} {name!r}", hint=hint)


def _with_dashes(value: Any) -> Any:
    """A parsed argument with every lone dash as it was."""
    if isinstance(value, tuple | list):
        return type(value)(_with_dashes(item) for item in value)
    return type(value)("-") if value in (_DASH, Path(_DASH)) else value


def _in_our_words(error: CycloptsError) -> tuple[str, str | None]:
    """A sentence and a hint."""
    from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

    from octavo.cli.hints import hint_of_words

    if isinstance(error, UnusedCliTokensError):
        unused = ", ".join(map(repr, error.unused_tokens or ()))
        return f"unexpected argument {unused}", "quote an argument that has spaces in it"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return _missing(error)
    sentence, _, rest = str(error).replace(_DASH, "-").partition(" Did you mean ")
    sentence = sentence[0].lower() + sentence[1:].rstrip(".")
    meant = rest.partition("?")[0].strip('"')
    return sentence, f"did you mean {meant!r}?" if meant else hint_of_words(error)


def _missing(error: MissingArgumentError) -> tuple[str, str]:
    """Something that a command needs was not given at all, or a flag without its value."""
    from octavo.cli.hints import hint_of_argument

    argument = error.argument
    assert argument is not None
    hint = hint_of_argument(" ".join(error.command_chain or ()), argument)
    if error.keyword is not None:
        return f"{error.keyword} needs a value", hint
    value = " FILE" if argument.hint is Path else ""
    return f"{argument.name}{value} is missing", hint


if __name__ == "__main__":
    sys.exit(main())
