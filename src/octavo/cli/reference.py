"""``python -m octavo.cli.reference``: docs/reference/cli.md, from the commands themselves.

Help is rendered as it is on a pipe of 80 columns, so that the page is also the golden file of
every ``--help``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from cyclopts import App
from rich.console import Console

from octavo.cli.exit_codes import ExitCode
from octavo.cli.fields import Setting
from octavo.cli.main import COMMANDS, build_app
from octavo.cli.settings import TABLES, show_value
from octavo.cli.variables import PREFIX

COLUMNS = 80
INTRODUCTION = """\
# The command line

This page is generated: `python -m octavo.cli.reference > docs/reference/cli.md`.

Data goes to stdout, notes, progress and errors go to stderr. An error is a sentence after `error:`
and, where there is one, what to do after `hint:`. With `--json`, stdout is JSON only. Colours are
for terminals, and `NO_COLOR` turns them off.
"""
SOURCES = """\
## Where settings come from

A flag counts before an environment variable, that before a TOML file, and that before the default.
The file is the one that `--config` or `OCTAVO_CONFIG` names, else `octavo.toml` in the current
folder, else `octavo/config.toml` in the user's configuration folder (`XDG_CONFIG_HOME`, or
`~/.config`); only one file counts. A key that nobody knows is an error, a variable that nobody
knows a warning. What a command alone takes has the command in its variable, which the command's
help names (`OCTAVO_SERVE_PORT`), and stands in a table of the command's name:

```toml
[engine]
max_num_seqs = 8

[sampling]
temperature = 0.7
stop = ["\\n\\n"]

[run]
system = "You tell short stories."
```

`octavo info --settings` shows every value and where it came from. In flags and variables, values of
several parts are written as `1,2,3` (token ids), `42=5,7=-1.5` (biases) or `1,2;3` (sequences); a
stop string in double quotes is read as JSON, so that it may hold `\\n`.
"""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _exit_codes(), SOURCES]
    for title, settings in TABLES.items():
        parts.append(_settings(title, settings))
    parts.append("## Commands\n")
    parts.append(_help(build_app(), "octavo", []))
    for command in COMMANDS:
        app = build_app(used=command.name)
        if command.name in app:
            parts.extend(_helps(app, [command.name]))
    return "\n".join(parts)


def _exit_codes() -> str:
    rows = "".join(f"| {code.value} | {code.meaning} |\n" for code in ExitCode)
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}"


def _settings(table: str, settings: Sequence[Setting]) -> str:
    lines = [
        f"### [{table}]\n",
        "| TOML | environment | default | |",
        "|---|---|---|---|",
    ]
    for one in settings:
        choices = f" One of {', '.join(one.choices)}." if one.choices else ""
        lines.append(
            f"| `{one.name}` | `{PREFIX}{one.name.upper()}` | {show_value(one.default)} "
            f"| {one.doc}{choices} |"
        )
    return "\n".join(lines) + "\n"


def _helps(app: App, path: list[str]) -> Iterator[str]:
    """The help of a command, then that of each command below it."""
    yield _help(app, " ".join(["octavo", *path]), path)
    inner = app
    for name in path:
        inner = inner[name]
    for name in inner:
        if not name.startswith("-"):
            yield from _helps(app, [*path, name])


def _help(app: App, title: str, path: Sequence[str]) -> str:
    out = io.StringIO()
    app.help_epilogue = None  # below each, and said at length above
    app.help_print(list(path), console=Console(file=out, width=COLUMNS, no_color=True))
    lines = [line.rstrip() for line in out.getvalue().strip().splitlines()]
    return f"### {title}\n\n```text\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    print(reference(), end="")
