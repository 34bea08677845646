"""Scheduler: what becomes of requests, step by step."""

from __future__ import annotations

import pytest

from octavo.core.errors import ConfigError
from octavo.core.events import Failed, Finished, FinishReason, PromptScored, Token
from octavo.core.request import ChoiceSoFar
from octavo.core.step import RangeOutcome, SlotEntry, StepPlan, StepResult, TokenRange
from octavo.scheduling.batching import Dynamic
from tests.scheduling_world import END, World


def counts(plan: StepPlan | None) -> dict[int, int]:
    """Tokens computed for each slot."""
    assert plan is not None
    return {part.slot: part.count for part in plan.ranges}


def test_one_request_from_beginning_to_end() -> None:
    world = World(max_num_batched_tokens=20)
    request = world.add("r", 30, max_tokens=2, ignore_eos=True)

    plan = world.step()
    assert plan.enter == [SlotEntry(0, request, 0, request.prompt_ids)]
    assert plan.page_assignments == [(0, 0, 0, 1), (0, 0, 1, 2)]
    assert plan.ranges == [TokenRange(0, 0, 20, samples=False)]

    assert world.submit() == StepPlan(1, ranges=[TokenRange(0, 20, 10, samples=True)])
    (token,) = world.collect()
    assert isinstance(token, Token)
    assert (token.request_id, token.choice, token.index) == ("r", 0, 0)

    assert world.submit() == StepPlan(2, ranges=[TokenRange(0, 30, 1, samples=True)])
    token, finished = world.collect()
    assert isinstance(token, Token)
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH
    assert not world.scheduler.has_work
    assert world.scheduler.plan_step() is None

    world.add("s", 5)
    assert world.step().leave == [0], "the slot is left with the next plan"
    world.drain()
    world.check_answers()


def test_logprobs_travel_only_if_asked_for() -> None:
    world = World()
    world.add("with", 5, max_tokens=1, logprobs=0)
    world.add("without", 5, max_tokens=1)
    world.submit()
    tokens = {event.request_id: event for event in world.collect() if isinstance(event, Token)}
    assert tokens["with"].logprobs is not None
    assert tokens["without"].logprobs is None


def test_a_step_needs_a_token_for_each_slot() -> None:
    with pytest.raises(ConfigError, match="max_num_batched_tokens=3 is below max_num_seqs=4"):
        World(max_num_batched_tokens=3)


def test_results_must_come_in_order() -> None:
    world = World()
    world.add("r", 5, ignore_eos=True)
    world.scheduler.plan_step()
    with pytest.raises(AssertionError, match="in the order of their plans"):
        world.scheduler.apply(StepResult(1, [RangeOutcome(token_id=1)]))


class TestStepsInFlight:
    """The next step is planned while the last one is being computed."""

    def test_a_token_that_is_not_known_yet_is_planned_by_position(self) -> None:
        world = World()
        world.add("r", 5, max_tokens=9, ignore_eos=True)
        world.submit()
        plan = world.submit()
        assert plan is not None
        assert plan.ranges == [TokenRange(0, 5, 1, samples=True)]
        world.drain(in_flight=2)
        world.check_answers()

    def test_nothing_is_planned_past_the_last_token(self) -> None:
        world = World()
        world.add("r", 5, max_tokens=2, ignore_eos=True)
        assert counts(world.submit()) == {0: 5}
        assert counts(world.submit()) == {0: 1}
        assert world.submit() is None
        world.collect()
        assert world.submit() is None
        world.collect()
        world.check_answers()

    def test_what_overshot_an_end_token_is_dropped(self) -> None:
        world = World()
        world.add("r", 5, max_tokens=400)
        world.drain(in_flight=2)
        world.check_answers()
        assert world.outputs("r")[0][-1] == END
        tokens = sum(plan.num_tokens for plan in world.runner.plans)
        assert tokens == 5 + len(world.outputs("r")[0]), "one token was computed in vain"

    def test_a_slot_is_used_again_while_its_last_step_is_in_flight(self) -> None:
        world = World(max_num_seqs=1)
        world.add("a", 5, max_tokens=9, ignore_eos=True)
        world.add("b", 5, max_tokens=9, ignore_eos=True)
        world.submit()
        world.submit()
        world.abort("a")
        plan = world.submit()
        assert plan is not None
        assert (plan.leave, [entry.slot for entry in plan.enter]) == ([0], [0])
        world.drain()
        world.check_answers()


