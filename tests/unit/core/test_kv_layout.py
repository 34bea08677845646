"""Pages and windows in numbers."""

from __future__ import annotations

import pytest

from octavo.core.kv_layout import KVGroup, pages_for


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_pages_for(tokens: int, pages: int) -> None:
    assert pages_for(tokens) == pages


@pytest.mark.parametrize(
    ("window", "position", "first"),
    [(None, 1000, 0), (1, 7, 7), (4, 0, 0), (4, 3, 0), (4, 4, 1), (4, 100, 97)],
)
def test_a_token_sees_itself_and_the_window_before_it(
    window: int | None, position: int, first: int
) -> None:
    group = KVGroup(window=window, layers=(0,), num_kv_heads=1, head_dim=4)
    assert group.first_needed(position) == first
