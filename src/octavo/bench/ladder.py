"""The ladder: one optimisation switched on after the other, on the same work, on this machine.

Each rung is a set of ``EngineConfig`` switches; the answers of all rungs must be equal, tokens and
logprobs, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from octavo.bench.machine import quiet_ones
from octavo.bench.rung import RungJob, RungResult
from octavo.bench.workload import Workload

ROWS = 8
"""Sequences that are computed together, from the third rung on."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One set of switches."""

    name: str
    changes: dict[str, Any]
    """Against the rung before."""
    meaning: str


LADDER = (
    Rung(
        "no KV cache",
        {
            "kv_cache": False,
            "prefix_cache": False,
            "continuous_batching": False,
            "batching": "static",
            "max_batch_size": 1,
            "max_num_seqs": ROWS,
        },
        "one request at a time; each token computes its whole sequence again",
    ),
    Rung("KV cache", {"kv_cache": True}, "keys and values are kept"),
    Rung(
        "static batch",
        {"max_batch_size": ROWS, "pad": True},
        f"{ROWS} requests of like length as one padded rectangle, until the last one ends",
    ),
    Rung(
        "dynamic batch",
        {"batching": "dynamic", "pad": False},
        f"{ROWS} requests as they come, each computed as long as it lasts; nobody joins",
    ),
    Rung(
        "continuous batch",
        {"continuous_batching": True},
        "whoever ends makes room for the next at once",
    ),
    Rung("prefix cache", {"prefix_cache": True}, "beginnings in common are computed once"),
)


def switches(upto: int) -> dict[str, Any]:
    """All switches of a rung: its own changes on top of those below it."""
    options: dict[str, Any] = {}
    for rung in LADDER[: upto + 1]:
        options |= rung.changes
    return options


@dataclass(frozen=True, slots=True)
class Step:
    """A rung that was measured."""

    rung: Rung
    options: dict[str, Any]
    result: RungResult
    """The median run, by tokens/s."""
    over_before: float
    """Tokens/s over those of the rung before; 1 for the first."""
    over_first: float
    is_equal: bool
    """Whether all its runs gave the answers of the first rung."""

    def fields(self) -> dict[str, Any]:
        """For programs."""
        result = {name: getattr(self.result, name) for name in RungResult.__struct_fields__}
        del result["answers"]
        return {
            "name": self.rung.name,
            "options": self.options,
            **result,
            "factor_over_before": round(self.over_before, 3),
            "factor_over_first": round(self.over_first, 3),
            "equal": self.is_equal,
        }


def climb(
    folder: str,
    workload: Workload,
    *,
    measure: Callable[[str, RungJob], RungResult],
    options: dict[str, Any],
    repeat: int = 1,
) -> list[Step]:
    """Measure every rung.

    Rungs take turns, so that a busy time of the machine does not fall upon one of them. Of the
    runs that nobody disturbed (of all, if there is none) the median counts.

    Args:
        measure: does a job of the rung of a name; in a process of its own, where memory counts.
        options: of every rung, besides its switches.
        repeat: runs of each rung.
    """
    jobs = [
        RungJob(folder=folder, options={**options, **switches(number)}, workload=workload)
        for number in range(len(LADDER))
    ]
    runs: list[list[RungResult]] = [[] for _ in LADDER]
    for _ in range(repeat):
        for rung, job, taken in zip(LADDER, jobs, runs, strict=True):
            taken.append(measure(rung.name, job))
    results = [_median(taken) for taken in runs]
    answers = runs[0][0].answers
    return [
        Step(
            rung=rung,
            options=jobs[number].options,
            result=results[number],
            over_before=results[number].tokens_per_s / results[max(0, number - 1)].tokens_per_s,
            over_first=results[number].tokens_per_s / results[0].tokens_per_s,
            is_equal=all(run.answers == answers for run in runs[number]),
        )
        for number, rung in enumerate(LADDER)
    ]


def _median(runs: Sequence[RungResult]) -> RungResult:
    quiet = sorted(quiet_ones(runs), key=lambda run: run.tokens_per_s)
    return quiet[len(quiet) // 2]
