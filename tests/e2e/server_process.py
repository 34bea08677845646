"""A real ``octavo serve`` in a process of its own, as a program would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 120.0


@dataclass
class ServerProcess:
    """A server that is ready."""

    process: subprocess.Popen[str]
    url: str
    """Ends in /v1."""
    models: list[str]
    errors: list[str] = field(default_factory=list)
    """Lines of its stderr."""

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def port(self) -> int:
        return int(self.root.rpartition(":")[2])

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def held_pages(self) -> float:
        return sum(v for name, v in self.metrics().items() if 'state="held"' in name)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(timeout=60)


def poll(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Until something is so; a failure if it never is."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def server_process(
    *words: str | Path, environment: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", "octavo.cli.main", "serve", *map(str, words)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=errors.extend, args=(process.stderr,))
    reader.start()
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        watchdog.cancel()
        assert line, f"the server did not start: {''.join(errors)}"
        ready = json.loads(line)
        yield ServerProcess(process, ready["url"], ready["models"], errors)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()
