"""KVManager: what sequences find, share, copy, and give back, over several KV groups."""

from __future__ import annotations

import pytest

from octavo.core.hashing import PageName
from octavo.core.kv_layout import PAGE_SIZE
from octavo.core.step import StepPlan
from octavo.scheduling.kv import HeadStart, KVManager, SequencePages
from octavo.scheduling.pages import NOBODY
from tests.scheduling_world import kv_groups

TOKENS = [i * 7 % 50 for i in range(200)]


def manager(
    *windows: int | None, num_pages: int = 20, prefix_cache: bool = True, name_page: object = None
) -> KVManager:
    options = {} if name_page is None else {"name_page": name_page}
    return KVManager(
        kv_groups(*(windows or (None,))),
        num_pages=num_pages,
        numerics=b"test",
        prefix_cache=prefix_cache,
        **options,  # type: ignore[arg-type]
    )


def sequence(
    kv: KVManager, num_tokens: int, *, tenant: str = "", hits: bool = True
) -> SequencePages:
    return kv.open(TOKENS[:num_tokens], tenant=tenant, adapter="none", takes_hits=hits)


def start(
    kv: KVManager, pages: SequencePages, head: HeadStart | None = None, *, whole: bool = False
) -> StepPlan:
    plan = StepPlan(0)
    head = kv.match(pages) if head is None else head
    assert kv.fits(head, len(pages.token_ids), whole=whole)
    kv.start(pages, head, len(pages.token_ids), whole=whole, slot=3, plan=plan)
    return plan


def compute(kv: KVManager, num_tokens: int, *, release: bool = True) -> SequencePages:
    """A sequence of so many tokens comes, is computed, and goes."""
    pages = sequence(kv, num_tokens)
    start(kv, pages)
    kv.grow(pages, num_tokens, slot=0, plan=StepPlan(0))
    kv.advance(pages, num_tokens)
    if release:
        kv.release(pages)
    return pages


def counts(kv: KVManager) -> list[tuple[int, int, int]]:
    return [(g.pool.num_free, g.pool.num_cached, g.pool.num_held) for g in kv.groups]


def test_a_start_gets_pages_for_all_known_tokens() -> None:
    kv = manager()
    pages = sequence(kv, 40)
    plan = start(kv, pages)
    assert plan.page_assignments == [(3, 0, 0, 1), (3, 0, 1, 2), (3, 0, 2, 3)]
    assert pages.capacity == 48
    assert counts(kv) == [(16, 0, 3)]


def test_growing() -> None:
    kv = manager(num_pages=5)
    pages = sequence(kv, 16)
    start(kv, pages)
    assert kv.room(pages) == 64
    plan = StepPlan(0)
    kv.grow(pages, 17, slot=3, plan=plan)
    assert plan.page_assignments == [(3, 0, 1, 2)]
    assert (pages.capacity, kv.room(pages)) == (32, 64)


@pytest.mark.parametrize(
    ("num_tokens", "found"), [(1, 0), (16, 0), (17, 16), (32, 16), (33, 32), (100, 48)]
)
def test_a_hit_ends_at_a_border_and_leaves_a_token_to_compute(num_tokens: int, found: int) -> None:
    kv = manager()
    compute(kv, 48)
    assert kv.match(sequence(kv, num_tokens)).num_tokens == found


def test_a_hit_shares_pages() -> None:
    kv = manager()
    first = compute(kv, 40, release=False)
    second = sequence(kv, 40)
    plan = start(kv, second)
    assert second.tables[0][:2] == first.tables[0][:2]
    assert second.tables[0][2] != first.tables[0][2]
    assert [page for _, _, _, page in plan.page_assignments] == second.tables[0]
    assert counts(kv) == [(15, 0, 4)]


def test_only_confirmed_full_pages_are_found() -> None:
    kv = manager()
    pages = sequence(kv, 40)
    start(kv, pages)
    assert kv.match(sequence(kv, 40)).num_tokens == 0
    kv.advance(pages, 31)
    assert kv.match(sequence(kv, 40)).num_tokens == 16
    kv.advance(pages, 32)
    assert kv.match(sequence(kv, 40)).num_tokens == 32


