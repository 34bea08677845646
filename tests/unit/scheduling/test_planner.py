"""Planner: how tokens, slots and pages of a step are shared out."""

from __future__ import annotations

from typing import Any

from octavo.core.request import Priority
from octavo.core.step import StepPlan
from tests.scheduling_world import World


def step(world: World) -> dict[str, int]:
    """One step there and back: what it computed for whom."""
    computed = shares(world, world.submit())
    world.collect()
    return computed


def shares(world: World, plan: StepPlan | None) -> dict[str, int]:
    """Tokens that a plan computes for each request or, with n > 1, for "request/choice"."""
    assert plan is not None
    names = {}
    for part in plan.ranges:
        entry = world.runner.seats[part.slot].entry
        name = entry.request.request_id
        names[part.slot] = name if entry.request.params.n == 1 else f"{name}/{entry.choice}"
    return {names[part.slot]: part.count for part in plan.ranges}


class TestTokens:
    """In rank order, with one token kept back for everybody behind."""

    def test_a_decode_is_in_every_step_behind_a_long_prompt(self) -> None:
        world = World(max_num_batched_tokens=16, policy="priority")
        world.add("decode", 5, max_tokens=30, ignore_eos=True, priority=Priority.STANDARD)
        step(world)
        world.add("long", 100, max_tokens=1, priority=Priority.INTERACTIVE)
        assert [step(world) for _ in range(6)] == [{"long": 15, "decode": 1}] * 6

    def test_a_prompt_gets_on_beside_any_number_of_decodes(self) -> None:
        world = World(max_num_seqs=4, max_num_batched_tokens=4)
        for name in "abc":
            world.add(name, 1, max_tokens=40, ignore_eos=True)
        step(world)
        world.add("long", 20, max_tokens=1)
        assert step(world) == {"a": 1, "b": 1, "c": 1, "long": 1}
        world.drain()
        world.check_answers()

    def test_waiting_ones_take_what_is_left(self) -> None:
        world = World(max_num_batched_tokens=20)
        for name in "abc":
            world.add(name, 12, ignore_eos=True)
        assert step(world) == {"a": 12, "b": 8}
        assert step(world) == {"a": 1, "b": 4, "c": 12}

    def test_a_better_rank_need_not_wait_for_the_chunks_of_a_worse_one(self) -> None:
        world = World(max_num_batched_tokens=16, policy="length")
        world.add("long", 200, max_tokens=1)
        assert step(world) == {"long": 16}
        world.add("short", 20, max_tokens=3, ignore_eos=True)
        assert step(world) == {"short": 15, "long": 1}
        assert step(world) == {"short": 5, "long": 11}
        world.drain()
        world.check_answers()
        assert world.stats().preemptions == 0

    def test_whole_prompts_of_better_rank_wait_for_a_step_that_can_hold_them(self) -> None:
        world = World(max_num_batched_tokens=30, policy="length", chunked_prefill=False)
        world.add("a", 10, max_tokens=4, ignore_eos=True)
        world.add("c", 25, max_tokens=8, ignore_eos=True)
        assert step(world) == {"a": 10}
        assert step(world) == {"a": 1, "c": 25}
        world.add("b", 24, max_tokens=2, ignore_eos=True)
        assert step(world) == {"a": 1, "b": 24, "c": 1}
        world.add("b2", 24, max_tokens=2, ignore_eos=True)
        world.add("b1", 23, max_tokens=2, ignore_eos=True)
        assert step(world) == {"a": 1, "b": 1, "b1": 23, "c": 1}, "b2 needs more than is left"
        world.drain()
        world.check_answers()

    def test_the_queue_goes_by_rank(self) -> None:
        world = World(max_num_seqs=1, policy="length")
        for name, length in (("long", 60), ("middle", 30), ("short", 10)):
            world.add(name, length, max_tokens=1)
        plans = world.drain()
        entered = [entry.request.request_id for plan in plans for entry in plan.enter]
        assert entered == ["short", "middle", "long"]


