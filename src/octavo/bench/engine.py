"""An engine's speed in the metrics of `octavo bench engine`, through LLM, scheduler and sampler.

    decode       one sequence, prompt 16, 128 new tokens: tokens/s after the first
    decode4096   the same after a prompt of 4,096; only when it is asked for
    prefill N    one sequence: prompt tokens / time to the first token
    batch N      N sequences at once, prompt 32, 64 new tokens each: new tokens / wall time
    rss_mb       peak resident memory, MiB
    startup_s    from the start of the process to the first token

Prompts are random and the prefix cache is off. A row of results has the form that the rows of
other engines have, so that they can be put side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from octavo import LLM, SamplingParams
from octavo.bench.machine import Stopwatch, peak_rss_mib, wait_until_quiet
from octavo.bench.parts import StepParts
from octavo.bench.read_roof import ReadRoof, bytes_a_token, probe_read
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError, did_you_mean
from octavo.runtime.outputs import RequestOutput

ENGINE = "octavo"
MAX_MODEL_LEN = 2304
"""Of the engine that is measured, unless a metric needs more, or there is less to have."""
DECODE_PROMPT, DECODE_TOKENS = 16, 128
LONG_PROMPT = 4096
BATCH_PROMPT, BATCH_TOKENS = 32, 64
PREFILLS = (512, 2048)
BATCHES = (8, 16, 32)
METRICS = (
    "decode",
    *(f"prefill{length}" for length in PREFILLS),
    *(f"batch{size}" for size in BATCHES),
    "rss_mb",
    "startup_s",
)
"""Measured unless others are named."""
FURTHER_METRICS = (f"decode{LONG_PROMPT}",)
PROBED_METRICS = ("decode", *FURTHER_METRICS)
"""Put beside the memory's bandwidth when they are profiled."""


