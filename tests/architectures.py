"""Tiny models of every family and option: what parity with transformers is checked on.

Shared by the parity tests, which need PyTorch, and by the golden files, which stand in for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import write_tiny_model

NUM_GREEDY = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One model, and a prompt for it."""

    name: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    num_prompt_tokens: int = 21
    max_model_len: int | None = None
    bare_names: bool = False
    """Tensors are named as by a model saved without its head."""
    seed: int = 0
    """Such that greedy tokens vary, and that no two best logits are nearly equal."""

    def write(self, folder: Path) -> Path:
        """Write the model's folder."""
        rename = _without_prefix if self.bare_names else str
        return write_tiny_model(folder, self.family, seed=self.seed, rename=rename, **self.options)

    def prompt_ids(self) -> list[int]:
        vocab_size = self.options.get("vocab_size", 256)
        raw = np.random.PCG64([self.seed, *self.name.encode()]).random_raw(self.num_prompt_tokens)
        return (raw % np.uint64(vocab_size)).tolist()


def _without_prefix(name: str) -> str:
    return name.removeprefix("transformer.").removeprefix("model.")


ODD = {
    "vocab_size": 131,
    "hidden_size": 45,
    "intermediate_size": 37,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 14,
    "num_hidden_layers": 3,
}
FEW_POSITIONS = {"max_position_embeddings": 32}
LONG_FACTORS = {
    "short_factor": [1.0, 1.05, 1.1, 1.4],
    "long_factor": [1.0, 1.5, 3.0, 7.5],
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def _scaled(**settings: object) -> dict[str, Any]:
    return {"rope_scaling": settings}


CASES = (
    Case("llama", "llama"),
    Case("llama_odd_sizes", "llama", ODD),
    Case("llama_one_kv_head", "llama", {"num_key_value_heads": 1}),
    Case("llama_four_kv_heads", "llama", {"num_key_value_heads": 4}),
    Case("llama_kv_heads_not_said", "llama", {"num_key_value_heads": None}),
    Case("llama_tied", "llama", {"tie_word_embeddings": True}),
    Case("llama_biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama_attention_bias", "llama", {"attention_bias": True, "tie_word_embeddings": True}),
    Case("llama_head_dim", "llama", {"head_dim": 20}),
    Case("llama_gelu", "llama", {"hidden_act": "gelu_pytorch_tanh"}),
    Case("llama_relu", "llama", {"hidden_act": "relu"}, seed=1),
    Case("llama_theta", "llama", {"rope_theta": 500000.0, "rms_norm_eps": 1e-3}),
    Case("llama_one_token", "llama", num_prompt_tokens=1),
    Case("llama_two_chunks", "llama", num_prompt_tokens=300),
    Case("rope_linear", "llama", _scaled(type="linear", factor=2.5)),
    Case("rope_linear_theta", "llama", _scaled(rope_type="linear", factor=2.5, rope_theta=777.0)),
    Case(
        "rope_parameters",
        "llama",
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    ),
    Case("rope_dynamic_within", "llama", _scaled(type="dynamic", factor=3.0), seed=2),
    Case(
        "rope_dynamic_beyond",
        "llama",
        {**FEW_POSITIONS, **_scaled(type="dynamic", factor=3.0)},
        num_prompt_tokens=25,
        max_model_len=96,
    ),
    Case(
        "rope_llama3",
        "llama",
        {
            "rope_theta": 500.0,
            **_scaled(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        },
    ),
    Case("rope_yarn", "llama", {"rope_scaling": YARN}),
    Case(
        "rope_yarn_parameters",
        "qwen3",
        {"rope_theta": None, "rope_parameters": {**YARN, "rope_theta": 5000.0, "beta_fast": 8}},
    ),
    Case(
        "rope_yarn_settings",
        "llama",
        {
            "rope_scaling": {
                **YARN,
                "attention_factor": 0.9,
                "beta_fast": 4.0,
                "beta_slow": 0.5,
                "truncate": False,
            }
        },
    ),
    Case(
        "rope_yarn_mscale",
        "llama",
        {"rope_scaling": {**YARN, "mscale": 2.0, "mscale_all_dim": 1.0}},
    ),
    Case(
        "rope_longrope_short",
        "llama",
        {"max_position_embeddings": 128, **_scaled(rope_type="longrope", **LONG_FACTORS)},
        num_prompt_tokens=9,
        max_model_len=32,
    ),
    Case(
        "rope_longrope_long",
        "llama",
        {"max_position_embeddings": 128, **_scaled(rope_type="longrope", **LONG_FACTORS)},
        max_model_len=128,
    ),
    Case(
        "rope_longrope_factor",
        "qwen2",
        {**FEW_POSITIONS, **_scaled(rope_type="longrope", factor=4.0, **LONG_FACTORS)},
        max_model_len=128,
        seed=1,
    ),
    Case("mistral", "mistral"),
    Case("mistral_window", "mistral", {"sliding_window": 7}),
    Case("mistral_window_of_one", "mistral", {"sliding_window": 1}, seed=1),
    Case("mistral_two_chunks", "mistral", {"sliding_window": 270}, num_prompt_tokens=290),
    Case("mistral_head_dim", "mistral", {"sliding_window": 16, "head_dim": 12}, seed=1),
    Case("qwen2", "qwen2"),
    Case("qwen2_tied", "qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    Case(
        "qwen2_windows_from_a_layer_on",
        "qwen2",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 2,
        },
    ),
    Case("qwen2_window_not_used", "qwen2", {"sliding_window": 5, "max_window_layers": 0}, seed=2),
    Case(
        "qwen2_layer_types",
        "qwen2",
        {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    Case("qwen3", "qwen3"),
    Case("qwen3_odd_sizes", "qwen3", {**ODD, "tie_word_embeddings": True}),
    Case("qwen3_bias", "qwen3", {"attention_bias": True}),
    Case(
        "qwen3_windows",
        "qwen3",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 40,
            "max_window_layers": 1,
        },
        num_prompt_tokens=60,
        seed=1,
    ),
    Case("gpt2", "gpt2"),
    Case("gpt2_bare_names", "gpt2", bare_names=True),
    Case("gpt2_odd_sizes", "gpt2", {"vocab_size": 97, "n_embd": 33, "n_head": 3, "n_inner": 41}),
    Case("gpt2_untied", "gpt2", {"tie_word_embeddings": False}, seed=1),
    Case("gpt2_scales", "gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 4}),
    Case(
        "gpt2_unscaled",
        "gpt2",
        {"scale_attn_weights": False, "activation_function": "relu"},
        seed=1,
    ),
)
