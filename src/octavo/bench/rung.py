"""One rung of the ladder: a workload on an engine with certain switches, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from octavo import LLM, SamplingParams
from octavo.bench.machine import Stopwatch, peak_rss_mib
from octavo.bench.workload import Workload, fit
from octavo.runtime.outputs import RequestOutput


class RungJob(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What to measure."""

    folder: str
    options: dict[str, Any]
    """Of EngineConfig."""
    workload: Workload


class RungResult(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One run of a workload; all of its requests come at once."""

    tokens_per_s: float
    """New tokens over wall time."""
    wall_s: float
    new_tokens: int
    computed_tokens: int
    """Tokens that went through the model, those computed again included."""
    cached_tokens: int
    """Tokens that were found in the prefix cache."""
    ttft_median_s: float
    """From the arrival of a request to its first token."""
    ttft_p95_s: float
    latency_median_s: float
    """From the arrival of a request to its last token."""
    latency_p95_s: float
    peak_rss_mib: int
    others: float
    """Share of the machine that other processes used."""
    answers: tuple[str, ...]
    """For each request a digest of its tokens and logprobs."""


def measure_rung(job: RungJob) -> Iterator[RungResult]:
    """Load the model with the switches and do the work once.

    Raises:
        OctavoError: the model or a switch cannot be used.
    """
    with LLM(job.folder, **job.options) as llm:
        workload = fit(job.workload, llm.max_model_len)
        requests = workload.requests_for(llm.spec.vocab_size)
        prompts = [prompt for prompt, _ in requests]
        params = [msgspec.structs.replace(one, logprobs=0) for _, one in requests]
        llm.generate([[1] * 8], SamplingParams(max_tokens=2), progress=False)  # warm
        before = llm.stats().scheduler
        with Stopwatch() as watch:
            outputs = llm.generate(prompts, params, progress=False)
        after = llm.stats().scheduler
    timings = [_timings(output) for output in outputs]
    ttfts = [first_s for first_s, _ in timings]
    latencies = [last_s for _, last_s in timings]
    new_tokens = sum(output.usage.completion_tokens for output in outputs)
    yield RungResult(
        tokens_per_s=round(new_tokens / watch.seconds, 2),
        wall_s=round(watch.seconds, 4),
        new_tokens=new_tokens,
        computed_tokens=after.computed_tokens - before.computed_tokens,
        cached_tokens=after.hit_tokens - before.hit_tokens,
        ttft_median_s=percentile(ttfts, 50),
        ttft_p95_s=percentile(ttfts, 95),
        latency_median_s=percentile(latencies, 50),
        latency_p95_s=percentile(latencies, 95),
        peak_rss_mib=peak_rss_mib(),
        others=watch.others,
        answers=tuple(map(_digest, outputs)),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return round(ordered[rank - 1], 4)


def _timings(output: RequestOutput) -> tuple[float, float]:
    timings = output.choices[0].timings
    assert timings is not None, "it is finished"
    return timings.first_token_s, timings.finished_s


def _digest(output: RequestOutput) -> str:
    [choice] = output.choices
    data = msgspec.msgpack.encode((choice.token_ids, choice.logprobs))
    return hashlib.blake2b(data, digest_size=16).hexdigest()
