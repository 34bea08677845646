"""What each format makes of the outliers that large models have, planted into the built-in one.

Eight bits of what a norm gives lose much there, and eight bits of a key with such a bias too;
sixteen bits lose next to nothing. The figures are in docs/concepts/kernels.md.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from made_stories import Teller
from octavo.bench.quality import BASELINE, Format, QualityJob, QualityRow, measure_quality
from octavo.models.builtin import builtin_folder
from tests.outliers import plant_outliers

NUM_STORIES = 4


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    teller = Teller(random.Random(7))
    path = tmp_path_factory.mktemp("outliers") / "stories.txt"
    path.write_text("#".join(teller.story().text for _ in range(NUM_STORIES)), encoding="utf-8")
    return path


def rows(folder: Path, text: Path, *formats: str) -> dict[str, QualityRow]:
    job = QualityJob(
        folder=str(folder),
        model="built-in",
        text=str(text),
        separator="#",
        context=None,
        limit_tokens=None,
        formats=tuple(Format.parse(name) for name in formats),
        options={"num_threads": 1},
    )
    states = [state.row for state in measure_quality(job) if state.row is not None]
    return {row.format: row for row in states}


def kl(row: QualityRow) -> float:
    assert row.kl_mean is not None
    return row.kl_mean


def test_what_norms_make_fifty_times_as_large(text: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    plant_outliers(builtin_folder(), planted, key_bias=False)
    clean = rows(builtin_folder(), text, "w8/bf16", "w4/bf16")
    found = rows(planted, text, "bf16/bf16", "w8/bf16", "w4/bf16")
    plain, moved = (every[BASELINE.name].perplexity for every in (clean, found))
    assert moved == pytest.approx(plain, rel=1e-4), "what it computes has not changed"
    assert kl(found["bf16/bf16"]) < 1e-4
    for name in ("w8/bf16", "w4/bf16"):
        assert kl(clean[name]) < 0.05
        assert kl(found[name]) < 0.2
    assert kl(found["w8/bf16"]) > 5 * kl(clean["w8/bf16"])


def test_keys_with_a_large_bias(text: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    plant_outliers(builtin_folder(), planted, norms=False)
    clean = rows(builtin_folder(), text, "f32/int8")
    found = rows(planted, text, "f32/bf16", "f32/int8", "w8/bf16")
    assert kl(found["f32/bf16"]) < 0.001
    assert kl(found["w8/bf16"]) < 0.003
    assert kl(clean["f32/int8"]) < 0.0005
    assert 5 * kl(clean["f32/int8"]) < kl(found["f32/int8"]) < 0.1
