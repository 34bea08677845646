"""Whatever happens, in whatever order: every answer is the expected one, and nothing leaks.

A state machine over scheduler and pages: requests come (forks, priorities, tenants, resume
records, prompt scores), steps are planned one or two ahead, requests are aborted or fail, pools
are tiny. ``World`` checks the invariants after each step; its runner checks each page that is
read. ``test_scheduling_traffic`` shows that every path is taken.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from octavo.core.errors import InvalidRequest, Overloaded
from octavo.core.request import Priority
from octavo.core.step import SlotEntry, TokenRange
from octavo.scheduling.batching import Batching, Continuous, Dynamic, Static
from tests.fakes import FakeClock
from tests.scheduling_world import VOCAB, World

# Prompts begin alike: shared prefixes of one to four pages, then something of their own.
STEMS = [[(7 * i + i * i // 5 + stem) % VOCAB for i in range(80)] for stem in range(3)]
WINDOWS = [(None,), (None, 5), (None, 20), (16, None), (33,), (None, 1, 40)]


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    stem = draw(st.sampled_from(STEMS))
    length = draw(st.sampled_from([40, 17, 0, 15, 16, 31, 32, 33, 48, 55, 70]))
    tail = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3))
    return stem[:length] + tail


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    kv_cache = draw(st.sampled_from([True, True, True, False]))
    chunked = draw(st.booleans())
    slots = draw(st.integers(1, 5))
    tokens = draw(st.integers(max(slots, 3), 48)) if chunked and kv_cache else 130
    return {
        "windows": draw(st.sampled_from(WINDOWS)),
        "num_pages": draw(st.integers(9, 20)),
        "max_num_seqs": slots,
        "max_num_batched_tokens": tokens,
        "max_model_len": draw(st.sampled_from([60, 100, 128])),
        "chunked_prefill": chunked,
        "prefix_cache": draw(st.booleans()),
        "kv_cache": kv_cache,
        "policy": draw(st.sampled_from(["fcfs", "priority", "length"])),
    }


@st.composite
def batchings(draw: st.DrawFn, max_num_seqs: int) -> Any:
    kind = draw(st.sampled_from(["continuous", "continuous", "dynamic", "static"]))
    size = draw(st.integers(1, max_num_seqs))
    pad = draw(st.booleans())
    tokens = draw(st.sampled_from([None, 50]))

    def make(clock: FakeClock) -> Batching:
        if kind == "dynamic":
            return Dynamic(max_batch_size=size, max_wait_s=1.0, clock=clock, pad=pad)
        if kind == "static":
            return Static(max_batch_size=size, max_batch_tokens=tokens, pad=pad)
        return Continuous()

    return make


class SchedulingMachine(RuleBasedStateMachine):
    """Drives a ``World``."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.in_flight = 1
        self.ids = (f"r{number}" for number in itertools.count())
        self.doomed: set[tuple[str, int]] = set()

    @initialize(options=worlds(), in_flight=st.sampled_from([1, 2]), data=st.data())
    def begin(self, options: dict[str, Any], in_flight: int, data: st.DataObject) -> None:
        batching = data.draw(batchings(options["max_num_seqs"]))
        note(f"{options}, {in_flight} in flight")
        self.in_flight = in_flight if options["kv_cache"] else 1
        self.world = World(**options, batching=batching, fail=self.fails)

    def fails(self, entry: SlotEntry, part: TokenRange) -> str | None:
        doomed = (entry.request.request_id, entry.choice) in self.doomed
        return "as the test wants it" if doomed else None

    @rule(
        prompt=prompts(),
        max_tokens=st.sampled_from([20, 1, 2, 8, 30, 60]),
        crowd=st.sampled_from([1, 2, 5]),
        n=st.sampled_from([1, 1, 2, 3]),
        priority=st.sampled_from(list(Priority)),
        tenant=st.sampled_from(["a", "a", "b"]),
        ignore_eos=st.booleans(),
        min_tokens=st.integers(0, 5),
        scored=st.sampled_from([None, None, None, 0]),
        deadline=st.sampled_from([None, None, None, 0.5, 3.0]),
    )
    def add(
        self,
        prompt: list[int],
        max_tokens: int,
        crowd: int,
        n: int,
        priority: Priority,
        tenant: str,
        ignore_eos: bool,
        min_tokens: int,
        scored: int | None,
        deadline: float | None,
    ) -> None:
        """Several requests that begin alike arrive together."""
        deadline_s = None if deadline is None else self.world.clock.now_s + deadline
        for number in range(crowd):
            before = self.world.stats()
            try:
                self.world.add(
                    next(self.ids),
                    [*prompt, *range(number)],
                    max_tokens=max_tokens,
                    n=n,
                    priority=priority,
                    tenant=tenant,
                    ignore_eos=ignore_eos,
                    min_tokens=min(min_tokens, max_tokens),
                    prompt_logprobs=scored,
                    deadline_s=deadline_s,
                )
            except (InvalidRequest, Overloaded) as refusal:
                note(f"refused: {refusal}")
                assert self.world.stats() == before, "a refused request changed something"

    @precondition(lambda self: len(self.world.tickets) < self.in_flight)
    @rule(times=st.sampled_from([5, 1, 20, 60]))
    def step(self, times: int) -> None:
        for _ in range(times):
            plan = self.world.submit()
            if len(self.world.tickets) == self.in_flight or (plan is None and self.world.tickets):
                self.world.collect()

    @precondition(lambda self: self.world.tickets)
    @rule()
    def collect(self) -> None:
        self.world.collect()

    @precondition(lambda self: self.world.requests)
    @rule(data=st.data(), whole=st.booleans())
    def abort(self, data: st.DataObject, whole: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.world.requests)))
        choice = None if whole else data.draw(st.integers(0, 2))
        self.world.abort(request, choice)

    @precondition(lambda self: self.world.requests)
    @rule(data=st.data())
    def doom(self, data: st.DataObject) -> None:
        """The next range of this sequence will fail, and with it its request."""
        request = data.draw(st.sampled_from(sorted(self.world.requests)))
        self.doomed.add((request, 0))

    @precondition(lambda self: self.world.requests)
    @rule(data=st.data(), upto=st.integers(0, 30))
    def resume(self, data: st.DataObject, upto: int) -> None:
        """The request moves on to another one that knows its first tokens, as after a crash."""
        request_id = data.draw(st.sampled_from(sorted(self.world.requests)))
        request = self.world.requests[request_id]
        known = self.world.resumable(request_id, upto)
        self.world.abort(request_id)
        params = {field: getattr(request.params, field) for field in _RESUMED_FIELDS}
        self.world.add(
            next(self.ids),
            request.prompt_ids,
            tenant=request.tenant,
            priority=request.priority,
            resume=known,
            **params,
        )

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    def teardown(self) -> None:
        self.world.drain(in_flight=self.in_flight)
        self.world.check_answers()


_RESUMED_FIELDS = ("max_tokens", "min_tokens", "n", "seed", "ignore_eos", "prompt_logprobs")


@pytest.mark.slow
def test_whatever_happens_answers_are_right() -> None:
    run_state_machine_as_test(
        SchedulingMachine, settings=settings(max_examples=120, stateful_step_count=20)
    )
