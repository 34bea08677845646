"""Microseconds that the scheduler spends on a step in which every sequence draws one token.

Nothing is computed: results are made up beforehand, so that what is measured is ``plan_step`` and
``apply`` alone. Run it as ``python bench/scheduler_step.py [--context TOKENS] [--windows 4096]``.
"""

from __future__ import annotations

import argparse
import statistics
import time

from octavo.core.clock import monotonic
from octavo.core.kv_layout import KVGroup, pages_for
from octavo.core.request import Request, SamplingParams
from octavo.core.step import RangeOutcome, StepResult
from octavo.scheduling.admission import Admission
from octavo.scheduling.batching import Continuous
from octavo.scheduling.kv import KVManager
from octavo.scheduling.policy import FirstComeFirstServed
from octavo.scheduling.scheduler import Scheduler

STEPS = 1000
VOCAB = 32000


def make_scheduler(rows: int, context: int, windows: list[int]) -> Scheduler:
    """A scheduler that holds ``rows`` sequences of ``context`` tokens, each drawing its next."""
    max_model_len = context + STEPS + 200
    layouts = [
        KVGroup(window=window, layers=(layer,), num_kv_heads=1, head_dim=64)
        for layer, window in enumerate([None, *windows])
    ]
    scheduler = Scheduler(
        policy=FirstComeFirstServed(),
        batching=Continuous(),
        kv=KVManager(layouts, num_pages=1 + rows * (pages_for(max_model_len) + 2), numerics=b""),
        admission=Admission(
            vocab_size=VOCAB, max_waiting_requests=rows, max_waiting_tokens=rows * max_model_len
        ),
        clock=monotonic,
        max_num_seqs=rows,
        max_num_batched_tokens=max(2048, rows),
        max_model_len=max_model_len,
        end_token_ids=(0,),
    )
    for row in range(rows):
        prompt = tuple((row * 31 + i) % (VOCAB - 1) + 1 for i in range(context))
        params = SamplingParams(max_tokens=STEPS + 150, seed=row)
        scheduler.add(Request(request_id=f"r{row}", prompt_ids=prompt, params=params))
    while scheduler.stats().running < rows:
        step(scheduler)
    return scheduler


def step(scheduler: Scheduler) -> tuple[float, float, int]:
    """One step: seconds for the plan, seconds for the result, rows that drew a token."""
    started = time.perf_counter()
    plan = scheduler.plan_step()
    planned = time.perf_counter()
    assert plan is not None
    outcomes = [RangeOutcome(token_id=5 if part.samples else None) for part in plan.ranges]
    result = StepResult(plan.step, outcomes)
    ready = time.perf_counter()
    scheduler.apply(result)
    return planned - started, time.perf_counter() - ready, len(outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32, 128])
    parser.add_argument("--context", type=int, default=1000, help="tokens of each prompt")
    parser.add_argument("--windows", type=int, nargs="*", default=[], help="groups besides full")
    options = parser.parse_args()
    print(f"context {options.context}, windows {options.windows}, {STEPS} steps; microseconds")
    print(f"{'rows':>5} {'plan':>8} {'apply':>8} {'sum':>8} {'p99':>8}")
    for rows in options.rows:
        scheduler = make_scheduler(rows, options.context, options.windows)
        times = [step(scheduler)[:2] for _ in range(STEPS)]
        plan, apply = (statistics.median(part) * 1e6 for part in zip(*times, strict=True))
        worst = statistics.quantiles([sum(pair) * 1e6 for pair in times], n=100)[-1]
        print(f"{rows:5} {plan:8.1f} {apply:8.1f} {plan + apply:8.1f} {worst:8.1f}")


if __name__ == "__main__":
    main()