class EngineJob(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What to measure."""

    folder: str
    shape: str
    """What rows call the model."""
    options: dict[str, Any]
    """Of EngineConfig."""
    metrics: tuple[str, ...]
    repeat: int
    quiet_wait_s: float
    """How long to wait for a quiet machine before each sample."""
    profile: bool
    started_s: float
    """On the monotonic clock, which processes share: just before the process was started."""


class Sample(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """One figure."""

    engine: str
    shape: str
    format: str
    metric: str
    value: float
    others: float
    """Share of the machine that other processes used during the sample."""
    at: float
    """Seconds since 1970."""
    profile: StepParts | None = None
    roof: ReadRoof | None = None
    """Of decoding, when it is profiled."""

    def row(self) -> dict[str, Any]:
        """As it is printed for programs."""
        fields = msgspec.to_builtins(self)
        del fields["type"]
        if self.profile is not None:
            fields["profile"] = self.profile.fields()
        return dict(fields)


def check_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, if they are metrics. Raises ConfigError."""
    known = METRICS + FURTHER_METRICS
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"metrics are {', '.join(known)}"
            raise ConfigError(f"unknown metric {name!r}", hint=hint)
    return names or METRICS


def length_for(metrics: tuple[str, ...]) -> int:
    """The context to measure them with, in tokens."""
    return max(MAX_MODEL_LEN, *map(_context_of, metrics))


def probes_memory(metrics: tuple[str, ...], *, profile: bool) -> bool:
    """Whether memory for probing is taken; ``rss_mb`` would count it, and is left out."""
    return profile and any(name in PROBED_METRICS for name in metrics)


def missing_metrics(metrics: tuple[str, ...], max_model_len: int) -> tuple[str, ...]:
    """Those that need a longer context than the model has."""
    return tuple(name for name in metrics if _context_of(name) > max_model_len)


def measure_engine(job: EngineJob) -> Iterator[Sample]:
    """Load the model and take every sample.

    Raises:
        OctavoError: the model or an option cannot be used.
    """
    options = {"prefix_cache": False, **job.options}
    with LLM(job.folder, **options) as llm:
        bench = _Bench(llm, job)
        bench.generate(1, DECODE_PROMPT, 1)
        startup_s = time.monotonic() - job.started_s
        missing = missing_metrics(job.metrics, llm.max_model_len)
        timed = [name for name in job.metrics if name in _TIMED and name not in missing]
        bench.generate(4, DECODE_PROMPT, 4)
        for name in timed:  # once unmeasured: memory is touched, caches are warm
            if name.startswith("prefill"):
                bench.generate(1, _number(name), 1)
        for _ in range(job.repeat):
            for name in timed:
                yield bench.sample(name)
        if "rss_mb" in job.metrics and not probes_memory(job.metrics, profile=job.profile):
            yield bench.row("rss_mb", peak_rss_mib())
        if "startup_s" in job.metrics:
            yield bench.row("startup_s", startup_s)


@dataclass(frozen=True, slots=True)
class _Timed:
    """The work of a metric, and its figure from outputs and wall time."""

    batch: int
    prompt: int
    tokens: int
    figure: Callable[[list[RequestOutput], float], float]


class _Bench:
    """Takes samples on one engine."""

    def __init__(self, llm: LLM, job: EngineJob) -> None:
        self._llm = llm
        self._job = job
        self._random = np.random.default_rng(0)
        self._vocab_size = llm.spec.vocab_size
        self._config = EngineConfig.from_options(job.options)
        self._format = f"{self._config.weight_format}/{self._config.kv_format}"

    def generate(self, batch: int, prompt: int, tokens: int) -> list[RequestOutput]:
        low = min(10, self._vocab_size - 1)  # beyond what is special in most vocabularies
        high = min(30_000, self._vocab_size)
        prompts = self._random.integers(low, high, (batch, prompt)).tolist()
        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        return self._llm.generate(prompts, params, progress=False)

    def sample(self, metric: str) -> Sample:
        timed = _TIMED[metric]
        if self._job.quiet_wait_s:
            wait_until_quiet(self._job.quiet_wait_s)
        wants_roof = self._job.profile and metric in PROBED_METRICS
        probed = [probe_read(self._config.num_threads)] if wants_roof else []
        before = self._llm.stats()
        with Stopwatch() as watch:
            outputs = self.generate(timed.batch, timed.prompt, timed.tokens)
        parts = StepParts.between(before, self._llm.stats(), watch.seconds)
        value = timed.figure(outputs, watch.seconds)
        row = self.row(metric, value, watch.others, parts if self._job.profile else None)
        if not wants_roof:
            return row
        probed.append(probe_read(self._config.num_threads))
        context = timed.prompt + timed.tokens // 2
        read = bytes_a_token(Path(self._job.folder), self._config, context)
        return msgspec.structs.replace(row, roof=ReadRoof.beside(value, read, max(probed)))

    def row(
        self, metric: str, value: float, others: float = 0.0, profile: StepParts | None = None
    ) -> Sample:
        return Sample(
            engine=ENGINE,
            shape=self._job.shape,
            format=self._format,
            metric=metric,
            value=round(value, 2),
            others=others,
            at=time.time(),
            profile=profile,
        )


def _after_the_first(outputs: list[RequestOutput], wall_s: float) -> float:
    timings = outputs[0].choices[0].timings
    assert timings is not None
    return DECODE_TOKENS / (timings.finished_s - timings.first_token_s)


def _prompt_tokens(outputs: list[RequestOutput], wall_s: float) -> float:
    timings = outputs[0].choices[0].timings
    assert timings is not None
    return outputs[0].usage.prompt_tokens / timings.first_token_s


def _new_tokens(outputs: list[RequestOutput], wall_s: float) -> float:
    return sum(output.usage.completion_tokens for output in outputs) / wall_s


_TIMED = {
    "decode": _Timed(1, DECODE_PROMPT, DECODE_TOKENS + 1, _after_the_first),
    f"decode{LONG_PROMPT}": _Timed(1, LONG_PROMPT, DECODE_TOKENS + 1, _after_the_first),
    **{f"prefill{length}": _Timed(1, length, 1, _prompt_tokens) for length in PREFILLS},
    **{f"batch{size}": _Timed(size, BATCH_PROMPT, BATCH_TOKENS, _new_tokens) for size in BATCHES},
}


def _number(metric: str) -> int:
    return _TIMED[metric].prompt


def _context_of(metric: str) -> int:
    timed = _TIMED.get(metric)
    return 0 if timed is None else timed.prompt + timed.tokens
