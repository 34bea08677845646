"""Beam searches against what transformers found once (``make_beams.py``)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.architectures import Case
from tests.beam_cases import MODELS, SETTINGS, BeamCase, assert_found, beam_cases

GOLDEN = json.loads((Path(__file__).parent / "beams.json").read_text())["cases"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_sequences_and_scores_equal(model: Case, tmp_path: Path) -> None:
    folder = model.write(tmp_path)
    for case in beam_cases():
        if case.model is model:
            assert_found(case.search(folder, weights="f32"), GOLDEN[case.name])


def test_no_case_is_left_out() -> None:
    assert list(GOLDEN) == [case.name for case in beam_cases()]
    assert len(GOLDEN) == len(MODELS) * len(SETTINGS)


def test_the_cases_are_worth_comparing() -> None:
    """Sequences end early and late, the three ways of stopping differ, no scores are near."""
    endings = {"early": 0, "late": 0}
    for case in beam_cases():
        for (token_ids, score), (_, worse) in itertools.pairwise(GOLDEN[case.name]):
            endings["late" if len(token_ids) == case.max_tokens else "early"] += 1
            assert score - worse > 1e-5 * abs(score), f"{case.name}: choose another seed"
    assert min(endings.values()) > 100, endings
    modes = [
        {json.dumps(GOLDEN[case.name]) for case in beam_cases() if _is_of_triple(case, model)}
        for model in MODELS
    ]
    assert max(map(len, modes)) == 3


def _is_of_triple(case: BeamCase, model: Case) -> bool:
    """Whether the case is one of the model's three that differ only in when they stop."""
    return case.model is model and "-4-40-1.0-" in case.name
