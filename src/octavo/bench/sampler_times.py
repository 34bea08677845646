"""How long the native sampler takes for one row, way by way: rows of `octavo bench kernels`."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from octavo._native import ThreadPool
from octavo.backends.base import F32, SamplingBatch
from octavo.backends.native_sampler import NativeSampler

_WAYS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "greedy, 5 logprobs": {"temperature": 0.0, "num_logprobs": 5},
    "plain": {},
    "temperature 0.7": {"temperature": 0.7},
    "top_k 50": {"top_k": 50},
    "top_k 50, top_p 0.9": {"top_k": 50, "top_p": 0.9},
    "top_p 0.9": {"top_p": 0.9},
    "top_p 0.999": {"top_p": 0.999},
    "min_p 0.05": {"min_p": 0.05},
    "typical_p 0.95": {"typical_p": 0.95},
}


@dataclass(frozen=True, slots=True)
class SamplerTime:
    """The best of many draws from one row of logits in the cache."""

    name: str
    seconds: float
    bytes: int
    """Of the logits, each read once: what a reading roof is compared with."""


def sampler_times(
    pool: ThreadPool,
    instruction_set: str,
    vocab_size: int,
    seconds_each: float = 0.1,
) -> list[SamplerTime]:
    """Times one row of normally distributed logits in each way of sampling."""
    sampler = NativeSampler(pool, vocab_size, instruction_set)
    logits = np.random.default_rng(0).normal(0, 3, (1, vocab_size)).astype(np.float32)
    return [
        SamplerTime(
            name,
            _best_time(sampler, logits, _one_row(vocab_size, parameters), seconds_each),
            logits.nbytes,
        )
        for name, parameters in _WAYS.items()
    ]


def _best_time(
    sampler: NativeSampler, logits: F32, sampling: SamplingBatch, seconds: float
) -> float:
    best = float("inf")
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or best == float("inf"):
        sampler.sample(logits, sampling)
        best = min(best, time.perf_counter() - started)
    return best


def _one_row(vocab_size: int, parameters: dict[str, float]) -> SamplingBatch:
    def f32(name: str, default: float) -> F32:
        return np.array([parameters.get(name, default)], np.float32)

    nothing = np.zeros(0, np.int32)
    no_ranges = np.zeros(2, np.int32)
    return SamplingBatch(
        seeds=np.array([1], np.uint64),
        choices=np.zeros(1, np.uint32),
        positions=np.zeros(1, np.uint32),
        temperature=f32("temperature", 1.0),
        top_k=np.array([parameters.get("top_k", 0)], np.int32),
        top_p=f32("top_p", 1.0),
        min_p=f32("min_p", 0.0),
        typical_p=f32("typical_p", 1.0),
        repetition_penalty=f32("repetition_penalty", 1.0),
        presence_penalty=f32("presence_penalty", 0.0),
        frequency_penalty=f32("frequency_penalty", 0.0),
        num_logprobs=np.array([parameters.get("num_logprobs", -1)], np.int32),
        seen_starts=no_ranges,
        seen_ids=nothing,
        seen_counts=nothing,
        bias_starts=no_ranges,
        bias_ids=nothing,
        bias_values=np.zeros(0, np.float32),
        mask_of_row=np.full(1, -1, np.int32),
        masks=np.zeros((0, -(-vocab_size // 32)), np.uint32),
    )
