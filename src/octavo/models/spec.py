"""What ``config.json`` says of a model, checked, in one vocabulary for all architectures.

A field that would change the model's numbers is either understood here or refused; nothing is
ignored in silence that matters. How a spec becomes a program is in the architecture's own file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octavo.core.errors import ConfigError, ModelError, UnsupportedModel
from octavo.models.fields import Fields
from octavo.models.rope import Rope, read_rope
from octavo.program.ir import Activation

CONFIG_FILE = "config.json"

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}
"""Names in ``config.json``."""

MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model's shapes and constants."""

    architecture: str
    """As ``architectures`` in config.json names it."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    activation: Activation
    norm_eps: float
    max_positions: int
    """max_position_embeddings."""
    rope: Rope | None
    """None where positions are learned."""
    windows: tuple[int | None, ...]
    """A layer each: tokens that a token sees, itself included; None for all."""
    attention_scales: tuple[float, ...]
    """A layer each: what scores are multiplied by."""
    tied: bool
    """The head is the embedding."""
    qkv_bias: bool
    output_bias: bool
    """Of the attention's output."""
    mlp_bias: bool
    qk_norm: bool
    """Each head of queries and keys is normalised."""

    @classmethod
    def read(cls, folder: Path) -> ModelSpec:
        """The spec of a model folder.

        Raises:
            ModelError: config.json is missing or wrong; the message names the field.
            UnsupportedModel: a sound model with something that is not implemented.
        """
        fields = Fields.read(folder / CONFIG_FILE)
        architecture = _architecture(fields)
        _refuse_unsupported(fields)
        return _READERS[architecture](fields, architecture)

    @property
    def default_len(self) -> int:
        """Tokens of a sequence, unless the user wants another number."""
        return self.max_positions if self.rope is None else self.rope.default_len

    def resolve_max_model_len(self, wanted: int | None) -> int:
        """The longest sequence to serve: what the user wants, or the model's own.

        Raises:
            ConfigError: the model cannot do this many.
        """
        if wanted is None:
            return self.default_len
        longest = self.max_positions if self.rope is None else self.rope.longest_len
        if not 1 <= wanted <= longest:
            raise ConfigError(
                f"max_model_len must be in [1, {longest}] for this model, got {wanted}",
                hint="config.json sets the limit with max_position_embeddings and the rope factor",
            )
        return wanted


def _architecture(fields: Fields) -> str:
    """The one architecture of a configuration, if it is supported."""
    named = fields.values.get("architectures")
    if named is None or named == []:
        model_type = fields.text("model_type")
        architecture = _OF_MODEL_TYPE.get(model_type, f"model_type {model_type}")
    elif isinstance(named, list) and isinstance(named[0], str):
        architecture = named[0]
    else:
        raise fields.error("architectures", "must be a list of strings")
    if architecture not in _READERS:
        raise UnsupportedModel(
            f"{fields.where}: the architecture {architecture} is not supported",
            hint=f"supported are {', '.join(_READERS)}",
        )
    return architecture


def _refuse_unsupported(fields: Fields) -> None:
    """Options that any architecture may carry and that would change its numbers."""
    for name in ("quantization_config", "compression_config"):
        if name in fields:
            raise UnsupportedModel(
                f"{fields.where}: quantised checkpoints ({name}) are not supported",
                hint="use the model's unquantised checkpoint",
            )
    if "auto_map" in fields:
        raise UnsupportedModel(
            f"{fields.where}: the model brings its own code (auto_map), which is never run",
            hint=f"supported without code are {', '.join(_READERS)}",
        )
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        if name in fields and fields.integer(name, low=0) > 1:
            raise UnsupportedModel(
                f"{fields.where}: mixtures of experts ({name}) are not supported"
            )
    for name in ("is_encoder_decoder", "add_cross_attention"):
        if fields.boolean(name, False):
            raise UnsupportedModel(f"{fields.where}: {name} is not supported")


def _activation(fields: Fields, name: str, default: str) -> Activation:
    function = fields.text(name, default)
    if function not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{fields.where}: {name} {function!r} is not supported",
            hint=f"supported are {', '.join(ACTIVATIONS)}",
        )
    return ACTIVATIONS[function]


