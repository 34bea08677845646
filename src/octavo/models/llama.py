"""Llama 2 and 3, Mistral, Qwen2 and Qwen3 as a program."""

from __future__ import annotations

from octavo.models.rope import rotary_table
from octavo.models.spec import ModelSpec
from octavo.program.builder import ProgramBuilder
from octavo.program.ir import Program, RotaryTable, Value, Weight


def build_llama(spec: ModelSpec, max_model_len: int) -> Program:
    """The program of a spec for sequences of at most ``max_model_len`` tokens."""
    assert spec.rope is not None
    builder = ProgramBuilder(max_model_len)
    rotary = rotary_table(spec.rope, spec.head_dim, max_model_len)
    embedding = Weight(
        "model.embed_tokens.weight",
        (spec.vocab_size, spec.hidden_size),
        also_named="lm_head.weight" if spec.tied else None,
    )

    x = builder.embed_tokens(embedding)
    for layer in range(spec.num_layers):
        name = f"model.layers.{layer}"
        normed = _norm(builder, spec, x, f"{name}.input_layernorm")
        x = builder.add(x, _attention(builder, spec, layer, normed, f"{name}.self_attn", rotary))
        normed = _norm(builder, spec, x, f"{name}.post_attention_layernorm")
        x = builder.add(x, _mlp(builder, spec, normed, f"{name}.mlp"))
    x = builder.take(x)
    x = _norm(builder, spec, x, "model.norm")
    head = embedding if spec.tied else Weight("lm_head.weight", embedding.shape)
    return builder.finish(x, head)


def _attention(
    builder: ProgramBuilder,
    spec: ModelSpec,
    layer: int,
    x: Value,
    name: str,
    rotary: RotaryTable,
) -> Value:
    q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    q = _linear(builder, x, f"{name}.q_proj", q_size, bias=spec.qkv_bias)
    k = _linear(builder, x, f"{name}.k_proj", kv_size, bias=spec.qkv_bias)
    v = _linear(builder, x, f"{name}.v_proj", kv_size, bias=spec.qkv_bias)
    if spec.qk_norm:
        q_norm = Weight(f"{name}.q_norm.weight", (spec.head_dim,))
        k_norm = Weight(f"{name}.k_norm.weight", (spec.head_dim,))
        q = builder.head_norm(q, q_norm, num_heads=spec.num_heads, eps=spec.norm_eps)
        k = builder.head_norm(k, k_norm, num_heads=spec.num_kv_heads, eps=spec.norm_eps)
    q = builder.rotary(q, rotary, num_heads=spec.num_heads)
    k = builder.rotary(k, rotary, num_heads=spec.num_kv_heads)
    attended = builder.attend(
        q,
        k,
        v,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        scale=spec.attention_scales[layer],
        window=spec.windows[layer],
    )
    return _linear(builder, attended, f"{name}.o_proj", spec.hidden_size, bias=spec.output_bias)


def _mlp(builder: ProgramBuilder, spec: ModelSpec, x: Value, name: str) -> Value:
    gate = _linear(builder, x, f"{name}.gate_proj", spec.intermediate_size, bias=spec.mlp_bias)
    up = _linear(builder, x, f"{name}.up_proj", spec.intermediate_size, bias=spec.mlp_bias)
    gated = builder.glu(gate, up, spec.activation)
    return _linear(builder, gated, f"{name}.down_proj", spec.hidden_size, bias=spec.mlp_bias)


def _norm(builder: ProgramBuilder, spec: ModelSpec, x: Value, name: str) -> Value:
    return builder.rms_norm(x, Weight(f"{name}.weight", (x.features,)), eps=spec.norm_eps)


def _linear(
    builder: ProgramBuilder, x: Value, name: str, num_features: int, *, bias: bool
) -> Value:
    return builder.linear(
        x,
        Weight(f"{name}.weight", (num_features, x.features)),
        Weight(f"{name}.bias", (num_features,)) if bias else None,
    )
