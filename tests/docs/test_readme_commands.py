"""The README's shell snippets run as they stand there, on a small model.

Left out are the lines that begin with ``make``, which have tests of their own.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.small_model import write_small_model

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
STOP_S = 60.0


def blocks() -> list[str]:
    found = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert len(found) > 5
    return found


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def shell(tmp_path: Path) -> list[str]:
    """A folder with ``path/to/a/model``, and the start of a command that has ``octavo``."""
    write_small_model(tmp_path / "path/to/a/model")
    program = tmp_path / "bin/octavo"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m octavo "$@"\n')
    program.chmod(0o755)
    return ["sh", "-euc", f'PATH="{program.parent}:$PATH"; cd "{tmp_path}"; ']


def with_command(shell: list[str], command: str) -> list[str]:
    return [*shell[:-1], shell[-1] + command]


@contextmanager
def serving(shell: list[str], command: str, port: int) -> Iterator[None]:
    start = with_command(shell, f"exec {command.strip()} --port {port}")
    with subprocess.Popen(
        start, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert f":{port}" in process.stdout.readline()
            yield
        finally:
            process.terminate()
            process.wait(STOP_S)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_readme_runs(shell: list[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    port = free_port()
    servers = [block for block in blocks() if block.startswith("octavo serve")]
    others = [block for block in blocks() if not block.startswith("octavo serve")]
    assert len(servers) == 1
    with serving(shell, servers[0], port):
        for block in others:
            started = time.monotonic()
            done = subprocess.run(
                with_command(shell, block.replace("8000", str(port))),
                input="Once upon a time\n",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=300,
                check=False,
            )
            print(f"{time.monotonic() - started:.1f} s: {block}")
            assert done.returncode == 0, f"{block}\n{done.stderr}"
            assert done.stdout.strip(), block
            if "curl" in block:
                assert '"text":' in done.stdout, done.stdout
