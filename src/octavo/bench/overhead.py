"""The Python around the model: microseconds a step outside the forward pass, by part.

A model that computes next to nothing is decoded through ``LLM``, from prompt to output.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from octavo import LLM, SamplingParams
from octavo.bench.parts import StepParts

TOKENS = 256
PROMPT = 16


class OverheadJob(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What to measure."""

    folder: str
    """Of a model whose weights are made up."""
    rows: tuple[int, ...]
    """Sequences decoded together: one figure for each number."""
    repeat: int


class OverheadResult(msgspec.Struct, frozen=True, tag=True):
    """The median run for one number of rows."""

    rows: int
    parts: StepParts


def measure_overhead(job: OverheadJob) -> Iterator[OverheadResult]:
    """A result for each number of rows."""
    for rows in job.rows:
        tokens = max(1024, rows)
        with LLM(
            job.folder, load_format="dummy", max_num_seqs=rows, max_num_batched_tokens=tokens
        ) as llm:
            _decode(llm, rows)  # warm
            runs = [_decode(llm, rows) for _ in range(job.repeat)]
        yield OverheadResult(rows, sorted(runs, key=lambda run: run.outside)[len(runs) // 2])


def _decode(llm: LLM, rows: int) -> StepParts:
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    prompts = [[row % 255 + 1] * PROMPT for row in range(rows)]
    before = llm.stats()
    started_s = time.perf_counter()
    llm.generate(prompts, params, progress=False)
    wall_s = time.perf_counter() - started_s
    return StepParts.between(before, llm.stats(), wall_s)