def test_who_takes_no_hits_publishes_all_the_same() -> None:
    kv = manager()
    compute(kv, 40)
    scored = sequence(kv, 40, hits=False)
    assert kv.match(scored).num_tokens == 0
    start(kv, scored)
    kv.advance(scored, 40)
    kv.release(scored)
    assert kv.match(sequence(kv, 40)).num_tokens == 32


def test_tenants_find_nothing_of_each_other() -> None:
    kv = manager()
    compute(kv, 40)
    assert kv.match(sequence(kv, 40, tenant="other")).num_tokens == 0


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    kv = manager(prefix_cache=False)
    compute(kv, 48)
    assert counts(kv) == [(19, 0, 0)]
    assert kv.match(sequence(kv, 48)).num_tokens == 0


def test_the_tail_of_a_sequence_is_evicted_before_its_head() -> None:
    kv = manager(num_pages=5)
    compute(kv, 64)
    assert counts(kv) == [(0, 4, 0)]
    kv.groups[0].pool.take()
    assert kv.match(sequence(kv, 65)).num_tokens == 48
    kv.groups[0].pool.take()
    assert kv.match(sequence(kv, 65)).num_tokens == 32


def test_what_failed_is_forgotten() -> None:
    kv = manager()
    pages = compute(kv, 48, release=False)
    kv.release(pages, keep=False)
    assert counts(kv) == [(19, 0, 0)]
    assert kv.match(sequence(kv, 48)).num_tokens == 0


def test_releasing_nothing_changes_nothing() -> None:
    kv = manager()
    pages = sequence(kv, 48)
    kv.release(pages)
    assert kv.num_changes == 0
    assert counts(kv) == [(19, 0, 0)]


def test_fits_counts_cached_pages_once() -> None:
    kv = manager(num_pages=4)
    compute(kv, 33)  # two cached pages, one free
    pages = sequence(kv, 48)
    head = kv.match(pages)
    assert head.num_tokens == 32
    assert kv.fits(head, 48, whole=False)
    assert not kv.fits(head, 49, whole=False), "the two that are found cannot also be evicted"
    assert not kv.fits(head, 48, whole=False, headroom=1)
    assert kv.fits(head, 48, whole=False, headroom=1, returned=(1,))


def test_names_collide() -> None:
    """With a hash of one bit everything collides; nobody finds what is not their own."""

    def name_page(parent: PageName, content: bytes) -> PageName:
        return bytes([content[0] & 1])

    kv = manager(name_page=name_page)
    first = kv.open([1] * 40, tenant="", adapter="none", takes_hits=True)
    start(kv, first)
    kv.advance(first, 40)
    other = kv.open([3] * 40, tenant="", adapter="none", takes_hits=True)
    assert kv.match(other).num_tokens == 0
    same = kv.open([1] * 40, tenant="", adapter="none", takes_hits=True)
    assert kv.match(same).num_tokens == 16, "its second page collides with its first"
    start(kv, other)
    kv.advance(other, 40)
    kv.release(other)
    assert kv.match(same).num_tokens == 16