def _read_llama_family(fields: Fields, architecture: str) -> ModelSpec:
    """Llama, Mistral, Qwen2 and Qwen3: one shape of network, with small differences."""
    hidden_size = fields.integer("hidden_size")
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    num_heads = fields.integer("num_attention_heads")
    if "head_dim" in fields:
        head_dim = fields.integer("head_dim")
    elif architecture == "Qwen3ForCausalLM":
        head_dim = 128
    else:
        head_dim = _divided(fields, "hidden_size", "num_attention_heads")
    num_kv_heads = num_heads
    if "num_key_value_heads" in fields:
        num_kv_heads = fields.integer("num_key_value_heads")
        _divided(fields, "num_attention_heads", "num_key_value_heads")
    attention_bias = mlp_bias = False
    if architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        attention_bias = fields.boolean("attention_bias", False)
    if architecture == "LlamaForCausalLM":
        mlp_bias = fields.boolean("mlp_bias", False)
    windows: tuple[int | None, ...] = (None,) * num_layers
    if architecture == "MistralForCausalLM":
        windows = _one_window(fields, num_layers)
    elif architecture in ("Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        windows = _windows_by_layer(fields, num_layers)
    return ModelSpec(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        activation=_activation(fields, "hidden_act", "silu"),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        max_positions=fields.integer("max_position_embeddings"),
        rope=read_rope(fields, head_dim=head_dim),
        windows=windows,
        attention_scales=(head_dim**-0.5,) * num_layers,
        tied=fields.boolean("tie_word_embeddings", False),
        qkv_bias=attention_bias or architecture == "Qwen2ForCausalLM",
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
        qk_norm=architecture == "Qwen3ForCausalLM",
    )


def _read_gpt2(fields: Fields, architecture: str) -> ModelSpec:
    hidden_size = fields.integer("n_embd")
    num_layers = fields.integer("n_layer", high=MAX_LAYERS)
    num_heads = fields.integer("n_head")
    head_dim = _divided(fields, "n_embd", "n_head")
    scale = head_dim**-0.5 if fields.boolean("scale_attn_weights", True) else 1.0
    scales = (scale,) * num_layers
    if fields.boolean("scale_attn_by_inverse_layer_idx", False):
        scales = tuple(scale / (layer + 1) for layer in range(num_layers))
    return ModelSpec(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("n_inner", 4 * hidden_size),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        activation=_activation(fields, "activation_function", "gelu_new"),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        max_positions=fields.integer("n_positions"),
        rope=None,
        windows=(None,) * num_layers,
        attention_scales=scales,
        tied=fields.boolean("tie_word_embeddings", True),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        qk_norm=False,
    )


def _divided(fields: Fields, size: str, parts: str) -> int:
    """One field divided by another one."""
    whole, count = fields.integer(size), fields.integer(parts)
    if whole % count:
        raise ModelError(f"{fields.where}: {size}={whole} is not a multiple of {parts}={count}")
    return whole // count


def _window(fields: Fields) -> int | None:
    """``sliding_window``: null is none, but absent is the default of the architectures."""
    if "sliding_window" in fields.values and "sliding_window" not in fields:
        return None
    return fields.integer("sliding_window", 4096)


def _one_window(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Mistral: all layers have the window."""
    if "layer_types" in fields:
        raise UnsupportedModel(f"{fields.where}: layer_types is not supported for Mistral")
    return (_window(fields),) * num_layers


def _windows_by_layer(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Qwen: layers from max_window_layers on have the window, unless layer_types says which."""
    window = _window(fields) if fields.boolean("use_sliding_window", False) else None
    if "layer_types" not in fields:
        num_full = min(num_layers, fields.integer("max_window_layers", 28, low=0))
        return (None,) * num_full + (window,) * (num_layers - num_full)
    windows: dict[str, int | None] = {"full_attention": None, "sliding_attention": window}
    names = fields.texts("layer_types", count=num_layers)
    for name in names:
        if name not in windows:
            raise UnsupportedModel(
                f"{fields.where}: layer_types {name!r} is not supported",
                hint=f"supported are {', '.join(windows)}",
            )
    if "sliding_attention" in names and window is None:
        raise ModelError(
            f"{fields.where}: layer_types has sliding_attention, but there is no window",
            hint="it needs use_sliding_window and sliding_window",
        )
    return tuple(windows[name] for name in names)


_READERS: dict[str, Callable[[Fields, str], ModelSpec]] = {
    "LlamaForCausalLM": _read_llama_family,
    "MistralForCausalLM": _read_llama_family,
    "Qwen2ForCausalLM": _read_llama_family,
    "Qwen3ForCausalLM": _read_llama_family,
    "GPT2LMHeadModel": _read_gpt2,
}

_OF_MODEL_TYPE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