class TestAbort:
    """At any moment, and never answered by anything but Finished."""

    def test_unknown(self) -> None:
        assert not World().abort("r")

    def test_while_it_waits(self) -> None:
        world = World(max_num_seqs=1)
        world.add("a", 5)
        world.add("b", 5)
        world.step()
        (event,) = world.abort("b")
        assert isinstance(event, Finished)
        assert event.reason is FinishReason.ABORT
        assert event.usage.completion_tokens == 0
        assert not world.abort("b"), "once is enough"
        world.drain()
        world.check_answers()

    def test_while_its_batch_is_not_open(self) -> None:
        world = World(batching=lambda clock: Dynamic(max_batch_size=4, max_wait_s=9.0, clock=clock))
        world.add("a", 5)
        assert world.submit() is None
        assert world.abort("a")
        assert not world.scheduler.has_work
        assert world.scheduler.next_wakeup_s() is None

    def test_while_it_runs_pages_are_free_before_the_next_plan(self) -> None:
        world = World(prefix_cache=False)
        world.add("a", 40, ignore_eos=True)
        world.step()
        assert world.stats().pages[0].held == 3
        assert world.abort("a")
        assert world.stats().pages[0].held == 0

    def test_while_steps_are_in_flight(self) -> None:
        world = World()
        world.add("a", 40, ignore_eos=True)
        world.add("b", 40, ignore_eos=True)
        world.submit()
        world.submit()
        assert world.abort("a")
        events = world.collect() + world.collect()
        assert {event.request_id for event in events} == {"b"}
        world.drain()
        world.check_answers()

    def test_one_choice_of_several(self) -> None:
        world = World()
        world.add("r", 20, n=3, max_tokens=10, ignore_eos=True)
        for _ in range(4):
            world.step()
        (event,) = world.abort("r", 1)
        assert isinstance(event, Finished)
        assert event.choice == 1
        world.drain()
        world.check_answers()
        assert [len(output) for output in world.outputs("r")] == [
            10,
            len(world.outputs("r")[1]),
            10,
        ]
        assert not world.abort("r", 7)

    def test_while_it_waits_for_a_sibling(self) -> None:
        world = World(max_num_batched_tokens=32)
        world.add("r", 60, n=4, max_tokens=3)
        world.step()
        world.step()
        assert world.abort("r", 1), "one that waits"
        assert world.abort("r", 0), "the sibling itself: the others go on alone"
        world.drain()
        world.check_answers()

    def test_while_its_last_token_is_in_flight_after_preemption(self) -> None:
        world = World(num_pages=7, prefix_cache=False)
        world.add("a", 33, max_tokens=60, ignore_eos=True)
        world.add("b", 20, max_tokens=30, ignore_eos=True)
        world.submit()
        while not world.stats().preemptions:
            world.submit()
            if not world.stats().preemptions:
                world.collect()
        known = len(world.outputs("b")[0])
        assert world.abort("b")
        world.drain(in_flight=2)
        world.check_answers()
        assert len(world.outputs("b")[0]) == known


class TestFailure:
    """One failed range fails its request, and nobody else."""

    def test_one_failed_event_and_no_others(self) -> None:
        world = World(fail=lambda entry, part: "broken" if part.start > 22 else None)
        world.add("bad", 20, n=2, max_tokens=30, ignore_eos=True)
        world.fail = lambda entry, part: (
            "broken" if entry.request.request_id == "bad" and part.start > 22 else None
        )
        world.add("good", 20, max_tokens=30, ignore_eos=True)
        world.drain(in_flight=2)
        failed = world.failed["bad"]
        assert (failed.code, failed.message) == ("request_failed", "broken")
        world.check_answers()
        assert len(world.outputs("good")[0]) == 30

    def test_what_it_computed_is_not_found_by_others(self) -> None:
        world = World()
        world.fail = lambda entry, part: "broken" if part.start == 40 else None
        prompt = world.add("bad", 40, ignore_eos=True).prompt_ids
        world.drain()
        assert isinstance(world.failed["bad"], Failed)
        world.fail = lambda entry, part: None
        world.add("good", prompt)
        world.drain()
        world.check_answers()
        assert world.stats().hit_tokens == 0


