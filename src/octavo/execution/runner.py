"""StepPlan → StepResult: the only place where plans meet a backend.

``submit`` hands a plan over and returns a ticket, whose ``result`` waits for the step. With
``overlap`` the step is computed on a thread of its own, strictly in the order of submission, so
that a caller can plan the next one meanwhile; without it ``submit`` computes at once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from octavo.backends.base import Executable, Rows, ScoredRows
from octavo.core.clock import Clock, monotonic
from octavo.core.step import RangeOutcome, StepPlan, StepResult, TokenLogprobs
from octavo.execution.batch import Batches, BuiltBatch
from octavo.execution.slots import SlotTable


@dataclass(slots=True)
class StepTimes:
    """Seconds spent so far, for the profiler: building batches, computing, reading results."""

    batch_s: float = 0.0
    run_s: float = 0.0
    result_s: float = 0.0


class Ticket(Protocol):
    """A step that was submitted."""

    def result(self) -> StepResult:
        """What came of it; waits for it. Raises what the backend raised."""


@dataclass(slots=True)
class _Computed:
    """What a future is to a step that was computed at once; a real one brings locks along."""

    value: StepResult | None
    error: Exception | None = None

    def result(self) -> StepResult:
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


class Runner:
    """Owns the slots and an executable; runs plans one after the other."""

    def __init__(
        self,
        executable: Executable,
        *,
        max_num_seqs: int,
        max_model_len: int,
        vocab_size: int,
        end_token_ids: tuple[int, ...],
        overlap: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self.times = StepTimes()
        self._executable = executable
        self._clock = clock
        self._slots = SlotTable(
            max_num_seqs, max_model_len, vocab_size, len(executable.kv_groups), end_token_ids
        )
        self._batches = Batches(self._slots)
        self._thread = ThreadPoolExecutor(1, "octavo-step") if overlap else None

    def submit(self, plan: StepPlan) -> Ticket:
        """Start a step. The plan must not be changed afterwards."""
        if self._thread is not None:
            return self._thread.submit(self._run, plan)
        try:
            return _Computed(self._run(plan))
        except Exception as error:  # told by the ticket, as from a thread
            return _Computed(None, error)

    def kernel_seconds(self) -> dict[str, float]:
        """By kind of work, if the executable was made to measure it."""
        return self._executable.seconds()

    def close(self) -> None:
        """Wait for steps in flight, end the thread, and close the executable."""
        try:
            if self._thread is not None:
                self._thread.shutdown()
        finally:  # also when waiting is interrupted
            self._executable.close()

    def _run(self, plan: StepPlan) -> StepResult:
        clock, slots, times = self._clock, self._slots, self.times
        started = clock()
        for slot in plan.leave:
            slots.leave(slot)
        for entry in plan.enter:
            try:
                slots.enter(entry)
            except Exception as error:  # a bug met by one request must not stop the others
                slots.failures[entry.slot] = f"entering a slot failed: {error!r}"
        for slot, group, index, page in plan.page_assignments:
            slots.pages[group][slot, index] = page
        built = self._batches.build(plan)
        ready = clock()
        rows = self._executable.run(built.batch)
        computed = clock()
        if not rows.errors:
            built.drawn = rows.token_ids
        result = StepResult(plan.step, _outcomes(plan, built, rows, slots))
        times.batch_s += ready - started
        times.run_s += computed - ready
        times.result_s += clock() - computed
        return result


def _outcomes(
    plan: StepPlan, built: BuiltBatch, rows: Rows, slots: SlotTable
) -> list[RangeOutcome]:
    """Sort the rows of a step back to the ranges of its plan; drawn tokens become known."""
    outcomes = [_COMPUTED] * len(plan.ranges)
    errors: dict[int, str] = {}
    if built.score_ranges:
        _put_prompt_logprobs(outcomes, errors, built, rows)
    ranges, append = plan.ranges, slots.append
    are_scored = len(rows.scores.logprobs) > 0
    for row, (index, token_id) in enumerate(
        zip(built.sample_ranges, rows.token_ids.tolist(), strict=True)
    ):
        if row in rows.errors:
            errors[index] = rows.errors[row]
            continue
        append(ranges[index].slot, token_id)
        outcomes[index] = RangeOutcome(
            token_id,
            _logprobs(rows.scores, row)
            if are_scored and built.batch.sampling.num_logprobs[row] >= 0
            else None,
            outcomes[index].prompt_logprobs,
        )
    if slots.failures:
        for index, part in enumerate(plan.ranges):
            if part.slot in slots.failures:
                errors[index] = slots.failures[part.slot]
    for index, message in errors.items():
        outcomes[index] = RangeOutcome(error=message)
    return outcomes


_COMPUTED = RangeOutcome()


def _put_prompt_logprobs(
    outcomes: list[RangeOutcome], errors: dict[int, str], built: BuiltBatch, rows: Rows
) -> None:
    """Sort the scored rows back to their ranges."""
    errors.update({built.score_ranges[row]: why for row, why in rows.prompt_errors.items()})
    scores: dict[int, list[TokenLogprobs]] = {}
    for row, index in enumerate(built.score_ranges):
        scores.setdefault(index, []).append(_logprobs(rows.prompt_scores, row))
    for index, found in scores.items():
        outcomes[index] = RangeOutcome(prompt_logprobs=tuple(found))


def _logprobs(scores: ScoredRows, row: int) -> TokenLogprobs:
    return TokenLogprobs(
        float(scores.logprobs[row]),
        tuple(scores.top_ids[row].tolist()),
        tuple(scores.top_logprobs[row].tolist()),
    )
