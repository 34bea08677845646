"""Policies: who goes first, and who may be displaced."""

from __future__ import annotations

import pytest

from octavo.core.config import PolicyName
from octavo.core.request import Priority, Request, SamplingParams
from octavo.scheduling.policy import make_policy


def request(num_prompt: int = 10, priority: Priority = Priority.STANDARD) -> Request:
    return Request(
        request_id="r",
        prompt_ids=(1,) * num_prompt,
        params=SamplingParams(seed=0),
        priority=priority,
    )


def test_first_come_first_served_knows_no_differences() -> None:
    policy = make_policy("fcfs", max_model_len=1000)
    long, urgent = request(900), request(priority=Priority.INTERACTIVE)
    assert policy.key(long, 5.0) == policy.key(urgent, 0.0)


def test_priority_goes_by_urgency_whatever_the_arrival() -> None:
    policy = make_policy("priority", max_model_len=1000)
    keys = [policy.key(request(priority=priority), 100.0 - priority) for priority in Priority]
    assert keys == sorted(keys)
    assert len(set(keys)) == 3


@pytest.mark.parametrize("waiting", list(Priority))
@pytest.mark.parametrize("running", list(Priority))
def test_only_interactive_displaces_and_only_batch(waiting: Priority, running: Priority) -> None:
    policy = make_policy("priority", max_model_len=1000)
    may = policy.may_displace(request(priority=waiting), request(priority=running))
    assert may == (waiting is Priority.INTERACTIVE and running is Priority.BATCH)


@pytest.mark.parametrize("name", ["fcfs", "length"])
def test_the_others_displace_nobody(name: PolicyName) -> None:
    policy = make_policy(name, max_model_len=1000)
    urgent = request(1, Priority.INTERACTIVE)
    assert not policy.may_displace(urgent, request(900, Priority.BATCH))


def test_shortest_first_among_those_who_arrive_together() -> None:
    policy = make_policy("length", max_model_len=1000)
    lengths = [900, 3, 500, 4, 2]
    assert sorted(lengths, key=lambda n: policy.key(request(n), 7.0)) == sorted(lengths)


def test_a_long_prompt_is_overtaken_for_thirty_seconds_at_most() -> None:
    policy = make_policy("length", max_model_len=1000)
    longest = policy.key(request(999), 0.0)
    assert policy.key(request(1), 29.9) < longest
    assert policy.key(request(1), 30.0) > longest
    assert policy.key(request(499), 15.1) > longest
