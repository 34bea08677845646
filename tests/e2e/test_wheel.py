"""The wheel as a stranger meets it: installed where there is no compiler, and used there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.processor_time import check_start, processor_time_of_children
from tests.small_model import write_small_model

pytestmark = [
    pytest.mark.slow,  # compiles, installs some 30 packages, and starts processes
    pytest.mark.timeout(1200),
]

ROOT = Path(__file__).parents[2]
MAX_INSTALL_BYTES = 200e6
# What is promised.
IMPORT_S = 0.3
HELP_S = 0.4
SERVER_DEADLINE_S = 240
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make", "ld")
THREE_LINES = """
from octavo import LLM, SamplingParams

llm = LLM(MODEL)
print(llm.generate("Once upon a time", SamplingParams(max_tokens=5, temperature=0.0))[0].text)
"""
TIMED_IMPORT = """
from time import perf_counter, process_time

started, used = perf_counter(), process_time()
import octavo

print(perf_counter() - started, process_time() - used)
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel, what it needs, and nothing else."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes: no compiler, nothing of the checkout, no settings of the user's."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": str(self.folder / "bin"), "HOME": str(home), "LANG": "C.UTF-8"}

    def command(self, *words: str) -> list[str]:
        return [str(self.folder / "bin" / words[0]), *words[1:]]

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program of the environment to its end."""
        return subprocess.run(
            self.command(*words),
            input=given,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def output(self, *words: str, given: str = "") -> str:
        """What a program that must succeed prints."""
        done = self.run(*words, given=given)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where the package index that pip is set up with cannot be reached."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    folder = tmp_path_factory.mktemp("index")
    done = subprocess.run(
        [*words, "--dest", str(folder), "auditwheel"], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def wheel(index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(  # `build` is as good as done: these tests run on it
        [make, "--old-file=build", "wheel", f"DIST={dist}", f"VENV={sys.prefix}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [found] = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    names = {"CC", "CXX", "CFLAGS", "CXXFLAGS", "PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PATH"] = str(folder / "bin")
    for program in COMPILERS:
        assert shutil.which(program, path=environment["PATH"]) is None
    words = ["pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [folder / "bin" / words[0], *words[1:], wheel],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Installed(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_small_model(tmp_path_factory.mktemp("model")))


def test_the_wheel_carries_the_package_and_nothing_else(wheel: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert wheel.name.startswith(f"octavo-{version}-")
    assert "-manylinux_2_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    extensions = {name for name in names if name.startswith("octavo/_native.") and ".so" in name}
    assert len(extensions) == 1
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src/octavo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packaged = {name for name in names if name.startswith("octavo/")} - extensions
    assert packaged == sources
    about = {name.partition("/")[2] for name in names - packaged - extensions}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_it_is_small(installed: Installed) -> None:
    [packages] = installed.folder.glob("lib/python3*/site-packages")
    num_bytes = sum(
        path.lstat().st_size
        for path in packages.rglob("*")
        if path.relative_to(packages).parts[0].partition("-")[0] not in ("pip", "setuptools")
    )
    print(f"\ninstalled with all that it needs: {num_bytes / 1e6:.0f} MB")
    assert num_bytes < MAX_INSTALL_BYTES


def test_it_needs_no_torch(installed: Installed) -> None:
    names = {line.partition("==")[0].lower() for line in installed.output("pip", "freeze").split()}
    assert "octavo" in names
    assert not names & {"torch", "transformers", "triton", "tensorflow", "pytest", "safetensors"}


def test_python(installed: Installed, model: str) -> None:
    code = THREE_LINES.replace("MODEL", repr(model))
    assert installed.output("python", "-c", code).strip()
    where = "import octavo, importlib.metadata as m; print(octavo.__version__, m.version('octavo'))"
    own, metadata = installed.output("python", "-c", where).split()
    assert own == metadata


def test_import_and_help_are_quick(
    installed: Installed, capsys: pytest.CaptureFixture[str]
) -> None:
    installed.output("python", "-c", TIMED_IMPORT)  # writes the caches
    import_s, import_processor_s = map(
        float, installed.output("python", "-c", TIMED_IMPORT).split()
    )
    installed.output("octavo", "--help")
    started_s, used_s = time.perf_counter(), processor_time_of_children()
    assert "generate" in installed.output("octavo", "--help")
    help_s = time.perf_counter() - started_s
    help_processor_s = processor_time_of_children() - used_s
    with capsys.disabled():
        check_start(
            "import octavo",
            promised_s=IMPORT_S,
            wall_s=import_s,
            processor_s=import_processor_s,
        )
        check_start("octavo --help", promised_s=HELP_S, wall_s=help_s, processor_s=help_processor_s)


def test_generate_and_run_without_a_terminal(installed: Installed, model: str) -> None:
    flags = ("--max-tokens", "8", "--temperature", "0")
    generated = installed.output("octavo", "generate", model, "Once upon", *flags)
    assert generated.strip()
    piped = installed.output("octavo", "generate", model, "-", *flags, given="Once upon")
    assert piped == generated
    assert installed.output("octavo", "run", model, "--no-chat", *flags, given="Once upon").strip()


def test_the_model_inside_tells_a_story(installed: Installed) -> None:
    flags = ("--max-tokens", "30", "--temperature", "0")
    generated = installed.output("octavo", "generate", "Once upon a", *flags)
    assert generated.startswith(" time")
    answer = installed.output("octavo", "run", *flags, given="Tell me a story about a dog.")
    assert len(answer.split()) > 15
    code = "import octavo; print(octavo.LLM().generate('Once upon a')[0].prompt_token_ids)"
    assert installed.output("python", "-c", code).strip()


def test_a_mistake_is_told_without_a_traceback(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("octavo", "generate", str(tmp_path / "nothing"), "Once")
    assert done.returncode not in (0, 1)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_serve(installed: Installed, model: str) -> None:
    flags = ("--max-tokens", "8", "--temperature", "0")
    expected = installed.output("octavo", "generate", model, "Once upon", *flags)
    with served(installed, model) as address:
        name = get(f"{address}/v1/models")["data"][0]["id"]
        body = {"model": name, "prompt": "Once upon", "max_tokens": 8, "temperature": 0}
        answer = get(f"{address}/v1/completions", body)
    assert answer["choices"][0]["text"].strip() == expected.strip()
    assert answer["usage"]["completion_tokens"] <= 8


@contextmanager
def served(installed: Installed, model: str) -> Iterator[str]:
    """A server in a process of its own; its address, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = installed.folder / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            installed.command("octavo", "serve", model, "--port", str(port)),
            env=installed.environment,
            cwd=installed.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + SERVER_DEADLINE_S
        while not is_ready(address):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"the server is not ready: {log.read_text()}"
            time.sleep(0.05)
        yield address
        server.terminate()
        assert server.wait(timeout=60) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def get(url: str, body: object = None) -> dict:  # type: ignore[type-arg]
    """The JSON that a GET, or with a body a POST, answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)
