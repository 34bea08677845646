"""Invariants: each of these bugs, made by hand, is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from octavo.scheduling.invariants import InvariantBroken
from octavo.scheduling.kv import SequencePages
from octavo.scheduling.pages import NOBODY, PagePool
from octavo.scheduling.prefix import PageNode
from octavo.scheduling.roster import Roster
from octavo.scheduling.sequence import Sequence, SequenceState
from tests.scheduling_world import World

Bug = Callable[["Inside"], object]


class Inside:
    """The parts of a world in the middle of its work: two run, one waits for a sibling, one in
    the queue, pages are cached, a step is in flight."""

    def __init__(self) -> None:
        self.world = World(windows=(None, 20), max_num_seqs=2, max_num_batched_tokens=40)
        self.world.add("gone", 40, max_tokens=1)
        self.world.drain()
        self.world.add("a", 40, max_tokens=20, ignore_eos=True)
        self.world.add("b", 60, n=2, max_tokens=20, ignore_eos=True)
        self.world.add("c", 20)
        self.world.step()
        self.world.step()
        self.world.submit()
        self.roster: Roster = self.world.scheduler._roster
        self.running: Sequence = self.roster.running[0]
        self.pages: SequencePages = self.running.pages
        self.pool: PagePool = self.world.kv.groups[0].pool
        self.index = self.world.kv.groups[0].index

    def state(self, state: SequenceState) -> Sequence:
        return next(
            sequence
            for live in self.roster.requests.values()
            for sequence in live.choices
            if sequence.state is state
        )


def change(thing: object, **values: object) -> None:
    for name, value in values.items():
        setattr(thing, name, value)


def stranger(it: Inside) -> PageNode:
    """The node of a content that nobody computed."""
    node = it.world.kv._names.root(tenant="x", adapter="")
    assert node is not None
    return node


def park_the_queued(it: Inside) -> None:
    change(it.state(SequenceState.QUEUED), state=SequenceState.PARKED)
    it.roster.requests["c"].parked.append(it.roster.queue.pop())


def lose_the_last_page(it: Inside) -> None:
    it.pages.tables[0].pop()
    it.pages.capacity = 32


def drop_too_much(it: Inside) -> None:
    it.pages.tables[1][:2] = [NOBODY, NOBODY]
    it.pages.dropped[1] = 2


BUGS: dict[str, tuple[Bug, str]] = {
    "a sequence forgot that it runs": (
        lambda it: change(it.running, state=SequenceState.SETTLING),
        "running list and states differ",
    ),
    "a queued sequence is nowhere": (lambda it: it.roster.queue.pop(), "queue and states differ"),
    "the queue miscounts": (
        lambda it: change(it.roster.queue, num_waiting=7),
        "queue miscounted",
    ),
    "a parked sequence is nowhere": (
        lambda it: it.state(SequenceState.PARKED).live.parked.clear(),
        "parked lists and states differ",
    ),
    "parked for nobody": (park_the_queued, "parked for nobody"),
    "the order is lost": (lambda it: it.roster.running.reverse(), "out of order"),
    "a finished one stays": (
        lambda it: change(it.running, state=SequenceState.FINISHED),
        "a finished sequence is still served",
    ),
    "a slot is lost": (lambda it: change(it.running, slot=7), "a slot is lost"),
    "a slot is used twice": (
        lambda it: it.roster.free_slots.append(it.running.slot),
        "a slot is lost, or used twice",
    ),
    "a waiting one holds a slot": (
        lambda it: change(it.state(SequenceState.QUEUED), slot=1),
        "an idle sequence holds",
    ),
    "waiting requests": (
        lambda it: change(it.roster, waiting_requests=0),
        "waiting requests miscounted",
    ),
    "waiting tokens": (
        lambda it: change(it.roster, waiting_tokens=21),
        "waiting tokens miscounted",
    ),
    "sequences": (lambda it: change(it.roster, num_sequences=3), "sequences miscounted"),
    "parked": (lambda it: change(it.roster, num_parked=2), "parked sequences miscounted"),
    "open sequences": (lambda it: change(it.roster, num_open=3), "open sequences miscounted"),
    "a token too many": (
        lambda it: it.running.token_ids.extend([1] * 30),
        "a choice is over, but lives",
    ),
    "pending": (lambda it: change(it.running, pending=2), "not those in flight"),
    "computed": (lambda it: change(it.running, computed=99), "computed tokens out of bounds"),
    "confirmed": (lambda it: change(it.running, confirmed=-1), "computed tokens out of bounds"),
    "capacity": (lambda it: change(it.pages, capacity=16), "capacity miscounted"),
    "a page too few": (lose_the_last_page, "computed tokens without pages"),
    "a hole": (lambda it: it.pages.tables[0].__setitem__(1, 0), "a page is missing"),
    "dropped too much": (drop_too_much, "dropped within the window"),
    "dropped, but there": (
        lambda it: it.pages.dropped.__setitem__(1, 2),
        "a dropped page is still in a table",
    ),
    "twice in a table": (
        lambda it: it.pages.tables[0].__setitem__(1, it.pages.tables[0][0]),
        "a page is twice in a table",
    ),
    "references": (lambda it: it.pool.share(it.pages.tables[0][0]), "references miscounted"),
    "freed, but held": (
        lambda it: it.pool._free.append(it.pages.tables[0][0]),
        "a page is lost, or in two places",
    ),
    "lost": (lambda it: it.pool._free.pop(), "a page is lost"),
    "named and free": (
        lambda it: it.index.insert(stranger(it), 40),
        "a free page has a name",
    ),
    "cached without a name": (
        lambda it: it.index.remove(next(p for p in range(64) if it.pool.is_cached(p))),
        "a page without a name is cached",
    ),
    "two names": (
        lambda it: it.index._pages.__setitem__(stranger(it), it.pages.tables[0][0]),
        "a page has two names",
    ),
    "index and inverse": (
        lambda it: it.index._nodes.pop(it.pages.tables[0][0]),
        "not its own inverse",
    ),
    "misnamed": (lambda it: it.running.token_ids.__setitem__(3, 49), "a page is misnamed"),
    "named too early": (
        lambda it: change(it.pages, num_named=0),
        "a page is named before it is full",
    ),
}


def test_the_world_is_sound_before() -> None:
    inside = Inside()
    inside.world.look()
    states = {
        sequence.state for live in inside.roster.requests.values() for sequence in live.choices
    }
    assert states == {SequenceState.RUNNING, SequenceState.PARKED, SequenceState.QUEUED}
    assert inside.pages.num_named == 2


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_seen(name: str) -> None:
    inside = Inside()
    bug, message = BUGS[name]
    bug(inside)
    with pytest.raises(InvariantBroken, match=message):
        inside.world.scheduler.check()


def test_waiting_with_tokens_in_flight() -> None:
    world = World(num_pages=7, prefix_cache=False)
    world.add("a", 33, max_tokens=60, ignore_eos=True)
    world.add("b", 20, max_tokens=30, ignore_eos=True)
    world.submit()
    while not world.stats().preemptions:
        world.submit()
        if not world.stats().preemptions:
            world.collect()
    roster = world.scheduler._roster
    (settling,) = (
        sequence
        for sequence in roster.requests["b"].choices
        if sequence.state is SequenceState.SETTLING
    )
    roster._enqueue(settling)
    with pytest.raises(InvariantBroken, match="a waiting sequence has tokens in flight"):
        world.scheduler.check()
    settling.state = SequenceState.SETTLING
    roster.queue.pop()
    world.collect()
    roster.queue.pop()
    settling.state = SequenceState.SETTLING
    with pytest.raises(InvariantBroken, match="settles without tokens in flight"):
        world.scheduler.check()
