"""GPT-2 as a program: layer norms, learned positions, and weights stored (in, out)."""

from __future__ import annotations

from octavo.models.spec import ModelSpec
from octavo.program.builder import ProgramBuilder
from octavo.program.ir import Program, Value, Weight


def build_gpt2(spec: ModelSpec, max_model_len: int) -> Program:
    """The program of a spec for sequences of at most ``max_model_len`` tokens."""
    builder = ProgramBuilder(max_model_len)
    embedding = Weight(
        "transformer.wte.weight",
        (spec.vocab_size, spec.hidden_size),
        also_named="lm_head.weight" if spec.tied else None,
    )
    positions = Weight("transformer.wpe.weight", (spec.max_positions, spec.hidden_size))

    x = builder.add(builder.embed_tokens(embedding), builder.embed_positions(positions))
    for layer in range(spec.num_layers):
        name = f"transformer.h.{layer}"
        normed = _norm(builder, spec, x, f"{name}.ln_1")
        x = builder.add(x, _attention(builder, spec, layer, normed, f"{name}.attn"))
        normed = _norm(builder, spec, x, f"{name}.ln_2")
        x = builder.add(x, _mlp(builder, spec, normed, f"{name}.mlp"))
    x = builder.take(x)
    x = _norm(builder, spec, x, "transformer.ln_f")
    head = embedding if spec.tied else Weight("lm_head.weight", embedding.shape)
    return builder.finish(x, head)


def _attention(builder: ProgramBuilder, spec: ModelSpec, layer: int, x: Value, name: str) -> Value:
    size = spec.num_heads * spec.head_dim
    q, k, v = (_linear(builder, x, f"{name}.c_attn", size, part, of=3) for part in range(3))
    attended = builder.attend(
        q,
        k,
        v,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        scale=spec.attention_scales[layer],
    )
    return _linear(builder, attended, f"{name}.c_proj", spec.hidden_size)


def _mlp(builder: ProgramBuilder, spec: ModelSpec, x: Value, name: str) -> Value:
    x = _linear(builder, x, f"{name}.c_fc", spec.intermediate_size)
    x = builder.activate(x, spec.activation)
    return _linear(builder, x, f"{name}.c_proj", spec.hidden_size)


def _norm(builder: ProgramBuilder, spec: ModelSpec, x: Value, name: str) -> Value:
    weight, bias = (Weight(f"{name}.{part}", (x.features,)) for part in ("weight", "bias"))
    return builder.layer_norm(x, weight, bias, eps=spec.norm_eps)


def _linear(
    builder: ProgramBuilder, x: Value, name: str, num_features: int, part: int = 0, *, of: int = 1
) -> Value:
    """Part number ``part`` of a layer that the checkpoint fuses ``of`` of into one tensor."""
    first, total = part * num_features, of * num_features
    weight = Weight(f"{name}.weight", (num_features, x.features), True, first, total)
    bias = Weight(f"{name}.bias", (num_features,), False, first, total)
    return builder.linear(x, weight, bias)
