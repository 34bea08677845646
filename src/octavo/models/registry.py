"""Which function builds the program of which architecture.

A new architecture is one file with a builder, an entry here, and its fields in ``spec.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from octavo.models.gpt2 import build_gpt2
from octavo.models.llama import build_llama
from octavo.models.spec import ModelSpec
from octavo.program.ir import Program

BUILDERS: dict[str, Callable[[ModelSpec, int], Program]] = {
    "LlamaForCausalLM": build_llama,
    "MistralForCausalLM": build_llama,
    "Qwen2ForCausalLM": build_llama,
    "Qwen3ForCausalLM": build_llama,
    "GPT2LMHeadModel": build_gpt2,
}


def build(spec: ModelSpec, max_model_len: int) -> Program:
    """The program of a model for sequences of at most ``max_model_len`` tokens.

    ``max_model_len`` is what ``spec.resolve_max_model_len`` gave; it fixes the rotary angles.
    """
    return BUILDERS[spec.architecture](spec, max_model_len)
