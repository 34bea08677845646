"""What must hold between any two calls of the scheduler. ``check`` says so, or raises.

Slow (it walks over everything) and therefore called by tests after every step, and by an engine
in debug mode when it is idle. It recounts from scratch what the other files keep incrementally.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from octavo.core.kv_layout import PAGE_SIZE
from octavo.scheduling.kv import KVManager, SequencePages
from octavo.scheduling.pages import NOBODY, PagePool
from octavo.scheduling.planner import Flight
from octavo.scheduling.prefix import PrefixIndex
from octavo.scheduling.roster import Roster
from octavo.scheduling.sequence import NO_SLOT, Sequence, SequenceState


class InvariantBroken(AssertionError):
    """A bug of the scheduler's own."""


def check(roster: Roster, kv: KVManager, flights: Iterable[Flight]) -> None:
    """Raise InvariantBroken if anything is not as it must be."""
    sequences = [choice for live in roster.requests.values() for choice in live.choices]
    _check_roster(roster, sequences)
    in_flight = _in_flight(flights)
    for sequence in sequences:
        _check_tokens(sequence, in_flight[sequence])
        _check_tables(sequence, kv)
    for number, group in enumerate(kv.groups):
        tables = [s.pages.tables[number] for s in sequences if s.pages.tables]
        _check_pool(group.pool, group.index, tables)
        for sequence in sequences:
            if sequence.pages.tables:
                _check_contents(group.index, sequence.pages, number)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantBroken(message)


def _check_roster(roster: Roster, sequences: list[Sequence]) -> None:
    """Each sequence is in the one place that its state names; the counts count them."""
    by_state: dict[SequenceState, set[Sequence]] = {state: set() for state in SequenceState}
    for sequence in sequences:
        by_state[sequence.state].add(sequence)
    _require(not by_state[SequenceState.FINISHED], "a finished sequence is still served")
    running = roster.running
    _require(set(running) == by_state[SequenceState.RUNNING], "running list and states differ")
    _require(set(roster.queue) == by_state[SequenceState.QUEUED], "queue and states differ")
    _require(len(roster.queue) == len(by_state[SequenceState.QUEUED]), "queue miscounted")
    parked = {s for live in roster.requests.values() for s in live.parked}
    _require(parked == by_state[SequenceState.PARKED], "parked lists and states differ")
    ranks = [sequence.rank for sequence in running]
    _require(ranks == sorted(set(ranks)), "running sequences out of order")

    slots = [sequence.slot for sequence in running]
    every_slot = sorted(slots + roster.free_slots)
    _require(every_slot == list(range(len(every_slot))), "a slot is lost, or used twice")
    idle = [s for s in sequences if s.state is not SequenceState.RUNNING]
    _require(all(s.slot == NO_SLOT and not s.pages.tables for s in idle), "an idle sequence holds")
    for sequence in by_state[SequenceState.PARKED]:
        siblings = sequence.live.choices
        _require(
            any(sibling.state is SequenceState.RUNNING for sibling in siblings),
            "a sequence is parked for nobody",
        )

    waiting = [live for live in roster.requests.values() if not live.has_started]
    tokens = sum(len(live.request.prompt_ids) for live in waiting)
    _require(roster.waiting_requests == len(waiting), "waiting requests miscounted")
    _require(roster.waiting_tokens == tokens, "waiting tokens miscounted")
    _require(roster.num_sequences == len(sequences), "sequences miscounted")
    _require(
        roster.num_parked == len(by_state[SequenceState.PARKED]), "parked sequences miscounted"
    )
    held_back = len(by_state[SequenceState.HELD_BACK])
    _require(roster.num_open == len(sequences) - held_back, "open sequences miscounted")


def _in_flight(flights: Iterable[Flight]) -> Counter[Sequence]:
    """How many tokens of each sequence are being drawn."""
    drawn: Counter[Sequence] = Counter()
    for flight in flights:
        for sequence, _, part in flight.parts:
            drawn[sequence] += part.samples
    return drawn


def _check_tokens(sequence: Sequence, in_flight: int) -> None:
    """0 <= confirmed <= computed <= known + pending <= max_len, and pending is in flight."""
    known = len(sequence.token_ids)
    _require(sequence.num_prompt <= known < sequence.live.max_len, "a choice is over, but lives")
    _require(sequence.pending == in_flight, "pending tokens are not those in flight")
    _require(
        0 <= sequence.confirmed <= sequence.computed <= sequence.length <= sequence.live.max_len,
        "computed tokens out of bounds",
    )
    settling = sequence.state is SequenceState.SETTLING
    _require(
        sequence.pending == 0 or settling or sequence.state is SequenceState.RUNNING,
        "a waiting sequence has tokens in flight",
    )
    _require(not settling or sequence.pending > 0, "a sequence settles without tokens in flight")


def _check_tables(sequence: Sequence, kv: KVManager) -> None:
    """Page tables hold what is computed, except for what has left the window."""
    pages = sequence.pages
    if not pages.tables:
        return
    lengths = [len(table) for table in pages.tables]
    _require(pages.capacity == min(lengths) * PAGE_SIZE, "capacity miscounted")
    _require(sequence.computed <= pages.capacity, "computed tokens without pages")
    for group, table, dropped in zip(kv.groups, pages.tables, pages.dropped, strict=True):
        head, rest = table[:dropped], table[dropped:]
        _require(set(head) <= {NOBODY}, "a dropped page is still in a table")
        _require(NOBODY not in rest, "a page is missing in a table")
        _require(len(set(rest)) == len(rest), "a page is twice in a table")
        _require(dropped <= group.first_page(sequence.confirmed), "dropped within the window")


def _check_pool(pool: PagePool, index: PrefixIndex, tables: list[list[int]]) -> None:
    """Each page is exactly one of free, cached, held, by as many as the tables say."""
    held = Counter(page for table in tables for page in table if page != NOBODY)
    free = list(pool.free_pages())
    cached = [page for page in range(pool.num_pages) if pool.is_cached(page)]
    every_page = sorted([*free, *cached, *held])
    _require(every_page == list(range(1, pool.num_pages)), "a page is lost, or in two places")
    for page in range(pool.num_pages):
        _require(pool.references(page) == held[page], f"page {page}: references miscounted")
    _require(
        (pool.num_free, pool.num_cached, pool.num_held) == (len(free), len(cached), len(held)),
        "pages miscounted",
    )
    named = {page for _, page in index.items()}
    _require(len(named) == len(index), "a page has two names")
    _require(not named.intersection(free), "a free page has a name")
    _require(named.issuperset(cached), "a page without a name is cached")
    _require(all(page in index for page in named), "the index is not its own inverse")


def _check_contents(index: PrefixIndex, pages: SequencePages, number: int) -> None:
    """A named page in a table contains the tokens that stand there."""
    page_of = {page: node for node, page in index.items()}
    for position, page in enumerate(pages.tables[number]):
        node = page_of.get(page)
        if node is None:
            continue
        _require(position < pages.num_named, "a page is named before it is full")
        tokens = list(_tokens(node.content))
        start = position * PAGE_SIZE
        _require(tokens == pages.token_ids[start : start + PAGE_SIZE], "a page is misnamed")


def _tokens(content: bytes) -> Iterator[int]:
    return (int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4))
