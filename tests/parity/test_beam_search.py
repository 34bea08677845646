"""Beam searches of several families and settings against Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architectures import Case
from tests.beam_cases import MODELS, assert_found, beam_cases

pytest.importorskip("torch", reason="needs the extra `parity`")
pytest.importorskip("transformers", reason="needs the extra `parity`")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_sequences_and_scores_equal(model: Case, tmp_path: Path) -> None:
    from tests.parity.beam_oracle import beam_search

    folder = model.write(tmp_path)
    for case in beam_cases():
        if case.model is model:
            assert_found(case.search(folder, weights="f32"), beam_search(folder, case))
