"""`octavo bench` as a process: tables, JSON, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_model import write_small_model

pytestmark = pytest.mark.timeout(1000)  # more than all processes of a test may take together
TIMEOUT_S = 240


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "octavo", "bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench-model") / "small"
    folder.mkdir()
    return write_small_model(folder, max_position_embeddings=120)


@pytest.mark.slow  # a process for each rung
@pytest.mark.parametrize("as_json", [True, False])
def test_the_ladder(model: Path, as_json: bool) -> None:
    done = bench("ladder", model, "--quick", "--num-threads", 1, *["--json"] * as_json)
    assert (done.returncode, done.stderr) == (0, "")
    if not as_json:
        assert done.stdout.splitlines()[1].strip() == "w8 weights, bf16 keys and values"
        assert "All rungs gave equal answers" in done.stdout
        assert max(map(len, done.stdout.splitlines()[:10])) <= 80
        return
    result = json.loads(done.stdout)
    assert (result["model"], result["equal"], len(result["rungs"])) == ("small", True, 6)
    assert (result["weights"], result["kv"]) == ("w8", "bf16")
    for before, rung in zip([result["rungs"][0], *result["rungs"]], result["rungs"], strict=False):
        factor = rung["tokens_per_s"] / before["tokens_per_s"]
        assert rung["factor_over_before"] == pytest.approx(factor, abs=0.001)
        assert rung["equal"]
        assert rung["new_tokens"] == before["new_tokens"]
    computed = [rung["computed_tokens"] for rung in result["rungs"]]
    assert computed[0] > computed[1] > computed[5]


@pytest.mark.slow  # a process for the engine
def test_the_engine(model: Path) -> None:
    metrics = ("batch8", "rss_mb", "startup_s")
    done = bench("engine", "--model", model, "--metrics", *metrics, "--repeat", 2, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["metric"] for row in rows] == ["batch8", *metrics]
    assert {row["shape"] for row in rows} == {"small"}
    done = bench("engine", "--shape", "nothing", "--metrics", "batch8", "--profile")
    assert done.returncode == 0
    assert "batch8 (tokens/s)" in done.stdout
    assert "Microseconds a step" in done.stdout


@pytest.mark.slow  # four processes
def test_mistakes_are_told(model: Path) -> None:
    for words, message in (
        (("engine", "--shape", "tiny", "--model", model), "name either a shape or a model"),
        (("engine", "--shape", "tinny"), "did you mean 'tiny'?"),
        (("engine", "--shape", "tiny", "--metrics", "decod"), "did you mean 'decode'?"),
        (("ladder", model, "--repeat", 0), "repeat must be at least 1"),
    ):
        done = bench(*words)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stdout == ""


def test_without_a_model_it_measures_the_built_in_one() -> None:
    metrics = ("batch8",)
    done = bench("engine", "--metrics", *metrics, "--repeat", 1, "--json")
    assert done.returncode == 0, done.stderr
    [row] = map(json.loads, done.stdout.splitlines())
    assert (row["shape"], row["metric"]) == ("builtin", "batch8")
