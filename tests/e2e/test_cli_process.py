"""Command lines as processes: pipes, signals, downloads, and how long they take to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from tests.e2e.processor_time import check_start, processor_time_of_children
from tests.small_model import write_small_model
from tests.unit.models.hub_server import Hub, Repository

pytestmark = pytest.mark.timeout(900)  # more than all processes of a test may take together
OCTAVO = [sys.executable, "-m", "octavo"]
TIMEOUT_S = 120
MORE_THAN_A_PIPE_HOLDS = 100_000
"""Tokens of an answer that no process can end before somebody reads it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process-model")
    return write_small_model(folder, max_position_embeddings=MORE_THAN_A_PIPE_HOLDS + 10)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a user without settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONUTF8": "1", **more}


def run(
    home: Path, *words: object, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*OCTAVO, *map(str, words)],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(home, **variables),
        cwd=home,
    )


@pytest.mark.slow
def test_what_is_piped_in_is_one_message(model: Path, tmp_path: Path) -> None:
    flags = ("--seed", 3, "--max-tokens", 9, "--no-chat")
    done = run(tmp_path, "run", model, *flags, stdin=b"two\nlines\n")
    with LLM(model) as llm:
        params = SamplingParams(seed=3, max_tokens=9)
        expected = llm.generate("two\nlines", params)[0].text
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == expected + ("" if expected.endswith("\n") else "\n")


@pytest.mark.slow
def test_input_that_is_no_text_is_refused(model: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "run", model, stdin=b"\xff")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the input is not UTF-8 at byte 0")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(model: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*OCTAVO, "run", str(model), "--ignore-eos", "--max-tokens", str(MORE_THAN_A_PIPE_HOLDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"go")
    process.stdin.close()
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.slow
def test_help_that_nobody_reads_ends_as_documented(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*OCTAVO, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            env=environment(tmp_path),
            cwd=tmp_path,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "closed", "status", "error"),
    [
        ("generate MODEL x --max-tokens 2", ">&-", 0, b""),
        ("generate MODEL - --max-tokens 2", "<&-", 2, b"error: prompt 0: the prompt is empty"),
        ("run MODEL", "<&-", 2, b"error: the input is empty"),
        ("generate", "2>&-", 2, b""),
    ],
)
def test_a_closed_stream_is_an_empty_one(
    model: Path, tmp_path: Path, words: str, closed: str, status: int, error: bytes
) -> None:
    command = [*OCTAVO, *words.replace("MODEL", str(model)).split()]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode == status
    assert done.stdout == b""
    assert done.stderr.partition(b"\n")[0] == error


@pytest.mark.slow
def test_ctrl_c_ends_a_completion(model: Path, tmp_path: Path) -> None:
    longest = ("--max-tokens", str(MORE_THAN_A_PIPE_HOLDS))
    process = subprocess.Popen(
        [*OCTAVO, "generate", str(model), "go", "--stream", "--ignore-eos", *longest],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (130, b"")


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    opened = Hub({"us/small": Repository.of({**files, "notes.bin": b"not wanted"})})
    yield opened
    opened.close()


@pytest.mark.slow
def test_pull_fetches_once_and_prints_the_folder(hub: Hub, tmp_path: Path, model: Path) -> None:
    where = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    done = run(tmp_path, "pull", "us/small", **where)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""  # no progress where there is no terminal
    folder = Path(done.stdout.decode().removesuffix("\n"))
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "notes.bin" not in hub.downloads

    fetched = list(hub.downloads)
    again = run(tmp_path, "pull", "us/small", "--revision", "main", **where)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert hub.downloads == fetched

    # What an interrupted download left out is all that is fetched.
    (folder / "model.safetensors").resolve().unlink()
    (folder / "model.safetensors").unlink()
    resumed = run(tmp_path, "pull", "us/small", **where)
    assert resumed.returncode == 0
    assert hub.downloads == [*fetched, "model.safetensors"]

    shown = run(tmp_path, "pull", "us/small", "--progress", **where)
    assert b"\r" in shown.stderr
    assert shown.stdout == done.stdout

    offline = run(tmp_path, "pull", "us/small", **where, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo", "more", "message"),
    [
        ("us/other", {}, "no such repository"),
        ("us/small@nope", {}, "no revision 'nope'"),
        ("us/small", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        ("us/small", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
    ],
)
def test_pull_says_what_is_wrong(
    hub: Hub, tmp_path: Path, repo: str, more: dict[str, str], message: str
) -> None:
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **more}
    done = run(tmp_path, "pull", repo, **variables)
    assert (done.returncode, done.stdout) == (3, b"")
    error, hint = done.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "promised_s"),
    [(["-m", "octavo", "--help"], 0.4), (["-c", "import octavo"], 0.3)],
    ids=["octavo --help", "import octavo"],
)
def test_a_start_is_quick(
    tmp_path: Path, what: list[str], promised_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    times, processor_times = [], []
    for _ in range(5):
        started, used = time.perf_counter(), processor_time_of_children()
        subprocess.run(
            [sys.executable, *what],
            check=True,
            capture_output=True,
            timeout=TIMEOUT_S,
            env=environment(tmp_path),
            cwd=tmp_path,
        )
        times.append(time.perf_counter() - started)
        processor_times.append(processor_time_of_children() - used)
    with capsys.disabled():
        check_start(
            " ".join(what),
            promised_s=promised_s,
            wall_s=min(times),
            processor_s=min(processor_times),
        )


@pytest.mark.slow
def test_json_is_all_there_is_on_stdout(model: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "generate", model, "a", "b", "--json", "--max-tokens", 2, "--n", 2)
    assert done.returncode == 0
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["prompt"], second["prompt"]) == ("a", "b")
    assert [choice["index"] for choice in first["choices"]] == [0, 1]
