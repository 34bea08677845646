"""What is counted as copied can only have been copied."""

from __future__ import annotations

import re

import pytest

from made_stories import PLOTS
from measure import NEW_DOINGS, NEW_NAMES, NEW_THINGS

MATERIAL = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PLOTS.rglob("*.toml")))


@pytest.mark.parametrize("word", [*NEW_NAMES, *NEW_THINGS, *NEW_DOINGS])
def test_it_is_in_no_list(word: str) -> None:
    assert MATERIAL
    assert not re.search(rf"\b{word}s?\b", MATERIAL, re.IGNORECASE)
