"""Logits and greedy tokens of every family and option against Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.architectures import CASES, NUM_GREEDY, Case
from tests.forward import TinyRun

pytest.importorskip("torch", reason="needs the extra `parity`")
pytest.importorskip("transformers", reason="needs the extra `parity`")

pytestmark = pytest.mark.parity

MAX_DIFFERENCE = 2e-4
MIN_MARGIN = 2 * MAX_DIFFERENCE
"""Between the two best logits of a greedy step; with less, rounding might choose."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_and_greedy_tokens_equal(case: Case, tmp_path: Path) -> None:
    from tests.parity.oracle import Oracle

    folder = case.write(tmp_path)
    run = TinyRun(folder, max_model_len=case.max_model_len)
    oracle = Oracle(folder, max_model_len=run.limits.max_model_len)
    prompt_ids = case.prompt_ids()
    num_greedy = min(NUM_GREEDY, run.limits.max_model_len - len(prompt_ids))

    expected, margin = oracle.greedy(prompt_ids, num_greedy)
    assert margin > MIN_MARGIN, "choose another seed for this case"
    assert run.greedy(prompt_ids, num_greedy) == expected
    assert len(set(expected)) > 5

    whole = prompt_ids + expected[:-1]
    difference = np.abs(run.prompt_logits(whole) - oracle.logits(whole)).max()
    assert difference < MAX_DIFFERENCE
