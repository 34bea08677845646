"""The pages of sequences, over all KV groups: found, shared, copied, grown, named, given back.

Groups differ in what they retain (everything, or a window), so each sequence has a page table per
group. Who deserves pages is decided elsewhere; here is only what is possible. The contents of
pages are never touched: what must happen to them is written into the step's plan.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from octavo.core.eviction import EvictionPolicy, LeastRecentlyUsed
from octavo.core.hashing import PageName, page_name
from octavo.core.kv_layout import PAGE_SIZE, KVGroup, pages_for
from octavo.core.step import StepPlan
from octavo.scheduling.pages import NOBODY, PagePool
from octavo.scheduling.prefix import PageNames, PageNode, PrefixIndex


@dataclass(slots=True, eq=False)
class SequencePages:
    """The pages of one sequence, and the names of its contents.

    In each group's table, for a sequence of which ``num_tokens`` are computed and confirmed:

        [0, dropped)         NOBODY: left the window, or never needed
        [dropped, num_named) full; the index may know them: read only, perhaps shared
        [num_named, ...)     ours alone: filled up to the computed tokens, the rest reserved
    """

    token_ids: list[int]
    """The sequence's own list, which grows: names are made from it."""
    takes_hits: bool
    nodes: list[PageNode | None]
    """[0] is the root; [i + 1] the content of page i, as far as names were needed. None ends the
    names for good. Kept over preemptions, so that a sequence's tokens are hashed once."""
    tables: list[list[int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    num_named: int = 0
    capacity: int = 0
    """Tokens that the tables can hold: the least of all groups."""
    next_border: int = PAGE_SIZE
    """When this many tokens are confirmed, another page is full: time for ``advance``."""


@dataclass(frozen=True, slots=True)
class HeadStart:
    """What a starting sequence need not compute, because the pages are there already."""

    num_tokens: int
    tables: SequenceOf[SequenceOf[int]]
    """For each group, pages to share; NOBODY where a window makes the page unnecessary."""
    copies: SequenceOf[int] = ()
    """For each group, the page to copy behind them, where num_tokens ends within a page."""
    is_fork: bool = False
    """Whether it comes from a running sibling instead of the index."""


@dataclass(slots=True)
class _Group:
    """One KV group: how much it retains, its pages and what they contain."""

    layout: KVGroup
    pool: PagePool
    index: PrefixIndex
    steady: int | None
    """Pages that a sequence needs once it outgrew the window; None if it needs them all."""

    def first_page(self, num_tokens: int) -> int:
        """The first page that the token after ``num_tokens`` tokens still attends to."""
        return self.layout.first_needed(num_tokens) // PAGE_SIZE

    def release(self, page: int, *, keep: bool) -> None:
        named = page in self.index
        freed = self.pool.release(page, keep=named and keep)
        if freed and named:
            self.index.remove(page)


class KVManager:
    """Pools, indices and page tables of every KV group behind one door.

    Args:
        groups: at least one; the order is that of ``StepPlan.page_assignments``.
        num_pages: in each group, page 0 (which belongs to nobody) included.
        numerics: what decides the bits of keys and values besides tokens, tenant and adapter.
        prefix_cache: off, no page is ever named, found or kept.
        eviction: makes the order, one a group, in which cached pages are given up.
        name_page: the hash that names pages.
    """

    def __init__(
        self,
        groups: SequenceOf[KVGroup],
        *,
        num_pages: int,
        numerics: bytes,
        prefix_cache: bool = True,
        eviction: Callable[[], EvictionPolicy[int]] = LeastRecentlyUsed,
        name_page: Callable[[PageName, bytes], PageName] = page_name,
    ) -> None:
        assert groups
        self.groups = [_make_group(layout, num_pages, eviction) for layout in groups]
        self.prefix_cache = prefix_cache
        self.num_changes = 0
        """Grows whenever who did not fit may fit now: pages were given back, or named."""
        self._names = PageNames(numerics, name_page=name_page)
        self._nothing = HeadStart(0, [()] * len(groups))

    def max_tokens(self, *, whole: bool) -> int | None:
        """The longest sequence that fits when it is alone; None when none is too long.

        ``whole``: windows are no help, because all of it is stored at once.
        """
        longest = [
            (group.pool.num_pages - 1) * PAGE_SIZE
            for group in self.groups
            if whole or group.steady is None or group.pool.num_pages <= group.steady
        ]
        return min(longest, default=None)

    def open(
        self, token_ids: list[int], *, tenant: str, adapter: str, takes_hits: bool
    ) -> SequencePages:
        """The pages of a new sequence: none so far. ``token_ids`` is shared, and may grow."""
        root = self._names.root(tenant=tenant, adapter=adapter) if self.prefix_cache else None
        return SequencePages(token_ids, takes_hits and self.prefix_cache, [root])

    # How a sequence may start

    def match(self, pages: SequencePages) -> HeadStart:
        """The longest head of the sequence that all groups still have.

        It ends at a page's border and leaves at least one token to compute. Groups with a window
        need only the pages that the next token attends to.
        """
        if not pages.takes_hits:
            return self._nothing
        tables: list[list[int]] = [[] for _ in self.groups]
        unbroken = [0] * len(self.groups)  # pages found in a row, up to the current one
        best = 0
        for length in range(1, (len(pages.token_ids) - 1) // PAGE_SIZE + 1):
            node = self._node(pages, length - 1)
            if node is None:
                break
            served = 0
            for number, group in enumerate(self.groups):
                page = group.index.find(node)
                tables[number].append(NOBODY if page is None else page)
                unbroken[number] = 0 if page is None else unbroken[number] + 1
                served += unbroken[number] >= length - group.first_page(length * PAGE_SIZE)
            if served == len(self.groups):
                best = length
            elif self._is_missing_for_good(tables):
                break
        return self._head_start(tables, best * PAGE_SIZE)

    def _is_missing_for_good(self, tables: list[list[int]]) -> bool:
        """Whether a page was not found that every longer head would need, too."""
        for group, table in zip(self.groups, tables, strict=True):
            if group.steady is None and table[-1] == NOBODY:
                return True
        return False

    def fork(self, sibling: SequencePages, num_tokens: int) -> HeadStart | None:
        """The first ``num_tokens`` tokens of a running sequence, for another that begins alike.

        None if the sibling has dropped a page that is needed.
        """
        for group, dropped in zip(self.groups, sibling.dropped, strict=True):
            if dropped > group.first_page(num_tokens):
                return None
        return self._head_start(sibling.tables, num_tokens, is_fork=True)

    def _head_start(
        self, tables: SequenceOf[list[int]], num_tokens: int, *, is_fork: bool = False
    ) -> HeadStart:
        full = num_tokens // PAGE_SIZE
        shared = []
        for group, table in zip(self.groups, tables, strict=True):
            first = group.first_page(num_tokens)
            shared.append([NOBODY] * first + table[first:full])
        copies = [table[full] for table in tables] if num_tokens % PAGE_SIZE else ()
        return HeadStart(num_tokens, shared, copies, is_fork)

    def fits(
        self,
        head_start: HeadStart,
        num_tokens: int,
        *,
        whole: bool,
        headroom: int = 0,
        returned: SequenceOf[int] = (),
    ) -> bool:
        """Whether ``start`` would find enough pages and leave ``headroom`` pages in each group.

        ``returned`` assumes that so many pages a group were given back before.
        """
        for number, (group, table) in enumerate(zip(self.groups, head_start.tables, strict=True)):
            available = group.pool.num_available + (returned[number] if returned else 0)
            revived = sum(1 for page in table if group.pool.is_cached(page))
            first = group.first_page(head_start.num_tokens)
            new = self._start_pages(group, num_tokens, first, whole=whole) - len(table)
            if available - revived < new + headroom:
                return False
        return True

    def start(
        self,
        pages: SequencePages,
        head_start: HeadStart,
        num_tokens: int,
        *,
        whole: bool,
        slot: int,
        plan: StepPlan,
    ) -> None:
        """Give a sequence of ``num_tokens`` known tokens its first pages: those it can share, and
        new ones for the rest, so that what was let in can be computed to its last known token.

        In a group with a window only about a window's worth is given at once; ``grow`` goes on
        from there as pages leave the window.
        """
        assert not pages.tables
        for group, table in zip(self.groups, head_start.tables, strict=True):  # before any is taken
            for page in table:
                if page != NOBODY:
                    group.pool.share(page)
        for number, (group, shared) in enumerate(zip(self.groups, head_start.tables, strict=True)):
            assign = plan.page_assignments
            table = list(shared)
            assign += [(slot, number, i, page) for i, page in enumerate(table) if page != NOBODY]
            pages.tables.append(table)
            first = group.first_page(head_start.num_tokens)
            pages.dropped.append(first)
            wanted = self._start_pages(group, num_tokens, first, whole=whole)
            self._extend(number, table, wanted, slot, plan)
        for number, source in enumerate(head_start.copies):
            target = pages.tables[number][head_start.num_tokens // PAGE_SIZE]
            plan.page_copies.append((number, source, target))
        pages.num_named = head_start.num_tokens // PAGE_SIZE
        pages.next_border = (pages.num_named + 1) * PAGE_SIZE
        pages.capacity = min(len(table) for table in pages.tables) * PAGE_SIZE

    @staticmethod
    def _start_pages(group: _Group, num_tokens: int, first: int, *, whole: bool) -> int:
        """The length of a group's page table after the start; pages before ``first`` are not
        needed."""
        if whole or group.steady is None:
            return pages_for(num_tokens)
        return min(pages_for(num_tokens), first + group.steady)

    # While a sequence runs

    def room(self, pages: SequencePages) -> int:
        """The number of tokens that the sequence could have in all with the pages available."""
        tables = zip(self.groups, pages.tables, strict=True)
        return min(len(table) + group.pool.num_available for group, table in tables) * PAGE_SIZE

    def grow(self, pages: SequencePages, num_tokens: int, *, slot: int, plan: StepPlan) -> None:
        """Extend the tables to hold ``num_tokens`` tokens, at most ``room``."""
        wanted = pages_for(num_tokens)
        for number, table in enumerate(pages.tables):
            self._extend(number, table, wanted, slot, plan)
        pages.capacity = min(len(table) for table in pages.tables) * PAGE_SIZE

    def _extend(
        self, number: int, table: list[int], wanted: int, slot: int, plan: StepPlan
    ) -> None:
        pool = self.groups[number].pool
        for index in range(len(table), wanted):
            page = pool.take()
            table.append(page)
            plan.page_assignments.append((slot, number, index, page))

    def advance(self, pages: SequencePages, num_tokens: int) -> None:
        """``num_tokens`` tokens are computed, and their step has come back.

        Pages that became full are named, so that others find them; then those that left a window
        are given back. Steps in flight start later and do not need them.
        """
        full = num_tokens // PAGE_SIZE
        for index in range(pages.num_named, full):
            node = self._node(pages, index)
            if node is None:
                break
            self.num_changes += 1
            for group, table in zip(self.groups, pages.tables, strict=True):
                if table[index] != NOBODY:
                    group.index.insert(node, table[index])
        pages.num_named = full
        pages.next_border = (full + 1) * PAGE_SIZE
        for number, group in enumerate(self.groups):
            if group.steady is None:
                continue
            table, first = pages.tables[number], group.first_page(num_tokens)
            for index in range(pages.dropped[number], first):
                group.release(table[index], keep=True)
                table[index] = NOBODY
                self.num_changes += 1
            pages.dropped[number] = max(pages.dropped[number], first)

    def release(self, pages: SequencePages, *, keep: bool = True) -> None:
        """Give everything back. Named pages stay cached, or with ``keep=False`` are forgotten.

        The tail goes first: it is worth least to others, and without the head it is worth nothing.
        """
        if not pages.tables:
            return  # it holds nothing
        for group, table in zip(self.groups, pages.tables, strict=True):
            for page in reversed(table):
                if page != NOBODY:
                    group.release(page, keep=keep)
        pages.tables.clear()
        pages.dropped.clear()
        pages.num_named = pages.capacity = 0
        self.num_changes += 1

    def _node(self, pages: SequencePages, index: int) -> PageNode | None:
        """The content of page ``index`` of a sequence; None if it cannot have a name."""
        nodes = pages.nodes
        while len(nodes) <= index + 1 and (parent := nodes[-1]) is not None:
            start = (len(nodes) - 1) * PAGE_SIZE
            nodes.append(self._names.child(parent, pages.token_ids[start : start + PAGE_SIZE]))
        return nodes[index + 1] if index + 1 < len(nodes) else None


def _make_group(
    layout: KVGroup, num_pages: int, eviction: Callable[[], EvictionPolicy[int]]
) -> _Group:
    index = PrefixIndex()
    pool = PagePool(num_pages, eviction=eviction(), forget=index.remove)
    # The window before a token, the page that the token is in, and one more while a step is in
    # flight, because pages are dropped only when it has come back.
    steady = None if layout.window is None else pages_for(layout.window - 1) + 2
    return _Group(layout, pool, index, steady)
