"""Sequence: what its last token means, and what is said of it at the end."""

from __future__ import annotations

import pytest

from octavo.core.events import FinishReason
from tests.scheduling_world import END, make_sequence

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.mark.parametrize(
    ("output", "params", "reason"),
    [
        ([], {}, None),
        ([1], {}, None),
        ([END], {}, STOP),
        ([1, 2, END], {}, STOP),
        ([1, 2, 3, 4], {}, LENGTH),
        ([1, 2, 3, END], {}, STOP),
        ([1, END], {"min_tokens": 2}, None),
        ([1, 2, END], {"min_tokens": 2}, STOP),
        ([1, 2, 3, END], {"min_tokens": 4}, LENGTH),
    ],
)
def test_finish_reason(
    output: list[int], params: dict[str, int], reason: FinishReason | None
) -> None:
    sequence = make_sequence(**params)
    sequence.token_ids.extend(output)
    assert sequence.finish_reason() is reason


def test_a_prompt_that_ends_with_the_end_token_is_not_finished() -> None:
    sequence = make_sequence()
    sequence.token_ids[-1] = END
    assert sequence.finish_reason() is None


def test_what_is_settled_in_a_step() -> None:
    sequence = make_sequence()
    sequence.computed, sequence.planned_step, sequence.planned_from = 30, 7, 10
    assert sequence.settled(7) == 10, "this step has yet to compute the rest"
    assert sequence.settled(8) == 30


def test_times_of_what_never_happened_are_those_of_the_end() -> None:
    sequence = make_sequence(arrival_s=100.0)
    timings = sequence.finished(FinishReason.ABORT, 103.0).timings
    assert (timings.started_s, timings.first_token_s, timings.finished_s) == (3.0, 3.0, 3.0)
    sequence.started_s = 1.0
    timings = sequence.finished(FinishReason.ABORT, 103.0).timings
    assert (timings.started_s, timings.first_token_s, timings.finished_s) == (1.0, 3.0, 3.0)


def test_usage() -> None:
    sequence = make_sequence(num_prompt=20)
    sequence.token_ids.extend([1, 2, END])
    sequence.cached_tokens = 16
    event = sequence.finished(STOP, 0.0)
    assert event.stop_token_id == END
    usage = event.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (20, 16, 3)
