"""The reference backend against what transformers gave once (``make_parity.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.architectures import CASES, Case
from tests.forward import TinyRun

MAX_DIFFERENCE = 2e-4
GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "parity.json").read_text())[
    "cases"
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_and_greedy_tokens_equal(case: Case, tmp_path: Path) -> None:
    golden = GOLDEN[case.name]
    run = TinyRun(case.write(tmp_path), max_model_len=case.max_model_len)
    prompt_ids, greedy = case.prompt_ids(), golden["greedy"]

    assert run.greedy(prompt_ids, len(greedy)) == greedy
    logits = run.prompt_logits([*prompt_ids, *greedy[:-1]])
    rows = {"first_logits": 0, "prompt_logits": len(prompt_ids) - 1, "last_logits": -1}
    for name, row in rows.items():
        expected = golden[name]
        step = logits.shape[1] // len(expected)
        found = logits[row, ::step][: len(expected)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=MAX_DIFFERENCE)


def test_no_case_is_left_out() -> None:
    assert set(GOLDEN) == {case.name for case in CASES}