class TestWholePrompts:
    """chunked_prefill=False: a catch-up is computed in one step, or waits."""

    def test_a_prompt_waits_for_a_step_that_can_hold_it(self) -> None:
        world = World(chunked_prefill=False, max_num_batched_tokens=30)
        for name, length in (("a", 20), ("b", 20), ("c", 5)):
            world.add(name, length, max_tokens=3, ignore_eos=True)
        assert step(world) == {"a": 20}, "nobody slips past b"
        assert step(world) == {"a": 1, "b": 20, "c": 5}
        world.drain()
        world.check_answers()

    def test_a_prompt_as_long_as_a_step_waits_until_it_is_alone(self) -> None:
        world = World(chunked_prefill=False, max_num_batched_tokens=30)
        world.add("a", 5, max_tokens=4, ignore_eos=True)
        step(world)
        world.add("b", 30, max_tokens=2, ignore_eos=True)
        assert [plan.num_tokens for plan in world.drain()] == [1, 1, 1, 30, 1]
        world.check_answers()

    def test_what_outgrew_a_step_is_computed_in_pieces(self) -> None:
        world = World(
            chunked_prefill=False,
            prefix_cache=False,
            max_num_batched_tokens=20,
            num_pages=9,
            max_num_seqs=2,
        )
        world.add("a", 15, max_tokens=60, ignore_eos=True)
        world.add("b", 15, max_tokens=60, ignore_eos=True)
        plans = world.drain()
        world.check_answers()
        assert world.stats().preemptions == 1
        again = [len(entry.token_ids) for plan in plans for entry in plan.enter][-1]
        assert again == 64
        assert [plan.num_tokens for plan in plans if plan.num_tokens > 2] == [15, 16, 20, 20, 20, 4]


class TestPages:
    def test_who_comes_in_leaves_a_page_for_everybody_running(self) -> None:
        world = World(num_pages=6)
        world.add("a", 30, max_tokens=30, ignore_eos=True)
        step(world)
        world.add("b", 35, max_tokens=1)
        assert step(world) == {"a": 1}, "b needs 3 pages, 3 are left, and a will need one"
        world.add("c", 2, max_tokens=1)
        assert step(world) == {"a": 1}, "c waits behind b"
        world.drain()
        world.check_answers()
        assert world.stats().preemptions == 0

    def test_the_worst_ranked_makes_way(self) -> None:
        world = World(num_pages=7)
        for name in "abc":
            world.add(name, 14, max_tokens=60, ignore_eos=True)
        while not world.stats().preemptions:
            before = step(world)
        assert before.keys() == {"a", "b"}
        assert world.stats().waiting == 1
        world.drain()
        world.check_answers()

    def test_the_worst_ranked_takes_from_nobody_and_waits(self) -> None:
        world = World(num_pages=6, prefix_cache=False)
        world.add("a", 46, max_tokens=16, ignore_eos=True)
        world.add("b", 10, max_tokens=30, ignore_eos=True)
        computed = [step(world) for _ in range(16)]
        # a takes the last page at 49 tokens. At 17 tokens b would need one.
        assert computed[6:9] == [{"a": 1, "b": 1}, {"a": 1}, {"a": 1}]
        assert step(world) == {"b": 1}, "a is finished"
        world.drain()
        world.check_answers()
        assert world.stats().preemptions == 0

    def test_the_preempted_wait_for_their_token_in_flight(self) -> None:
        world = World(num_pages=7, prefix_cache=False)
        world.add("a", 33, max_tokens=60, ignore_eos=True)
        world.add("b", 20, max_tokens=30, ignore_eos=True)
        world.submit()
        while not world.stats().preemptions:
            world.submit()
            if not world.stats().preemptions:
                world.collect()
        known = len(world.outputs("b")[0])
        world.collect()
        assert len(world.outputs("b")[0]) == known + 1, "a preempted sequence keeps its token"
        world.drain(in_flight=2)
        world.check_answers()

    def test_a_chunk_takes_the_pages_there_are_before_anybody_is_preempted(self) -> None:
        world = World(windows=(20,), num_pages=8, max_num_batched_tokens=200)
        world.add("a", 10, max_tokens=20, ignore_eos=True)
        step(world)
        world.add("long", 150, max_tokens=1)
        assert step(world) == {"a": 1, "long": 96}, "six pages"
        assert step(world) == {"a": 1, "long": 54}, "four of which have left the window"
        world.drain()
        world.check_answers()
        assert world.stats().preemptions == 0


