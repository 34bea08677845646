"""Tiny random models as folders: config.json and model.safetensors, the same for the same seed.

Tensor names and shapes are written down here a second time, not taken from ``octavo.models``, so
that a mistake there cannot hide. A tokenizer is not part of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Shapes = dict[str, tuple[int, ...]]

LLAMA: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

GPT2: dict[str, Any] = {
    "vocab_size": 256,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "bos_token_id": 0,
    "eos_token_id": 1,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **LLAMA},
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        **LLAMA,
        "sliding_window": None,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **LLAMA},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **LLAMA,
        "head_dim": 16,
    },
    "gpt2": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **GPT2},
}
"""The config.json of each family before options."""


def write_tiny_model(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    rename: Callable[[str], str] = str,
    **options: object,
) -> Path:
    """Write a model folder and give it back.

    Args:
        folder: made if it is not there.
        family: llama, mistral, qwen2, qwen3 or gpt2.
        seed: of the weights.
        rename: changes the names of tensors.
        options: fields of config.json that replace or extend the family's.
    """
    config = tiny_config(family, **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {rename(name): tensor for name, tensor in tiny_tensors(config, seed).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tiny_config(family: str, **options: object) -> dict[str, Any]:
    """The config.json of a family with some fields changed."""
    return {**FAMILIES[family], **options}


def tiny_tensors(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Random weights: a layer keeps the size of what goes through it, norms are near 1.

    Each tensor has a generator of its own, so that adding one does not change the others. Only raw
    bits are taken from NumPy, whose distributions may change from one version to the next.
    """
    shapes = _gpt2_shapes(config) if config["model_type"] == "gpt2" else _llama_shapes(config)
    return {name: _random(name, shape, config, seed) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], config: dict[str, Any], seed: int) -> np.ndarray:
    raw = np.random.PCG64([seed, *name.encode()]).random_raw(int(np.prod(shape)))
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    numbers = ((uniform - 0.5) * np.sqrt(12.0)).reshape(shape)  # mean 0, variance 1
    if len(shape) == 1:
        is_norm = name.endswith("weight")
        numbers = 1.0 + 0.2 * numbers if is_norm else 0.2 * numbers
    elif "embed_tokens" in name or "wte" in name:
        numbers = 0.1 * numbers  # small beside what the layers add, or a tied head repeats tokens
    elif "wpe" in name:
        numbers = 0.3 * numbers
    else:
        is_gpt2_layer = config["model_type"] == "gpt2" and "lm_head" not in name
        num_inputs = shape[0] if is_gpt2_layer else shape[1]
        numbers = numbers / np.sqrt(num_inputs)
    return numbers.astype(np.float32)


def _llama_shapes(config: dict[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"] or heads
    head_dim = config.get("head_dim") or hidden // heads
    attention = {
        "q_proj": (heads * head_dim, hidden),
        "k_proj": (kv_heads * head_dim, hidden),
        "v_proj": (kv_heads * head_dim, hidden),
        "o_proj": (hidden, heads * head_dim),
    }
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    biased = set(attention) if config.get("attention_bias") else set()
    if config["model_type"] == "qwen2":
        biased = {"q_proj", "k_proj", "v_proj"}
    if config.get("mlp_bias"):
        biased |= set(mlp)
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        for part, members in (("self_attn", attention), ("mlp", mlp)):
            for name, shape in members.items():
                shapes[f"{prefix}.{part}.{name}.weight"] = shape
                if name in biased:
                    shapes[f"{prefix}.{part}.{name}.bias"] = shape[:1]
        if config["model_type"] == "qwen3":
            shapes[f"{prefix}.self_attn.q_norm.weight"] = (head_dim,)
            shapes[f"{prefix}.self_attn.k_norm.weight"] = (head_dim,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _gpt2_shapes(config: dict[str, Any]) -> Shapes:
    hidden = config["n_embd"]
    inner = config.get("n_inner") or 4 * hidden
    shapes: Shapes = {
        "transformer.wte.weight": (config["vocab_size"], hidden),
        "transformer.wpe.weight": (config["n_positions"], hidden),
    }
    layers = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }
    for layer in range(config["n_layer"]):
        prefix = f"transformer.h.{layer}"
        for name in ("ln_1", "ln_2"):
            shapes |= _layer_norm_shapes(f"{prefix}.{name}", hidden)
        for name, shape in layers.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[1:]
    shapes |= _layer_norm_shapes("transformer.ln_f", hidden)
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _layer_norm_shapes(name: str, hidden: int) -> Shapes:
    return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
