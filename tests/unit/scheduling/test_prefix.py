"""PageNames and PrefixIndex: equal content is one node, and no collision of hashes can lie."""

from __future__ import annotations

import gc

import pytest

from octavo.core.hashing import chain_root, page_name
from octavo.core.kv_layout import PAGE_SIZE
from octavo.scheduling.prefix import PageNames, PageNode, PrefixIndex

PAGE_A, PAGE_B = list(range(PAGE_SIZE)), list(range(100, 100 + PAGE_SIZE))


def root_of(names: PageNames, tenant: str = "", adapter: str = "none") -> PageNode:
    root = names.root(tenant=tenant, adapter=adapter)
    assert root is not None
    return root


def test_equal_content_is_one_node() -> None:
    names = PageNames(b"numerics")
    one = names.child(root_of(names), PAGE_A)
    assert one is not None
    assert names.child(root_of(names), tuple(PAGE_A)) is one


def test_names_are_those_of_core_hashing() -> None:
    names = PageNames(b"numerics")
    node = names.child(root_of(names, "t", "a"), PAGE_A)
    assert node is not None
    content = b"".join(token.to_bytes(4, "little") for token in PAGE_A)
    assert node.name == page_name(chain_root(b"numerics", tenant="t", adapter="a"), content)


@pytest.mark.parametrize(("tenant", "adapter"), [("x", "none"), ("", "other"), ("n", "one")])
def test_tenants_and_adapters_share_nothing(tenant: str, adapter: str) -> None:
    names = PageNames(b"numerics")
    ours = names.child(root_of(names), PAGE_A)
    theirs = names.child(root_of(names, tenant, adapter), PAGE_A)
    assert ours is not None
    assert theirs is not None
    assert ours is not theirs
    assert ours.name != theirs.name


def test_what_came_before_is_part_of_the_content() -> None:
    names = PageNames(b"")
    root = root_of(names)
    first = names.child(root, PAGE_A)
    assert first is not None
    assert names.child(first, PAGE_B) is not names.child(root, PAGE_B)


def test_a_collision_gives_no_node() -> None:
    names = PageNames(b"", name_page=lambda parent, content: b"always the same")
    root = root_of(names)
    first = names.child(root, PAGE_A)
    assert first is not None
    assert names.child(root, PAGE_A) is first
    assert names.child(root, PAGE_B) is None, "other tokens"
    assert names.child(first, PAGE_A) is None, "another parent"


def test_nodes_live_as_long_as_somebody_refers_to_them() -> None:
    names = PageNames(b"")
    root = root_of(names)
    node = names.child(root, PAGE_A)
    assert node is not None
    leaf = names.child(node, PAGE_B)
    assert len(names._nodes) == 3
    del node
    gc.collect()
    assert len(names._nodes) == 3, "the leaf keeps its parents"
    del leaf
    gc.collect()
    assert len(names._nodes) == 1


def test_a_very_long_chain_can_be_dropped() -> None:
    names = PageNames(b"")
    node: PageNode | None = root_of(names)
    for _ in range(50_000):  # 800,000 tokens
        assert node is not None
        node = names.child(node, PAGE_A)
    del node
    gc.collect()
    assert len(names._nodes) == 0


def test_index_finds_and_forgets() -> None:
    names, index = PageNames(b""), PrefixIndex()
    one, other = names.child(root_of(names), PAGE_A), names.child(root_of(names), PAGE_B)
    assert one is not None
    assert other is not None
    index.insert(one, 3)
    index.insert(other, 4)
    assert (index.find(one), index.find(other), len(index)) == (3, 4, 2)
    assert 3 in index
    index.remove(3)
    assert (index.find(one), index.find(other), len(index)) == (None, 4, 1)
    assert 3 not in index


def test_of_two_pages_with_one_content_the_first_is_known() -> None:
    names, index = PageNames(b""), PrefixIndex()
    node = names.child(root_of(names), PAGE_A)
    assert node is not None
    index.insert(node, 3)
    index.insert(node, 4)
    assert index.find(node) == 3
    assert 4 not in index


def test_a_page_has_one_name() -> None:
    names, index = PageNames(b""), PrefixIndex()
    one, other = names.child(root_of(names), PAGE_A), names.child(root_of(names), PAGE_B)
    assert one is not None
    assert other is not None
    index.insert(one, 3)
    with pytest.raises(AssertionError, match="page 3 has a name"):
        index.insert(other, 3)