class TestWindows:
    """A group with a window W keeps the W - 1 tokens before the next one, in whole pages."""

    def test_pages_leave_the_window(self) -> None:
        kv = manager(None, 20, num_pages=20)
        pages = compute(kv, 100, release=False)
        # The token at 100 sees 81 to 100: page 5 is the first that it needs.
        assert pages.tables[1][:5] == [NOBODY] * 5
        assert NOBODY not in pages.tables[1][5:]
        assert NOBODY not in pages.tables[0]
        assert pages.dropped == [0, 5]
        assert counts(kv) == [(12, 0, 7), (12, 5, 2)]

    def test_a_start_gets_about_a_window(self) -> None:
        kv = manager(20)
        pages = sequence(kv, 200)
        start(kv, pages)
        assert len(pages.tables[0]) == 4  # 19 tokens before, the token's own page, one in flight
        assert kv.room(pages) == 19 * PAGE_SIZE

    def test_a_start_that_computes_everything_again_gets_all(self) -> None:
        kv = manager(20)
        pages = sequence(kv, 200)
        start(kv, pages, whole=True)
        assert len(pages.tables[0]) == 13

    def test_a_hit_needs_the_pages_of_the_last_window_only(self) -> None:
        kv = manager(None, 20)
        compute(kv, 100)
        pages = sequence(kv, 100)
        for page in kv_pages(kv, pages, 1, range(4)):
            kv.groups[1].index.remove(page)
        head = kv.match(pages)
        assert head.num_tokens == 96
        assert head.tables[1][:4] == [NOBODY] * 4
        assert NOBODY not in head.tables[1][4:]

    def test_a_hit_is_what_all_groups_can_serve(self) -> None:
        kv = manager(None, 20)
        compute(kv, 100)
        pages = sequence(kv, 100)
        (page,) = kv_pages(kv, pages, 1, range(4, 5))
        kv.groups[1].index.remove(page)
        assert kv.match(pages).num_tokens == 64, "page 4 is needed for 80 and 96 tokens"
        (page,) = kv_pages(kv, pages, 0, range(2, 3))
        kv.groups[0].index.remove(page)
        assert kv.match(pages).num_tokens == 32, "the full group lacks page 2"

    def test_windows_alone_may_lack_the_head(self) -> None:
        kv = manager(16)
        compute(kv, 100)
        pages = sequence(kv, 100)
        for page in kv_pages(kv, pages, 0, range(5)):
            kv.groups[0].index.remove(page)
        head = kv.match(pages)
        assert (head.num_tokens, list(head.tables[0])) == (96, [NOBODY] * 5 + [head.tables[0][5]])

    def test_longest_sequence(self) -> None:
        assert manager(None, num_pages=11).max_tokens(whole=False) == 160
        assert manager(20, num_pages=11).max_tokens(whole=False) is None
        assert manager(20, num_pages=11).max_tokens(whole=True) == 160
        assert manager(20, num_pages=4).max_tokens(whole=False) == 48, "less than a window needs"
        assert manager(None, 20, num_pages=11).max_tokens(whole=False) == 160


def kv_pages(kv: KVManager, pages: SequencePages, group: int, indices: range) -> list[int]:
    """Where the contents of these pages of a sequence are."""
    found = []
    for index in indices:
        node = kv._node(pages, index)
        assert node is not None
        page = kv.groups[group].index.find(node)
        assert page is not None
        found.append(page)
    return found


class TestForks:
    """Full pages are shared, the page in which the head ends is copied."""

    def test_within_a_page(self) -> None:
        kv = manager()
        parent = compute(kv, 40, release=False)
        head = kv.fork(parent, 39)
        assert head is not None
        assert head.is_fork
        child = sequence(kv, 40)
        plan = start(kv, child, head)
        assert child.tables[0][:2] == parent.tables[0][:2]
        assert plan.page_copies == [(0, parent.tables[0][2], child.tables[0][2])]
        assert counts(kv) == [(15, 0, 4)]

    def test_at_a_border(self) -> None:
        kv = manager()
        parent = compute(kv, 33, release=False)
        head = kv.fork(parent, 32)
        assert head is not None
        child = sequence(kv, 33)
        plan = start(kv, child, head)
        assert plan.page_copies == []
        assert child.tables[0][:2] == parent.tables[0][:2]
        assert child.tables[0][2] != parent.tables[0][2]

    def test_without_a_prefix_cache(self) -> None:
        kv = manager(prefix_cache=False)
        parent = compute(kv, 40, release=False)
        head = kv.fork(parent, 39)
        assert head is not None
        start(kv, sequence(kv, 40), head)
        assert counts(kv) == [(15, 0, 4)]

    def test_windows(self) -> None:
        kv = manager(None, 20)
        parent = compute(kv, 70, release=False)
        head = kv.fork(parent, 69)
        assert head is not None
        child = sequence(kv, 70)
        plan = start(kv, child, head)
        assert child.tables[1][:3] == [NOBODY] * 3
        assert child.tables[1][3] == parent.tables[1][3]
        assert [copy[:2] for copy in plan.page_copies] == [
            (0, parent.tables[0][4]),
            (1, parent.tables[1][4]),
        ]

    def test_not_from_a_sibling_whose_window_has_moved_on(self) -> None:
        kv = manager(None, 20)
        parent = compute(kv, 100, release=False)
        assert kv.fork(parent, 99) is not None
        assert kv.fork(parent, 39) is None
