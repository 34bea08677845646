"""PagePool: every page is free, cached or held."""

from __future__ import annotations

import pytest

from octavo.core.eviction import LeastRecentlyUsed
from octavo.scheduling.pages import NOBODY, PagePool


@pytest.fixture
def forgotten() -> list[int]:
    return []


@pytest.fixture
def pool(forgotten: list[int]) -> PagePool:
    return PagePool(5, eviction=LeastRecentlyUsed(), forget=forgotten.append)


def counts(pool: PagePool) -> tuple[int, int, int]:
    return pool.num_free, pool.num_cached, pool.num_held


def test_page_0_belongs_to_nobody(pool: PagePool) -> None:
    assert counts(pool) == (4, 0, 0)
    taken = {pool.take() for _ in range(4)}
    assert taken == {1, 2, 3, 4}
    assert NOBODY not in taken


def test_nothing_left(pool: PagePool) -> None:
    for _ in range(4):
        pool.take()
    assert pool.num_available == 0
    with pytest.raises(LookupError):
        pool.take()


def test_a_shared_page_is_free_when_the_last_holder_gives_it_back(pool: PagePool) -> None:
    page = pool.take()
    pool.share(page)
    assert pool.references(page) == 2
    assert pool.release(page, keep=False) is False
    assert counts(pool) == (3, 0, 1)
    assert pool.release(page, keep=False) is True
    assert counts(pool) == (4, 0, 0)


def test_a_kept_page_is_cached_and_can_be_held_again(pool: PagePool) -> None:
    page = pool.take()
    assert pool.release(page, keep=True) is False
    assert counts(pool) == (3, 1, 0)
    assert pool.is_cached(page)
    pool.share(page)
    assert counts(pool) == (3, 0, 1)
    assert not pool.is_cached(page)


def test_free_pages_go_before_cached_ones_and_those_by_age(
    pool: PagePool, forgotten: list[int]
) -> None:
    first, second = pool.take(), pool.take()
    pool.release(second, keep=True)
    pool.release(first, keep=True)
    assert pool.num_available == 4
    assert {pool.take(), pool.take()} == {3, 4}
    assert forgotten == []
    assert [pool.take(), pool.take()] == [second, first]
    assert forgotten == [second, first]
    assert pool.num_evictions == 2


def test_releasing_too_often_is_a_bug(pool: PagePool) -> None:
    page = pool.take()
    pool.release(page, keep=False)
    with pytest.raises(AssertionError, match="too often"):
        pool.release(page, keep=False)
