"""The traffic test is worth something: each of these bugs, put in on purpose, is found by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from octavo.core.kv_layout import PAGE_SIZE
from octavo.core.step import StepPlan
from octavo.scheduling import kv, planner, prefix, roster, sequence
from octavo.scheduling.pages import PagePool
from tests.property.test_scheduling_traffic import Traffic

MAX_WORLDS = 20
Mutate = Callable[[pytest.MonkeyPatch], None]

_kv_start, _pool_share, _pool_release = kv.KVManager.start, PagePool.share, PagePool.release
_match, _head_start = kv.KVManager.match, kv.KVManager._head_start
_first_page, _start_slot = kv._Group.first_page, roster.Roster.start


def forgotten_reference(patch: pytest.MonkeyPatch) -> None:
    """Every 20th time that a page is shared, nobody counts it."""
    calls = count(1)

    def share(pool: PagePool, page: int) -> None:
        if next(calls) % 20 or pool.references(page) == 0:
            _pool_share(pool, page)

    patch.setattr(PagePool, "share", share)


def forgotten_release(patch: pytest.MonkeyPatch) -> None:
    calls = count(1)

    def release(pool: PagePool, page: int, *, keep: bool) -> bool:
        return bool(next(calls) % 50) and _pool_release(pool, page, keep=keep)

    patch.setattr(PagePool, "release", release)


def swapped_pages(patch: pytest.MonkeyPatch) -> None:
    """Two pages of a start change places in what the runner is told."""

    def start(*args: Any, **options: Any) -> None:
        _kv_start(*args, **options)
        told = options["plan"].page_assignments
        if len(told) > 1 and told[-1][:2] == told[-2][:2]:
            (slot, group, one, page), (_, _, other, other_page) = told[-2:]
            told[-2:] = [(slot, group, one, other_page), (slot, group, other, page)]

    patch.setattr(kv.KVManager, "start", start)


def tenants_share_pages(patch: pytest.MonkeyPatch) -> None:
    def root(names: prefix.PageNames, *, tenant: str, adapter: str) -> prefix.PageNode | None:
        return names._node(b"root", None, b"")

    patch.setattr(prefix.PageNames, "root", root)


def forks_copy_nothing(patch: pytest.MonkeyPatch) -> None:
    def start(*args: Any, **options: Any) -> None:
        _kv_start(*args, **options)
        options["plan"].page_copies.clear()

    patch.setattr(kv.KVManager, "start", start)


def forks_too_early(patch: pytest.MonkeyPatch) -> None:
    """What a step is about to compute counts as computed."""
    patch.setattr(sequence.Sequence, "settled", lambda self, step: self.computed)


def a_page_too_little(patch: pytest.MonkeyPatch) -> None:
    """Windows are taken for a page shorter than they are."""

    def first_page(group: Any, num_tokens: int) -> int:
        exact = _first_page(group, num_tokens)
        needless = min(exact + 1, num_tokens // PAGE_SIZE)
        return exact if group.steady is None else needless

    patch.setattr(kv._Group, "first_page", first_page)


def late_results_count(patch: pytest.MonkeyPatch) -> None:
    """A result counts for the pages that a sequence has now, not those that it had then."""

    def make(flight: planner.Flight, plan: StepPlan) -> None:
        flight.plan, flight.parts = plan, _CurrentStay()

    patch.setattr(planner.Flight, "__init__", make)


class _CurrentStay(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return ((member, member.stay, part) for member, _, part in super().__iter__())


def no_settling(patch: pytest.MonkeyPatch) -> None:
    """A preempted sequence may start again although its token is still being drawn."""

    def preempt(self: roster.Roster, member: sequence.Sequence) -> None:
        self._stop_running(member)
        member.stay += 1
        member.computed = member.confirmed = 0
        self._enqueue(member)

    patch.setattr(roster.Roster, "preempt", preempt)
    patch.setattr(roster.Roster, "settle", lambda self, member: None)


def evicted_pages_are_still_found(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prefix.PrefixIndex, "remove", lambda self, page: self._nodes.pop(page))


def unfinished_pages_are_named(patch: pytest.MonkeyPatch) -> None:
    """A page is published as soon as it is reserved."""

    def start(manager: kv.KVManager, pages: kv.SequencePages, *args: Any, **options: Any) -> None:
        _kv_start(manager, pages, *args, **options)
        manager.advance(pages, len(pages.token_ids) // PAGE_SIZE * PAGE_SIZE)

    patch.setattr(kv.KVManager, "start", start)


def lost_slots(patch: pytest.MonkeyPatch) -> None:
    def start(self: roster.Roster, member: sequence.Sequence) -> int:
        slot = _start_slot(self, member)
        self.left_slots = [left for left in self.left_slots if left != slot]
        return slot

    patch.setattr(roster.Roster, "start", start)


MUTANTS = [
    forgotten_reference,
    forgotten_release,
    swapped_pages,
    tenants_share_pages,
    forks_copy_nothing,
    forks_too_early,
    a_page_too_little,
    late_results_count,
    no_settling,
    evicted_pages_are_still_found,
    unfinished_pages_are_named,
    lost_slots,
]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_bug_is_found(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    for seed in range(MAX_WORLDS):
        try:
            Traffic(seed).run()
        except Exception as error:
            print(f"found in world {seed}: {type(error).__name__}: {error}")
            return
    pytest.fail("nobody noticed")