class TestDisplacing:
    """Interactive requests make running batch requests give way, and nobody else."""

    def world(self, **options: Any) -> World:
        return World(policy="priority", prefix_cache=False, **options)

    def test_for_a_slot(self) -> None:
        world = self.world(max_num_seqs=2)
        world.add("batch", 5, max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        world.add("standard", 5, max_tokens=9, ignore_eos=True)
        step(world)
        world.add("urgent", 7, max_tokens=3, ignore_eos=True, priority=Priority.INTERACTIVE)
        assert step(world) == {"urgent": 7, "standard": 1}
        world.drain()
        world.check_answers()
        assert (world.stats().displacements, world.stats().preemptions) == (1, 1)

    def test_for_pages(self) -> None:
        world = self.world(num_pages=6)
        world.add("batch", 50, max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        world.add("urgent", 30, max_tokens=3, priority=Priority.INTERACTIVE)
        assert step(world) == {"urgent": 30}
        world.drain()
        world.check_answers()

    def test_nobody_gives_way_in_vain(self) -> None:
        world = self.world(num_pages=8)
        world.add("standard", 50, max_tokens=9, ignore_eos=True)
        world.add("batch", 10, max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        world.add("urgent", 60, max_tokens=3, priority=Priority.INTERACTIVE)
        assert step(world) == {"standard": 1, "batch": 1}
        assert step(world) == {"standard": 1, "batch": 1}
        world.drain()
        world.check_answers()
        assert world.stats().preemptions == 0

    def test_not_for_standard_requests(self) -> None:
        world = self.world(max_num_seqs=1)
        world.add("batch", 5, max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        world.add("standard", 7)
        assert step(world) == {"batch": 1}

    def test_an_urgent_request_does_not_wait_for_the_tokens_of_a_batch_prompt(self) -> None:
        world = self.world(max_num_batched_tokens=16)
        world.add("batch", 200, max_tokens=1, priority=Priority.BATCH)
        assert step(world) == {"batch": 16}
        world.add("urgent", 20, max_tokens=4, ignore_eos=True, priority=Priority.INTERACTIVE)
        assert step(world) == {"urgent": 15, "batch": 1}
        assert step(world) == {"urgent": 5, "batch": 11}
        assert step(world) == {"urgent": 1, "batch": 15}
        assert (world.stats().displacements, world.stats().preemptions) == (0, 0)

    def test_whoever_is_let_in_everybody_running_gets_a_token(self) -> None:
        world = self.world(max_num_seqs=4, max_num_batched_tokens=4)
        world.add("batch", 40, max_tokens=3, priority=Priority.BATCH)
        assert step(world) == {"batch": 4}
        world.add("first", 40, max_tokens=3, priority=Priority.INTERACTIVE)
        assert step(world) == {"first": 3, "batch": 1}
        for name in "xyz":
            world.add(name, 40, max_tokens=3, priority=Priority.INTERACTIVE)
        assert step(world) == {"first": 1, "x": 1, "y": 1, "z": 1}
        world.drain()
        world.check_answers()

    def test_a_fork_that_is_ready_goes_before_whoever_came_later(self) -> None:
        world = self.world(max_num_seqs=2, max_num_batched_tokens=16)
        world.add("batch", 5, max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        world.add("r", 30, n=2, max_tokens=3, ignore_eos=True, priority=Priority.INTERACTIVE)
        assert step(world) == {"r/0": 15, "batch": 1}
        assert step(world) == {"r/0": 15, "batch": 1}
        world.add("urgent", 5, max_tokens=3, priority=Priority.INTERACTIVE)
        assert step(world) == {"r/0": 1, "r/1": 1}
        world.drain()
        world.check_answers()

    def test_several_at_once(self) -> None:
        world = self.world(max_num_seqs=3)
        for name in "abc":
            world.add(name, 5, max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        for name in "xy":
            world.add(name, 6, max_tokens=3, ignore_eos=True, priority=Priority.INTERACTIVE)
        assert step(world) == {"x": 6, "y": 6, "a": 1}
        world.drain()
        world.check_answers()

    def test_pages_shared_with_others_do_not_help(self) -> None:
        """What the victims hold is counted with what they share; then it is not enough."""
        world = World(policy="priority", num_pages=9)
        prompt = world.add("first", 80, max_tokens=20, ignore_eos=True).prompt_ids
        step(world)
        step(world)
        world.add("batch", prompt[:70], max_tokens=9, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        assert world.stats().hit_tokens == 64
        world.add("urgent", 33, max_tokens=3, priority=Priority.INTERACTIVE)
        assert step(world) == {"first": 1}
        world.drain()
        world.check_answers()


class TestForks:
    """Choices share the prompt: full pages by reference, the last one as a copy."""

    def test_choices_wait_for_the_first_and_fork_from_it(self) -> None:
        world = World(max_num_batched_tokens=16)
        world.add("r", 40, n=3, max_tokens=5, ignore_eos=True)
        assert [step(world) for _ in range(3)] == [{"r/0": 16}, {"r/0": 16}, {"r/0": 8}]
        assert world.stats().waiting == 2
        plan = world.submit()
        assert shares(world, plan) == {"r/0": 1, "r/1": 1, "r/2": 1}
        assert plan is not None
        assert len(plan.page_copies) == 2
        world.collect()
        assert world.stats().pages[0].held == 2 + 3
        world.drain()
        world.check_answers()
        assert (world.stats().forks, world.stats().page_copies) == (2, 2)
        finished = [answer.finished for answer in world.answers["r"].values()]
        assert [event.usage.cached_tokens for event in finished if event] == [0, 39, 39]

    def test_while_the_first_is_in_flight(self) -> None:
        world = World(prefix_cache=False)
        world.add("r", 40, n=2, max_tokens=5, ignore_eos=True)
        assert shares(world, world.submit()) == {"r/0": 40}
        assert shares(world, world.submit()) == {"r/0": 1, "r/1": 1}
        world.drain(in_flight=2)
        world.check_answers()
        assert world.stats().forks == 1

    def test_a_prompt_that_ends_at_a_border_copies_nothing(self) -> None:
        world = World()
        world.add("r", 33, n=2, max_tokens=5, ignore_eos=True)
        world.drain()
        world.check_answers()
        assert (
            world.stats().forks + (world.stats().hit_tokens > 0),
            world.stats().page_copies,
        ) == (
            1,
            0,
        )

    def test_others_go_on_meanwhile(self) -> None:
        world = World(max_num_batched_tokens=32)
        world.add("r", 60, n=4, max_tokens=5)
        world.add("s", 10, max_tokens=5, ignore_eos=True)
        step(world)
        assert step(world) == {"r/0": 28, "s": 4}

    def test_a_first_choice_that_is_finished_already(self) -> None:
        world = World(prefix_cache=False)
        world.add("r", 40, n=3, max_tokens=1)
        assert [step(world) for _ in range(2)] == [{"r/0": 40}, {"r/1": 40}]
        world.drain()
        world.check_answers()
        assert world.stats().forks == 0

    def test_a_first_choice_that_is_preempted_before_it_got_there(self) -> None:
        world = World(max_num_batched_tokens=16, policy="priority", max_num_seqs=2)
        world.add("r", 60, n=2, max_tokens=5, ignore_eos=True, priority=Priority.BATCH)
        step(world)
        for name in "xy":
            world.add(name, 4, max_tokens=3, ignore_eos=True, priority=Priority.INTERACTIVE)
        step(world)
        assert (world.stats().running, world.stats().waiting) == (2, 2)
        world.drain()
        world.check_answers()
        assert world.stats().forks == 1

    def test_windows_that_have_moved_on(self) -> None:
        world = World(windows=(16,), max_num_seqs=2, prefix_cache=False)
        world.add("other", 5, max_tokens=45, ignore_eos=True)
        world.add("r", 40, n=2, max_tokens=60, ignore_eos=True)
        world.drain()
        world.check_answers()
        assert world.stats().forks == 0, "choice 0 was 40 tokens further when a slot came free"

    def test_from_whichever_sibling_can_serve(self) -> None:
        world = World(prefix_cache=False, max_num_seqs=2)
        world.add("r", 40, n=3, max_tokens=30, ignore_eos=True)
        step(world)
        step(world)
        world.abort("r", 0)
        step(world)
        world.drain()
        world.check_answers()
        assert world.stats().forks == 2

    def test_a_prompt_of_one_token_has_nothing_to_share(self) -> None:
        world = World()
        world.add("r", 1, n=3, max_tokens=5, ignore_eos=True)
        assert step(world) == {"r/0": 1, "r/1": 1, "r/2": 1}
        world.drain()
        world.check_answers()
        assert world.stats().forks == 0

    def test_a_longer_hit_is_better_than_a_fork(self) -> None:
        """A preempted choice finds its own answer again, too."""
        world = World(num_pages=14, policy="priority", max_num_seqs=2)
        world.add("r", 20, n=2, max_tokens=60, ignore_eos=True, priority=Priority.BATCH)
        for _ in range(40):
            step(world)
        forks = world.stats().forks
        world.add("x", 4, max_tokens=3, ignore_eos=True, priority=Priority.INTERACTIVE)
        world.drain()
        world.check_answers()
        assert (world.stats().forks, world.stats().preemptions) == (forks, 1)
        assert world.stats().hit_tokens == 48