class TestDeadlines:
    def test_who_still_waits_is_failed_and_never_prefilled(self) -> None:
        world = World(max_num_seqs=1)
        world.add("a", 5, max_tokens=50, ignore_eos=True)
        world.step()
        world.add("late", 5, deadline_s=2.0)
        world.clock.advance(1.9)
        world.step()
        assert world.scheduler.next_wakeup_s() == pytest.approx(0.1)
        world.clock.advance(0.1)
        world.step()
        assert world.failed["late"].code == "deadline_exceeded"
        assert world.failed["late"].message == "the deadline came after 2.000 s in the queue"
        world.drain()
        world.check_answers()
        entered = [entry.request.request_id for plan in world.runner.plans for entry in plan.enter]
        assert entered == ["a"]

    def test_who_has_started_may_finish(self) -> None:
        world = World(num_pages=5, max_num_seqs=2)
        world.add("a", 17, max_tokens=40, ignore_eos=True)
        world.step()
        world.add("b", 1, max_tokens=40, ignore_eos=True, deadline_s=1.0)
        while not world.stats().preemptions:
            world.step()
        world.clock.advance(5.0)
        world.drain()
        world.check_answers()
        assert world.failed == {}

    def test_nothing_else_to_do(self) -> None:
        world = World(batching=lambda clock: Dynamic(max_batch_size=4, max_wait_s=9.0, clock=clock))
        world.add("a", 5, deadline_s=2.0)
        world.add("b", 5, deadline_s=3.0)
        assert world.submit() is None
        assert world.scheduler.next_wakeup_s() == 2.0
        world.abort("a")
        assert world.scheduler.next_wakeup_s() == 3.0
        world.clock.advance(3.0)
        assert world.submit() is None
        assert set(world.failed) == {"b"}
        assert not world.scheduler.has_work


class TestPromptLogprobs:
    def test_in_chunks(self) -> None:
        world = World(max_num_batched_tokens=16)
        world.add("r", 40, prompt_logprobs=0, max_tokens=2)
        ranges, indices = [], []
        while world.scheduler.has_work:
            plan = world.submit()
            assert plan is not None
            ranges += [(part.start, part.count, part.score_from) for part in plan.ranges]
            indices += [e.index for e in world.collect() if isinstance(e, PromptScored)]
        assert ranges[:3] == [(0, 16, 0), (16, 16, 16), (32, 8, 32)]
        assert indices == [1, 17, 33]
        assert all(score_from == -1 for _, _, score_from in ranges[3:])
        world.check_answers()

    def test_such_a_request_takes_no_hits(self) -> None:
        world = World()
        prompt = world.add("a", 40).prompt_ids
        world.drain()
        world.add("b", prompt, prompt_logprobs=0)
        world.drain()
        world.check_answers()
        assert world.stats().hit_tokens == 0
        world.add("c", prompt)
        world.drain()
        assert world.stats().hit_tokens == 32

    def test_only_the_first_choice_is_scored_and_the_others_fork(self) -> None:
        world = World()
        world.add("r", 40, prompt_logprobs=0, n=3, max_tokens=3)
        world.drain()
        world.check_answers()
        assert world.stats().forks == 2

    @pytest.mark.parametrize("in_flight", [1, 2])
    def test_scores_are_not_repeated_after_preemption(self, in_flight: int) -> None:
        world = World(num_pages=7, max_num_seqs=2, max_num_batched_tokens=16)
        world.add("a", 30, max_tokens=50, ignore_eos=True)
        world.step()
        world.step()
        world.add("b", 30, prompt_logprobs=0, max_tokens=50, ignore_eos=True)
        world.drain(in_flight=in_flight)
        world.check_answers()
        assert world.stats().preemptions

    def test_a_prompt_of_one_token_has_no_scores(self) -> None:
        world = World()
        world.add("r", 1, prompt_logprobs=0)
        world.drain()
        world.check_answers()
        assert world.scores["r"] == []


