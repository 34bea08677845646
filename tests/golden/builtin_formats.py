"""The formats in which the built-in model's greedy answers are kept, and how they are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octavo import LLM, SamplingParams
from octavo._native import instruction_sets
from octavo.core.config import EngineConfig

HERE = Path(__file__).parent
TARGET = HERE / "builtin_formats.json"
CASES: list[dict[str, Any]] = json.loads((HERE / "builtin.json").read_text())["cases"]

FORMATS: dict[str, dict[str, str]] = {
    "default": {},
    "f32": {"weights": "f32"},
    "bf16": {"weights": "bf16"},
    "w8": {"weights": "w8", "kv": "int8"},
    "w4": {"weights": "w4", "kv": "int8"},
}
ANY, BF16, FMA = "any", "bf16", "fma"
"""Instruction sets that give the same bits; bf16 arithmetic has two families of them."""


def family_of(options: dict[str, str], instruction_set: str) -> str:
    """Whose bits an engine with these options has under an instruction set."""
    config = EngineConfig.from_options(options)
    if "bf16" not in (config.weight_format, config.kv_format):
        return ANY
    return BF16 if instruction_set in ("avx512bf16", "amx") else FMA


def families(options: dict[str, str]) -> dict[str, str]:
    """Each family that this machine has, with the fastest instruction set of it."""
    return {family_of(options, name): name for name in instruction_sets()}


def answers(options: dict[str, str]) -> list[list[int]]:
    """Greedy token ids after the beginnings of the card, as many as transformers was asked for."""
    params = [SamplingParams(max_tokens=len(case["ids"]), temperature=0.0) for case in CASES[:3]]
    with LLM(**options) as llm:
        outputs = llm.generate([case["prompt"] for case in CASES[:3]], params)
    return [list(output.choices[0].token_ids) for output in outputs]
