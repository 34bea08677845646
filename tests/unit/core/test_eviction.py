"""Eviction policies order keys; least recently used is compared with a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.eviction import EvictionPolicy, LeastRecentlyUsed


def test_nothing_to_evict() -> None:
    with pytest.raises(LookupError, match="nothing to evict"):
        LeastRecentlyUsed[int]().victim()


def test_asking_for_the_victim_does_not_remove_it() -> None:
    policy: EvictionPolicy[str] = LeastRecentlyUsed()
    policy.add("a")
    policy.add("b")
    assert (policy.victim(), policy.victim(), len(policy)) == ("a", "a", 2)
    policy.touch("a")
    assert policy.victim() == "b"
    policy.remove("b")
    assert "b" not in policy
    assert policy.victim() == "a"


def test_a_key_is_added_once() -> None:
    policy = LeastRecentlyUsed[int]()
    policy.add(1)
    with pytest.raises(AssertionError):
        policy.add(1)


@given(st.lists(st.tuples(st.sampled_from(["use", "remove", "evict"]), st.integers(0, 5))))
def test_least_recently_used_is_a_list_in_the_order_of_use(steps: list[tuple[str, int]]) -> None:
    policy, oldest_first = LeastRecentlyUsed[int](), list[int]()
    for action, key in steps:
        if action == "use":
            if key in oldest_first:
                policy.touch(key)
                oldest_first.remove(key)
            else:
                policy.add(key)
            oldest_first.append(key)
        elif action == "remove" and key in oldest_first:
            policy.remove(key)
            oldest_first.remove(key)
        elif action == "evict" and oldest_first:
            assert policy.victim() == oldest_first[0]
            policy.remove(oldest_first.pop(0))
        assert len(policy) == len(oldest_first)
        assert [key in policy for key in range(6)] == [key in oldest_first for key in range(6)]
