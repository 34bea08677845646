"""Plans, results and events: plain data that survives the wire, and what it says of itself."""

from __future__ import annotations

import msgspec
import pytest

from octavo.core.clock import monotonic
from octavo.core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PromptScored,
    Timings,
    Token,
    Usage,
)
from octavo.core.request import Request, SamplingParams
from octavo.core.step import (
    RangeOutcome,
    SlotEntry,
    StepPlan,
    StepResult,
    TokenLogprobs,
    TokenRange,
)

LOGPROBS = TokenLogprobs(-0.5, (3, 1), (-0.5, -0.75))
EVENTS: list[Event] = [
    Token("r", 1, 0, 17, LOGPROBS),
    Token("r", 1, 1, 18),
    PromptScored("r", 1, (LOGPROBS,)),
    Finished("r", 0, FinishReason.STOP, 2, Usage(10, 0, 3), Timings(0.0, 1.0, 2.0)),
    Failed("r", "request_failed", "broken", "mend it"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_survive_the_wire(event: Event) -> None:
    wire = msgspec.msgpack.encode(event)
    assert msgspec.msgpack.decode(wire, type=Event) == event


def test_a_plan_counts_its_tokens() -> None:
    plan = StepPlan(3)
    assert plan.num_tokens == 0
    plan.ranges += [TokenRange(0, 0, 16, False), TokenRange(1, 40, 1, True)]
    assert plan.num_tokens == 17
    assert StepPlan(4).ranges == [], "plans share nothing"


def test_plans_and_results_survive_the_wire() -> None:
    request = Request(request_id="r", prompt_ids=(1, 2), params=SamplingParams(seed=1))
    entry = SlotEntry(0, request, 0, (1, 2, 3))
    assert entry.num_prompt_tokens == 2
    plan = StepPlan(
        5,
        leave=[1],
        enter=[entry],
        page_assignments=[(0, 0, 0, 7)],
        page_copies=[(0, 3, 7)],
        ranges=[TokenRange(0, 0, 3, True, 0)],
        padding=[4],
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=StepPlan) == plan
    result = StepResult(5, [RangeOutcome(3, LOGPROBS, (LOGPROBS,)), RangeOutcome(error="broken")])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=StepResult) == result


def test_the_clock_does_not_go_back() -> None:
    assert monotonic() <= monotonic()
