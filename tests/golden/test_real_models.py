"""Greedy output of small trained models against what their makers' code gives.

The models lie beside the repository where they are at all.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forward import TinyRun

MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"


@pytest.mark.parametrize("name", ["stories260K", "story-656k"])
def test_greedy_tokens_equal(name: str) -> None:
    folder = MODELS / name
    if not folder.is_dir():
        pytest.skip(f"the real model {name} is not beside the repository")
    golden = json.loads((folder / "golden_greedy.json").read_text())
    prompt_ids = golden["prompt_ids"]
    expected = golden["ids"][len(prompt_ids) :]
    assert len(expected) >= 64
    assert TinyRun(folder).greedy(prompt_ids, len(expected)) == expected
