"""``octavo doctor``: looks this machine over, and says what to do."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from octavo.cli import checks
from octavo.cli.checks import Check, Verdict
from octavo.cli.exit_codes import ExitCode
from octavo.cli.layers import Layers
from octavo.cli.machine import Machine
from octavo.cli.main import COMMANDS
from octavo.cli.output import has_colours, print_json
from octavo.cli.settings import EngineFlags, given
from octavo.core.config import EngineConfig
from octavo.weights.pack_cache import PackCache

DEFAULT_PORT = 8000
_COLOURS = {Verdict.OK: "\x1b[32m", Verdict.WARNING: "\x1b[33m", Verdict.PROBLEM: "\x1b[31m"}


def doctor(
    *,
    port: int = DEFAULT_PORT,
    json: Annotated[bool, Parameter(negative="")] = False,
    engine: EngineFlags | None = None,
    layers: Annotated[Layers | None, Parameter(parse=False)] = None,
) -> int:
    """Check this machine, and say what to do.

    The exit status is 1 if there is a problem; warnings are none.

    Args:
        port: the one that a server would listen on.
        json: machine-readable output.
    """
    config = EngineConfig.from_options(given(engine))
    found = examine(config, port, None if layers is None else layers.file_path)
    problems = sum(check.verdict is Verdict.PROBLEM for check in found)
    if json:
        print_json({"healthy": not problems, "checks": [asdict(check) for check in found]})
    else:
        _print(found)
    return ExitCode.FAILURE if problems else ExitCode.OK


def examine(config: EngineConfig, port: int, settings_file: Path | None) -> list[Check]:
    """Every check, in the order of the report."""
    machine = Machine.look()
    names = [command.name for command in COMMANDS]
    return [
        checks.check_python(checks.python_version()),
        checks.check_libraries(machine.libraries),
        checks.check_kernels(machine, os.environ.get("OCTAVO_CPU_ISA", "")),
        checks.check_threads(machine, config.num_threads),
        checks.check_huge_pages(machine.huge_pages),
        checks.check_memory(machine),
        _check_hub_cache(),
        _check_pack_cache(config),
        checks.check_port(port),
        checks.check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        checks.check_variables(os.environ, names),
        Check("settings file", Verdict.OK, "none" if settings_file is None else str(settings_file)),
    ]


def _check_hub_cache() -> Check:
    # Slow to import, and it alone knows where its cache is.
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = _existing(folder)
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        free = None
    return checks.check_disk("model cache", str(folder), free, os.access(existing, os.W_OK))


def _check_pack_cache(config: EngineConfig) -> Check:
    kept = PackCache.of_user(os.environ)
    if kept is None:
        return Check(
            checks.PACK_CACHE,
            Verdict.WARNING,
            "no folder for caches: weights are packed anew at each start",
            "set XDG_CACHE_HOME or HOME to a folder",
        )
    if not config.pack_cache:
        return Check(checks.PACK_CACHE, Verdict.OK, "pack_cache is off: packed anew at each start")
    folder = kept.folder
    elsewhere = "or set XDG_CACHE_HOME to another one"
    try:
        entries = kept.entries()
        most_bytes = kept.most_bytes() if folder.exists() else None
    except PermissionError:
        reason = "is not this user's and nobody else's"
        advice = f"chmod 700 {folder}, {elsewhere}"
        return checks.check_no_pack_cache(folder, reason, advice)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        return checks.check_no_pack_cache(folder, reason, f"make it a folder, {elsewhere}")
    if not os.access(_existing(folder), os.W_OK | os.X_OK):
        advice = f"make it writable for this user, {elsewhere}"
        return checks.check_no_pack_cache(folder, "cannot be written", advice)
    num_bytes = sum(entry.num_bytes for entry in entries)
    num_useless = sum(entry.contents is None for entry in entries)
    return checks.check_pack_cache(folder, len(entries), num_bytes, most_bytes, num_useless)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _print(found: list[Check]) -> None:
    width = max(len(check.name) for check in found)
    coloured = has_colours(sys.stdout)
    for check in found:
        verdict = f"{check.verdict:8}"
        if coloured:
            verdict = f"{_COLOURS[check.verdict]}{verdict}\x1b[0m"
        print(f"{verdict} {check.name:{width}}  {check.finding}")
        if check.advice:
            print(f"{'':8} {'':{width}}  -> {check.advice}")
