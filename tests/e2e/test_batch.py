"""`octavo batch` as a process: killed anywhere and started again, each line is answered once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.small_model import ENDLESS, write_endless_model

pytestmark = pytest.mark.timeout(900)  # more than all processes of most tests may take together
TIMEOUT_S = 120
NUM_GOOD = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch-model") / "small"
    folder.mkdir()
    return write_endless_model(folder)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests of both kinds, bad lines among them.

    The last one takes so long that a process which works on all of them has not ended by itself
    when somebody comes to end it.
    """
    lines = []
    for number in range(NUM_GOOD):
        body: dict[str, Any] = {"max_tokens": 5 + number % 40, "seed": number, "model": "small"}
        if number % 3:
            url = "/v1/completions"
            body |= {"prompt": f"request {number}", "n": 1 + number % 2, "logprobs": 1}
        else:
            url = "/v1/chat/completions"
            body |= {"messages": [{"role": "user", "content": f"request {number}"}]}
        line = {"custom_id": f"id-{number}", "method": "POST", "url": url, "body": body}
        lines.append(json.dumps(line))
    lines[7:7] = ["this is no JSON", ""]
    lines.append(lines[0])  # the same custom_id once more
    lines.append(
        json.dumps({"custom_id": "cold", "url": "/v1/completions", "body": {"temperature": -1}})
    )
    endless = {"prompt": "on and on", "max_tokens": ENDLESS, "ignore_eos": True, "model": "small"}
    lines.append(json.dumps({"custom_id": "endless", "url": "/v1/completions", "body": endless}))
    path = tmp_path_factory.mktemp("batch-input") / "in.jsonl"
    path.write_text("\n".join(lines))
    return path


NUM_LINES = NUM_GOOD + 3
"""Without the endless one."""
ALL_BUT_THE_ENDLESS = ("--limit", str(NUM_LINES))


def command(model: Path, requests: Path, output: Path, *flags: str) -> list[str]:
    words = [sys.executable, "-m", "octavo", "batch", str(model), str(requests), str(output)]
    return [*words, "--max-num-seqs", "4", "--num-threads", "1", *flags]


def finish(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def answers_of(output: Path) -> dict[str, dict[str, Any]]:
    """By id, without what a clock or a name made up for the request decides."""
    answers = {}
    for line in output.read_bytes().splitlines():
        answer = json.loads(line)
        assert answer["id"] not in answers, "a line was answered twice"
        if answer["response"] is not None:
            del answer["response"]["request_id"]
            for field in ("id", "created"):
                answer["response"]["body"].pop(field, None)
        answers[answer["id"]] = answer
    return answers


def start_and_wait_for(words: list[str], output: Path, size: int) -> subprocess.Popen[str]:
    """A process at work whose output has reached a size."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + TIMEOUT_S
    while not output.exists() or output.stat().st_size < size:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    return process


@pytest.mark.slow  # ten processes
@pytest.mark.timeout(1300)
def test_killed_at_random_points_each_line_is_answered_once(
    model: Path, requests: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.jsonl"
    done = finish(command(model, requests, whole, "--json", *ALL_BUT_THE_ENDLESS))
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["lines"], summary["succeeded"], summary["failed"]) == (NUM_LINES, NUM_GOOD, 3)
    expected = answers_of(whole)
    assert len(expected) == NUM_LINES

    output = tmp_path / "out.jsonl"
    words = command(model, requests, output)
    total = whole.stat().st_size
    draw = random.Random(17)
    for size in sorted(draw.randrange(0, total * 9 // 10) for _ in range(7)):
        process = start_and_wait_for(words, output, size)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        if output.exists():  # a line that was being written, as a power cut may leave it
            torn = draw.randrange(0, 40)
            data = output.read_bytes()
            output.write_bytes(data[: len(data) - torn] if data.endswith(b"\n") else data)
    words = command(model, requests, output, "--json", *ALL_BUT_THE_ENDLESS)
    done = finish(words)
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary["answered_before"] > 0
    assert summary["answered_before"] + summary["succeeded"] + summary["failed"] == NUM_LINES
    assert answers_of(output) == expected

    before = output.read_bytes()
    done = finish(words)  # nothing is left to do
    assert json.loads(done.stdout)["answered_before"] == NUM_LINES
    assert output.read_bytes() == before


@pytest.mark.slow  # three processes
def test_ctrl_c_keeps_what_is_done(model: Path, requests: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    words = command(model, requests, output, "--ordered")
    process = start_and_wait_for(words, output, 2000)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert f"of {NUM_LINES + 1} lines are answered" in stderr
    assert "the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    data = output.read_bytes()
    assert data.endswith(b"\n")
    assert 0 < data.count(b"\n") <= NUM_LINES
    assert finish([*words, *ALL_BUT_THE_ENDLESS]).returncode == 0
    answers = map(json.loads, output.read_bytes().splitlines())
    numbers = [int(answer["id"].split("_")[2]) for answer in answers]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == NUM_LINES
    assert output.read_bytes().startswith(data)


@pytest.mark.slow  # four processes
def test_mistakes_are_told_before_the_model_is_loaded(
    model: Path, requests: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("dear diary\n")
    missing = tmp_path / "missing"
    for words, message in (
        (command(missing, requests, output), "line 1 is not an answer"),
        (command(missing, missing, output), "no such file"),
        (command(missing, requests, requests), "is the input too"),
        (command(missing, requests, output, "--limit", "0"), "limit must be at least 1"),
    ):
        done = finish(words)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stdout == ""
    assert output.read_text() == "dear diary\n"
