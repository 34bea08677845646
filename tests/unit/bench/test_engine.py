"""An engine's metrics: rows as the peers have them, parts of steps, and processes of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.bench.engine import (
    MAX_MODEL_LEN,
    METRICS,
    EngineJob,
    Sample,
    check_metrics,
    length_for,
    measure_engine,
    missing_metrics,
)
from octavo.bench.overhead import OverheadJob, OverheadResult
from octavo.bench.parts import StepParts
from octavo.bench.read_roof import bytes_a_token, probe_read
from octavo.bench.shapes import write_shape
from octavo.bench.worker import run_in_worker
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError, EngineDead, ModelError
from octavo.runtime.outputs import RequestOutput


def job(folder: Path, **changes: Any) -> EngineJob:
    fields: dict[str, Any] = {
        "folder": str(folder),
        "shape": "nothing",
        "options": {"load_format": "dummy", "num_threads": 1, "num_pages": 200},
        "metrics": METRICS,
        "repeat": 1,
        "quiet_wait_s": 0.0,
        "profile": False,
        "started_s": time.monotonic(),
    }
    return EngineJob(**{**fields, **changes})


def test_rows_have_the_form_of_the_peers(tmp_path: Path) -> None:
    metrics = ("decode", "prefill512", "batch8", "rss_mb", "startup_s")
    samples = list(measure_engine(job(write_shape("nothing", tmp_path), metrics=metrics, repeat=2)))
    assert [sample.metric for sample in samples] == [
        *("decode", "prefill512", "batch8") * 2,
        "rss_mb",
        "startup_s",
    ]
    for sample in samples:
        row = json.loads(json.dumps(sample.row()))
        assert list(row) == ["engine", "shape", "format", "metric", "value", "others", "at"]
        assert (row["engine"], row["shape"], row["format"]) == ("octavo", "nothing", "w8/bf16")
        assert row["value"] > 0
        assert 0 <= row["others"] <= 1
        assert abs(row["at"] - time.time()) < 3600


def test_prefill_counts_up_to_the_first_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[RequestOutput]] = []
    generate = LLM.generate

    def remember(*words: Any, **options: Any) -> list[RequestOutput]:
        answers.append(generate(*words, **options))
        return answers[-1]

    monkeypatch.setattr(LLM, "generate", remember)
    folder = write_shape("nothing", tmp_path)
    [sample] = measure_engine(job(folder, metrics=("prefill512",)))
    timings = answers[-1][0].choices[0].timings
    assert timings is not None
    assert sample.value == pytest.approx(512 / timings.first_token_s, abs=0.01)


def test_a_profile_comes_with_each_timed_sample(tmp_path: Path) -> None:
    folder = write_shape("nothing", tmp_path)
    samples = list(measure_engine(job(folder, metrics=("batch8", "rss_mb"), profile=True)))
    timed, memory = samples
    assert timed.profile is not None
    assert timed.profile.steps == 64
    assert timed.row()["profile"]["run"] > 0
    assert memory.profile is None


def test_decoding_is_put_beside_the_bandwidth_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([2.0, 4.0])
    monkeypatch.setattr("octavo.bench.engine.probe_read", lambda threads: next(rates))
    folder = write_shape("nothing", tmp_path)
    [sample] = measure_engine(job(folder, metrics=("decode",), profile=True))
    assert sample.roof is not None
    assert sample.roof.read_gb_per_s == 4.0, "the better of both"
    read = sample.roof.bytes_a_token
    assert sample.roof.share == pytest.approx(sample.value * read / 4e9, abs=1e-4)
    assert sample.row()["roof"]["bytes_a_token"] == read


def test_what_a_token_reads(tmp_path: Path) -> None:
    folder = write_shape("nothing", tmp_path)
    config = EngineConfig.from_options({"weights": "w8", "kv": "int8"})
    group = 128 * 32 + 32 * 2  # bytes of 32 columns: one group of depth 32, padded to 128
    panels = {"q": 1, "k and v": 2, "output": 1, "gate and up": 2, "down": 1, "head": 8}
    assert bytes_a_token(folder, config, 0) == sum(panels.values()) * group
    page = 16 * 2 * (16 + 4)  # keys and values of one head of 16, with a scale each
    assert bytes_a_token(folder, config, 160) - bytes_a_token(folder, config, 0) == 10 * page


def test_probing_does_not_count_as_the_engine_s_memory(tmp_path: Path) -> None:
    folder = write_shape("nothing", tmp_path)
    metrics = ("decode", "rss_mb")
    samples = list(measure_engine(job(folder, metrics=metrics, profile=True)))
    assert [sample.metric for sample in samples] == ["decode"]
    samples = list(measure_engine(job(folder, metrics=("rss_mb",), profile=True)))
    assert [sample.metric for sample in samples] == ["rss_mb"]


def test_a_window_bounds_what_a_token_reads(tmp_path: Path) -> None:
    folder = write_shape("nothing", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    sliding = {**config, "architectures": ["MistralForCausalLM"], "sliding_window": 32}
    (folder / "config.json").write_text(json.dumps({**sliding, "model_type": "mistral"}))
    formats = EngineConfig.from_options({"weights": "w8", "kv": "int8"})
    read = [bytes_a_token(folder, formats, context) for context in (0, 32, 160)]
    assert read[0] < read[1] == read[2]


def test_reading_is_probed() -> None:
    assert 0.1 < probe_read(1) < 10_000


def test_metrics_that_need_a_longer_context_are_left_out(tmp_path: Path) -> None:
    assert missing_metrics(METRICS, 1024) == ("prefill2048",)
    assert missing_metrics(METRICS, 100) == ("decode", "prefill512", "prefill2048")
    folder = write_shape("nothing", tmp_path)
    samples = measure_engine(job(folder, metrics=("prefill2048", "rss_mb")))
    assert [sample.metric for sample in samples] == ["rss_mb"]


def test_decoding_after_a_long_prompt_is_measured_when_asked_for(tmp_path: Path) -> None:
    assert length_for(METRICS) == MAX_MODEL_LEN
    assert length_for(("decode4096",)) == 4096 + 129
    assert check_metrics(("decode4096",)) == ("decode4096",)
    folder = write_shape("nothing", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    longer = {**config, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(longer))
    options = {"load_format": "dummy", "num_threads": 1, "num_pages": 300, "kv": "int8"}
    [sample] = measure_engine(job(folder, metrics=("decode4096",), options=options))
    assert (sample.metric, sample.format) == ("decode4096", "w8/int8")
    assert sample.value > 0


def test_an_unknown_metric_gets_a_hint() -> None:
    assert check_metrics(()) == METRICS
    assert check_metrics(("batch8",)) == ("batch8",)
    with pytest.raises(ConfigError, match="unknown metric 'prefil512'") as refusal:
        check_metrics(("prefil512",))
    assert refusal.value.hint == "did you mean 'prefill512'?"


def test_the_parts_of_a_step_add_up(tmp_path: Path) -> None:
    with LLM(write_shape("nothing", tmp_path), load_format="dummy", num_pages=20) as llm:
        before = llm.stats()
        started_s = time.perf_counter()
        llm.generate([[1, 2]], SamplingParams(max_tokens=10, ignore_eos=True))
        wall_s = time.perf_counter() - started_s
        parts = StepParts.between(before, llm.stats(), wall_s)
    assert parts.steps == 10
    assert parts.total == pytest.approx(wall_s / 10 * 1e6)
    assert parts.outside == pytest.approx(parts.total - parts.run)
    for name in ("plan", "batch", "run", "result", "apply", "rest"):
        assert getattr(parts, name) > 0


@pytest.mark.slow  # a process of its own
def test_a_worker_measures_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = write_shape("nothing", tmp_path)
    overhead = OverheadJob(folder=str(folder), rows=(1, 2), repeat=1)
    results = list(run_in_worker(overhead, OverheadResult))
    assert [result.rows for result in results] == [1, 2]
    assert all(result.parts.steps == 256 for result in results)
    samples = list(run_in_worker(job(folder, metrics=("rss_mb", "startup_s")), Sample))
    memory, startup = (sample.value for sample in samples)
    assert 10 < memory < 2000
    assert 0.05 < startup < 60


@pytest.mark.slow  # a process of its own
def test_what_goes_wrong_in_a_worker_is_raised_here(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="model_type"):
        list(run_in_worker(job(tmp_path), Sample))
    with pytest.raises(EngineDead, match="status 1"):
        list(run_in_worker(job(tmp_path, shape=5), Sample))
    assert "Traceback" in capfd.readouterr().err
