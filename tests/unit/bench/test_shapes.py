"""Shapes: each is a model that loads, and those of peers are exactly theirs."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from octavo.bench.engine import MAX_MODEL_LEN, METRICS, missing_metrics
from octavo.bench.shapes import SHAPES, write_shape
from octavo.core.errors import ConfigError
from octavo.models.registry import build
from octavo.models.spec import ModelSpec

MILLIONS = {"qwen2.5-0.5b": 494, "tinyllama-1.1b": 1100, "smollm2-135m": 135, "stories15m": 15}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_a_supported_model(name: str, tmp_path: Path) -> None:
    spec = ModelSpec.read(write_shape(name, tmp_path))
    program = build(spec, spec.default_len)
    values = sum(prod(weight.shape) for weight in program.weights())
    if name in MILLIONS:
        assert values / 1e6 == pytest.approx(MILLIONS[name], rel=0.02)
    if name != "nothing":
        assert missing_metrics(METRICS, min(spec.default_len, MAX_MODEL_LEN)) == ()


def test_an_unknown_shape_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown shape") as refusal:
        write_shape("qwen2.5-0.5", tmp_path)
    assert refusal.value.hint == "did you mean 'qwen2.5-0.5b'?"
    with pytest.raises(ConfigError) as refusal:
        write_shape("zzz", tmp_path)
    assert "tinyllama-1.1b" in (refusal.value.hint or "")
