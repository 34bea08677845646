"""The runner: order of a plan's parts, results back to their ranges, failures of single rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.backends.base import Batch, Rows, ScoredRows
from octavo.core.kv_layout import KVGroup
from octavo.core.request import Request, SamplingParams
from octavo.core.step import SlotEntry, StepPlan, TokenRange
from octavo.execution.runner import Runner

GROUP = KVGroup(None, (0,), 1, 4)


class CountingExecutable:
    """Draws 100, 101, ...; remembers the batches; fails the rows it is told to fail."""

    def __init__(self) -> None:
        self.kv_groups = (GROUP,)
        self.numerics: dict[str, str] = {}
        self.batches: list[Batch] = []
        self.failing: dict[int, str] = {}
        self.failing_scores: dict[int, str] = {}
        self.exception: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    def run(self, batch: Batch) -> Rows:
        assert self.gate.wait(60)
        if self.exception is not None:
            raise self.exception
        self.batches.append(batch)
        samples, scores = len(batch.sample_rows), len(batch.score_rows)
        first = 100 + sum(len(earlier.sample_rows) for earlier in self.batches[:-1])
        ids = np.arange(first, first + samples, dtype=np.int32)
        for row in self.failing:
            ids[row] = -1
        return Rows(
            ids, scored(samples), scored(scores), dict(self.failing), dict(self.failing_scores)
        )

    def page(self, group: int, page: int) -> NDArray[np.uint8]:
        raise AssertionError("not used")

    def close(self) -> None:
        assert self.gate.is_set()  # no step is being computed
        self.is_closed = True


def scored(rows: int) -> ScoredRows:
    return ScoredRows(
        np.arange(rows, dtype=np.float32) * -0.5,
        [np.array([row, row + 1], np.int32) for row in range(rows)],
        [np.array([-0.5, -1.5], np.float32)] * rows,
    )


def make_runner(executable: CountingExecutable, *, overlap: bool = False) -> Runner:
    return Runner(
        executable,
        max_num_seqs=3,
        max_model_len=32,
        vocab_size=200,
        end_token_ids=(2,),
        overlap=overlap,
    )


def entry(slot: int, prompt: tuple[int, ...], **params: object) -> SlotEntry:
    request = Request(
        request_id=f"r{slot}",
        prompt_ids=prompt,
        params=SamplingParams(**{"seed": 1, "max_tokens": 9, **params}),
    )
    return SlotEntry(slot, request, 0, prompt)


def test_a_drawn_token_is_the_next_input() -> None:
    executable = CountingExecutable()
    runner = make_runner(executable)
    first = StepPlan(1, enter=[entry(0, (5, 6))], ranges=[TokenRange(0, 0, 2, True)])
    result = runner.submit(first).result()
    assert [outcome.token_id for outcome in result.outcomes] == [100]
    assert result.outcomes[0].logprobs is None
    runner.submit(StepPlan(2, ranges=[TokenRange(0, 2, 1, True)])).result()
    assert executable.batches[1].token_ids.tolist() == [100]


def test_a_slot_is_left_before_it_is_entered_again() -> None:
    executable = CountingExecutable()
    runner = make_runner(executable)
    plan = StepPlan(1, enter=[entry(0, (5, 6))], ranges=[TokenRange(0, 0, 2, True)])
    runner.submit(plan).result()
    plan = StepPlan(
        2,
        leave=[0],
        enter=[entry(0, (8,))],
        page_assignments=[(0, 0, 0, 7)],
        ranges=[TokenRange(0, 0, 1, True)],
    )
    runner.submit(plan).result()
    assert executable.batches[1].token_ids.tolist() == [8]
    assert executable.batches[1].page_tables[0].tolist() == [[7]]


def test_logprobs_reach_the_range_they_belong_to() -> None:
    executable = CountingExecutable()
    runner = make_runner(executable)
    plan = StepPlan(
        1,
        enter=[entry(0, (5, 6, 7), prompt_logprobs=2), entry(1, (8,), logprobs=2)],
        ranges=[TokenRange(0, 0, 2, False, score_from=0), TokenRange(1, 0, 1, True)],
    )
    first, second = runner.submit(plan).result().outcomes
    assert first.token_id is None
    assert [score.logprob for score in first.prompt_logprobs] == [0.0, -0.5]
    assert first.prompt_logprobs[1].top_ids == (1, 2)
    assert second.logprobs is not None
    assert second.logprobs.top_logprobs == (-0.5, -1.5)


def test_a_failing_row_leaves_its_neighbours_alone() -> None:
    executable = CountingExecutable()
    executable.failing = {0: "logits are not finite"}
    runner = make_runner(executable)
    plan = StepPlan(
        1,
        enter=[entry(0, (5,)), entry(1, (6,))],
        ranges=[TokenRange(0, 0, 1, True), TokenRange(1, 0, 1, True)],
    )
    first, second = runner.submit(plan).result().outcomes
    assert first.error == "logits are not finite"
    assert first.token_id is None
    assert (second.error, second.token_id) == (None, 101)


def test_a_failing_prompt_score_fails_its_range() -> None:
    executable = CountingExecutable()
    executable.failing_scores = {1: "logits are not finite"}
    runner = make_runner(executable)
    plan = StepPlan(
        1,
        enter=[entry(0, (5, 6, 7), prompt_logprobs=0)],
        ranges=[TokenRange(0, 0, 3, True, score_from=0)],
    )
    (outcome,) = runner.submit(plan).result().outcomes
    assert outcome.error == "logits are not finite"


def test_an_entry_that_cannot_be_prepared_fails_alone_and_once() -> None:
    executable = CountingExecutable()
    runner = make_runner(executable)
    too_long = entry(0, tuple(range(40)))  # longer than a slot: the scheduler never plans it
    plan = StepPlan(
        1,
        enter=[too_long, entry(1, (6,))],
        ranges=[TokenRange(0, 0, 1, True), TokenRange(1, 0, 1, True)],
    )
    first, second = runner.submit(plan).result().outcomes
    assert first.error is not None
    assert "entering a slot failed" in first.error
    assert second.token_id == 101
    plan = StepPlan(2, leave=[0], enter=[entry(0, (5,))], ranges=[TokenRange(0, 0, 1, True)])
    assert runner.submit(plan).result().outcomes[0].error is None


@pytest.mark.parametrize("overlap", [False, True])
def test_what_the_backend_raises_reaches_the_collector(overlap: bool) -> None:
    executable = CountingExecutable()
    executable.exception = RuntimeError("no more memory")
    runner = make_runner(executable, overlap=overlap)
    ticket = runner.submit(StepPlan(1, enter=[entry(0, (5,))], ranges=[TokenRange(0, 0, 1, True)]))
    with pytest.raises(RuntimeError, match="no more memory"):
        ticket.result()
    runner.close()


def test_overlapped_steps_run_in_order_while_the_caller_goes_on() -> None:
    executable = CountingExecutable()
    executable.gate.clear()
    runner = make_runner(executable, overlap=True)
    first = runner.submit(StepPlan(1, enter=[entry(0, (5,))], ranges=[TokenRange(0, 0, 1, True)]))
    # The next step names its token by slot and position: the value does not exist yet.
    second = runner.submit(StepPlan(2, ranges=[TokenRange(0, 1, 1, True)]))
    assert not first.done()
    executable.gate.set()
    assert first.result().outcomes[0].token_id == 100
    assert second.result().outcomes[0].token_id == 101
    assert executable.batches[1].token_ids.tolist() == [100]
    runner.close()


@pytest.mark.parametrize("overlap", [False, True])
def test_closing_waits_for_a_step_and_closes_the_executable(overlap: bool) -> None:
    executable = CountingExecutable()
    runner = make_runner(executable, overlap=overlap)
    if overlap:
        executable.gate.clear()
        threading.Timer(0.05, executable.gate.set).start()
    runner.submit(StepPlan(1, enter=[entry(0, (5,))], ranges=[TokenRange(0, 0, 1, True)]))
    runner.close()
    assert executable.is_closed
    assert len(executable.batches) == 1


def test_an_interrupted_wait_closes_the_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ThreadPoolExecutor, *options: object) -> None:
        raise KeyboardInterrupt

    executable = CountingExecutable()
    runner = make_runner(executable, overlap=True)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.close()
    assert executable.is_closed