class TestResume:
    """Half of the answer is known from another engine."""

    def test_the_index_goes_on(self) -> None:
        world = World()
        world.add("old", 20, max_tokens=12, n=2, ignore_eos=True, seed=3)
        world.drain()
        first, second = world.outputs("old")
        known = (ChoiceSoFar(0, tuple(first[:5])), ChoiceSoFar(1, tuple(second[:9])))
        prompt = world.requests["old"].prompt_ids
        world.add("new", prompt, max_tokens=12, n=2, ignore_eos=True, seed=3, resume=known)
        plan = world.submit()
        assert plan is not None
        assert len(plan.enter[0].token_ids) == 25
        world.drain()
        world.check_answers()
        assert world.outputs("new") == [first, second]

    def test_finished_choices_are_not_run(self) -> None:
        world = World()
        known = (ChoiceSoFar(0, (1, END), finished=True),)
        world.add("r", 20, n=2, resume=known)
        plans = world.drain()
        assert [entry.choice for plan in plans for entry in plan.enter] == [1]
        world.check_answers()

    @pytest.mark.parametrize(
        ("output", "reason"),
        [((1, 2, END), FinishReason.STOP), ((1, 2, 3, 4), FinishReason.LENGTH)],
    )
    def test_an_answer_that_is_complete_only_lacks_its_end(
        self, output: tuple[int, ...], reason: FinishReason
    ) -> None:
        world = World()
        world.add("r", 20, max_tokens=4, resume=(ChoiceSoFar(0, output),))
        assert world.scheduler.has_work
        assert world.submit() is None
        finished = world.answers["r"][0].finished
        assert finished is not None
        assert finished.reason is reason
        assert not world.scheduler.has_work

    def test_prompt_scores_are_given_again_only_if_no_token_was_seen(self) -> None:
        world = World()
        world.add("old", 20, max_tokens=5, ignore_eos=True, prompt_logprobs=0, seed=1)
        world.drain()
        prompt, output = world.requests["old"].prompt_ids, world.outputs("old")[0]
        options = {"max_tokens": 5, "ignore_eos": True, "prompt_logprobs": 0, "seed": 1}
        world.add("none", prompt, resume=(ChoiceSoFar(0, ()),), **options)
        world.add("some", prompt, resume=(ChoiceSoFar(0, tuple(output[:1])),), **options)
        world.drain()
        world.check_answers()
        assert len(world.scores["none"]) == 19
        assert world.scores["some"] == []


class TestUsageAndTimings:
    def test_times_are_those_of_the_clock(self) -> None:
        world = World(max_num_seqs=1, max_num_batched_tokens=4)
        world.clock.advance(100.0)
        world.add("r", 8, max_tokens=3, ignore_eos=True)
        while world.scheduler.has_work:
            world.clock.advance(1.0)
            world.submit()
            world.clock.advance(0.25)
            world.collect()
        finished = world.answers["r"][0].finished
        assert finished is not None
        timings = finished.timings
        assert (timings.started_s, timings.first_token_s, timings.finished_s) == (1.0, 2.5, 5.0)

    def test_cached_tokens_are_those_of_the_first_start(self) -> None:
        world = World(num_pages=8, max_num_seqs=2)
        prompt = world.add("a", 33, max_tokens=1).prompt_ids
        world.drain()
        world.add("b", prompt, max_tokens=60, ignore_eos=True)
        world.step()
        world.add("c", prompt[:20], max_tokens=60, ignore_eos=True)
        world.drain()
        world.check_answers()
        assert world.stats().preemptions
        cached = {}
        for name in "abc":
            finished = world.answers[name][0].finished
            assert finished is not None
            cached[name] = finished.usage.cached_tokens
        assert cached == {"a": 0, "b": 32, "c": 16}
        assert world.stats().hit_tokens > 48, "c found its own pages again"


class TestWithoutKVCache:
    """Every step computes all tokens of a sequence again."""

    def test_every_range_starts_at_the_beginning(self) -> None:
        world = World(kv_cache=False)
        world.add("r", 10, max_tokens=4, n=2, ignore_eos=True)
        plans = world.drain()
        assert [[(p.start, p.count) for p in plan.ranges] for plan in plans] == [
            [(0, 10), (0, 10)],
            [(0, 11), (0, 11)],
            [(0, 12), (0, 12)],
            [(0, 13), (0, 13)],
        ]
        world.check_answers()
        assert (world.stats().forks, world.stats().hit_tokens) == (0, 0)

    def test_who_does_not_fit_into_the_step_waits(self) -> None:
        world = World(kv_cache=False, max_num_batched_tokens=30)
        world.add("a", 18, max_tokens=6, ignore_eos=True)
        world.add("b", 12, max_tokens=6, ignore_eos=True)
        plans = world.drain()
        assert counts(plans[0]) == {0: 18, 1: 12}
        assert counts(plans[1]) == {0: 19}
        world.check_answers()

    def test_only_one_step_in_flight(self) -> None:
        world = World(kv_cache=False)
        world.add("r", 10, ignore_eos=True)
        world.submit()
        assert world.submit() is None

    def test_windows_and_scarce_pages(self) -> None:
        world = World(kv_cache=False, windows=(5, None), num_pages=6, max_num_batched_tokens=200)
        for name in "abc":
            world.add(name, 20, max_tokens=40, ignore_eos=True)
        world.drain()
        world.check_answers()
        assert world.stats().preemptions
