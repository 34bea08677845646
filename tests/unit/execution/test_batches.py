"""What is kept from one batch to the next is what would be built anew, and it is kept."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM, SamplingParams
from octavo.core.request import Request
from octavo.core.step import SlotEntry, StepPlan, TokenRange
from octavo.execution.batch import Batches, BuiltBatch, build_batch
from octavo.execution.slots import SlotTable
from tests.tiny import write_tiny_model

VOCAB = 50
END = 2
EXTRAS: list[dict[str, Any]] = [
    {"presence_penalty": 0.5},
    {"repetition_penalty": 1.2},
    {"logit_bias": {3: 1.5}},
    {"min_tokens": 3},
    {"bad_words": ((8,), (20, 21))},
    {"allowed_token_ids": (0, 33, 49)},
]


def assert_same(one: Any, other: Any) -> None:
    """The same values, types and shapes in every field."""
    assert type(one) is type(other)
    if is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist()
        assert one.flags.c_contiguous
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


class World:
    """A slot table, and plans applied to it as the runner applies them."""

    def __init__(self, num_groups: int = 1) -> None:
        self.slots = SlotTable(4, 64, VOCAB, num_groups, (END,))
        self.batches = Batches(self.slots)
        self.num_requests = 0
        self.tells_tokens = True
        """Whether a batch is given what was drawn: it may be taken over as it is."""

    def entry(self, slot: int, prompt: list[int], **params: Any) -> SlotEntry:
        self.num_requests += 1
        request = Request(
            request_id=f"r{self.num_requests}",
            prompt_ids=tuple(prompt),
            params=SamplingParams(**{"max_tokens": 60, "seed": self.num_requests, **params}),
        )
        return SlotEntry(slot, request, 0, tuple(prompt))

    def run(self, plan: StepPlan, tokens: list[int] | None = None) -> BuiltBatch:
        """Build a batch, which must be as if built anew; then draw."""
        for slot in plan.leave:
            self.slots.leave(slot)
        for entry in plan.enter:
            self.slots.enter(entry)
        for slot, group, index, page in plan.page_assignments:
            self.slots.pages[group][slot, index] = page
        built = self.batches.build(plan)
        assert_same(built, build_batch(plan, self.slots))
        drawing = [part.slot for part in plan.ranges if part.samples]
        tokens = list(range(20, 20 + len(drawing))) if tokens is None else tokens[: len(drawing)]
        for slot, token_id in zip(drawing, tokens, strict=True):
            self.slots.append(slot, token_id)
        if self.tells_tokens:
            built.drawn = np.array(tokens, np.int32)
        batch = replace(built.batch, sampling=replace(built.batch.sampling))
        return replace(built, batch=batch)  # as it is now: it may be given out again

    def decode(self, *slots: int, **plan: Any) -> BuiltBatch:
        ranges = [TokenRange(slot, self.slots.num_tokens[slot] - 1, 1, True) for slot in slots]
        return self.run(StepPlan(1, ranges=ranges, **plan))

    @property
    def num_kept(self) -> int:
        return self.batches.num_kept


def started(*params: dict[str, Any], num_groups: int = 1) -> World:
    """Sequences in slots 0, 1, ..., each with its prompt computed and a token drawn."""
    world = World(num_groups)
    prompts = [[10 + slot, 11, 12] for slot in range(len(params))]
    entries = [world.entry(slot, prompts[slot], **own) for slot, own in enumerate(params)]
    assigned = [(slot, group, 0, 5 + slot) for slot in range(len(params)) for group in (0,)]
    ranges = [TokenRange(slot, 0, 3, True) for slot in range(len(params))]
    world.run(StepPlan(1, enter=entries, page_assignments=assigned, ranges=ranges))
    assert world.num_kept == 0
    return world


def test_who_decodes_on_keeps_everything_but_tokens_and_positions() -> None:
    world = started({}, {"temperature": 0.5})
    first = world.decode(1, 0).batch
    second = world.decode(1, 0).batch
    assert world.num_kept == 1
    assert second.sampling.temperature is first.sampling.temperature
    assert second.sampling.masks is first.sampling.masks
    assert second.row_starts is first.row_starts
    third = world.decode(1, 0).batch
    assert third.page_tables is second.page_tables
    # What was given out is not written to.
    assert [batch.positions.tolist() for batch in (first, second, third)] == [
        [3, 3],
        [4, 4],
        [5, 5],
    ]
    assert [batch.sampling.positions.tolist() for batch in (first, second, third)] == [
        [4, 4],
        [5, 5],
        [6, 6],
    ]
    assert second.token_ids.tolist() == [20, 21]


def test_what_was_drawn_is_computed_next_as_it_is() -> None:
    world = started({}, {"temperature": 0.5})
    first = world.decode(1, 0)
    second = world.decode(1, 0)
    assert second.batch.token_ids is first.drawn
    # A step of others comes between: it is found by slot and position.
    world.run(StepPlan(3, ranges=[TokenRange(0, 5, 1, True), TokenRange(1, 0, 2, False)]))
    third = world.decode(1, 0, leave=[]).batch
    assert third.token_ids.tolist() == [20, 20]
    world.tells_tokens = False  # a row failed
    fourth = world.decode(1, 0)
    fifth = world.decode(1, 0)
    assert fourth.drawn is None
    assert fifth.batch.token_ids.tolist() == [20, 21]


@pytest.mark.parametrize("extras", EXTRAS, ids=lambda extras: next(iter(extras)))
def test_rows_with_extras_have_theirs_made_anew(extras: dict[str, Any]) -> None:
    """Counts grow, bans end, bad words come up; a plain row beside it is as before."""
    world = started({}, extras)
    batches = [world.decode(0, 1).batch for _ in range(6)]
    assert world.num_kept == 5
    assert batches[0].sampling.seeds is batches[5].sampling.seeds
    if "min_tokens" in extras:
        assert [batch.sampling.bias_ids.tolist() for batch in batches[:3]] == [[END], [END], []]
    if "presence_penalty" in extras:
        assert [max(batch.sampling.seen_counts) for batch in batches[:2]] == [1, 2]


def test_another_sequence_in_the_same_slot_brings_its_own() -> None:
    """It decodes from its first step on: its prompt is one token."""
    world = started({"temperature": 0.5, "top_k": 3}, {})
    for _ in range(2):
        world.decode(0, 1)
    assert world.num_kept == 1
    entry = world.entry(0, [7], temperature=0.25, logit_bias={4: 1.0})
    plan = StepPlan(
        2,
        leave=[0],
        enter=[entry],
        page_assignments=[(0, 0, 0, 9)],
        ranges=[TokenRange(0, 0, 1, True), TokenRange(1, 4 + 1, 1, True)],
    )
    batch = world.run(plan).batch
    assert world.num_kept == 1
    assert batch.sampling.temperature.tolist() == [0.25, 1.0]
    assert batch.sampling.bias_ids.tolist() == [4]
    assert batch.page_tables[0].tolist() == [[9], [6]]


def test_who_enters_leaves_or_stands_elsewhere_is_noticed() -> None:
    world = started({}, {"top_k": 2}, {"top_k": 4})
    for slots in ([0, 1], [1, 0], [0, 1, 2], [0, 2]):
        kept = world.num_kept
        world.decode(*slots)
        assert world.num_kept == kept
        world.decode(*slots)
        assert world.num_kept == kept + 1
    kept = world.num_kept
    world.decode(0, 2, leave=[1])  # of no concern to the others, but not looked into
    assert world.num_kept == kept


def test_pages_assigned_in_a_step_of_others_are_seen_later() -> None:
    world = started({}, {}, num_groups=2)
    for _ in range(3):
        world.decode(0)
    assert world.num_kept == 2
    chunk = StepPlan(
        5, page_assignments=[(0, 0, 0, 30), (0, 1, 0, 31)], ranges=[TokenRange(1, 0, 2, False)]
    )
    world.run(chunk)
    batch = world.decode(0).batch
    assert world.num_kept == 3
    assert [table.tolist() for table in batch.page_tables] == [[[30]], [[31]]]


def test_tables_widen_where_no_page_is_assigned() -> None:
    world = started({})
    world.decode(0, page_assignments=[(0, 0, 1, 40), (0, 0, 2, 41)])
    widths = [world.decode(0).batch.page_tables[0].shape[1] for _ in range(30)]
    assert widths == [1] * 12 + [2] * 16 + [3] * 2
    assert world.num_kept == 30


@pytest.mark.parametrize(
    "plan",
    [
        StepPlan(1, ranges=[TokenRange(0, 4, 1, True)], padding=[1]),
        StepPlan(1, ranges=[TokenRange(0, 4, 1, True)], page_copies=[(0, 1, 2)]),
        StepPlan(1, ranges=[TokenRange(0, 1, 1, False, score_from=1)]),
        StepPlan(1, ranges=[TokenRange(0, 4, 1, False)]),
        StepPlan(1, ranges=[TokenRange(0, 3, 2, True)]),
    ],
    ids=["padding", "copies", "scores", "draws nothing", "two tokens"],
)
def test_other_steps_are_built_anew(plan: StepPlan) -> None:
    world = started({"prompt_logprobs": 1})
    world.decode(0)
    world.run(plan)
    assert world.num_kept == 0


def test_any_series_of_plans() -> None:
    """Sequences come, go, decode, are computed in chunks and get pages, in any order."""
    chance = random.Random(5)
    world = World(num_groups=2)
    here: dict[int, int] = {}  # slot -> tokens computed
    for step in range(600):
        plan = StepPlan(step)
        if here and chance.random() < 0.08:
            slot = chance.choice(list(here))
            del here[slot]
            plan.leave.append(slot)
        free = [slot for slot in range(4) if slot not in here]
        if free and chance.random() < 0.15:
            slot = chance.choice(free)
            prompt = [chance.randrange(VOCAB) for _ in range(chance.choice([1, 1, 9]))]
            params = {"temperature": chance.random(), **chance.choice([{}, {}, *EXTRAS])}
            plan.enter.append(world.entry(slot, prompt, **params))
            here[slot] = 0
        for slot in here:
            if chance.random() < 0.1:
                page = (slot, chance.randrange(2), chance.randrange(4), chance.randrange(1, 99))
                plan.page_assignments.append(page)
        entering = {entry.slot: len(entry.token_ids) for entry in plan.enter}
        for slot, start in list(here.items()):
            known = entering.get(slot, world.slots.num_tokens[slot])
            if known >= 60:  # is full
                continue
            count = chance.randint(1, known - start)
            plan.ranges.append(TokenRange(slot, start, count, start + count == known))
            here[slot] = start + count
        if chance.random() < 0.1:
            plan.ranges.reverse()
        world.tells_tokens = chance.random() < 0.8
        if plan.ranges:
            world.run(plan, [chance.randrange(VOCAB) for _ in plan.ranges])
    assert world.num_kept > 100


@pytest.mark.parametrize("options", [{}, {"steps_in_flight": 2}])
def test_what_an_engine_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Preemptions, forks and beams among the plans; none of them gets anything stale."""
    build = Batches.build
    seen: list[Batches] = []

    def checked(batches: Batches, plan: StepPlan) -> BuiltBatch:
        seen.append(batches)
        built = build(batches, plan)
        assert_same(built, build_batch(plan, batches._slots))
        return built

    monkeypatch.setattr(Batches, "build", checked)
    params = [
        SamplingParams(max_tokens=40, ignore_eos=True, n=1 + index % 2, seed=index, **extras)
        for index, extras in enumerate([{}, {}, {}, *EXTRAS])
    ]
    prompts = [[5 + index] * (3 + 5 * index) for index in range(len(params))]
    with LLM(
        write_tiny_model(tmp_path),
        num_pages=16,
        max_num_seqs=6,
        max_num_batched_tokens=40,
        **options,
    ) as llm:
        assert all(output.error is None for output in llm.generate(prompts, params))
        llm.beam_search(prompts[:2], width=3, max_tokens=12, end_token_ids=())
        counts = llm.stats().scheduler
    assert counts.preemptions > 0
    assert counts.forks > 0
    assert seen[-1].num_kept > 30
