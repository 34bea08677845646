"""config.json: what is read, and the error of everything that is wrong with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import ConfigError, ModelError, UnsupportedModel
from octavo.models.registry import BUILDERS, build
from octavo.models.rope import DefaultRope
from octavo.models.spec import ModelSpec
from octavo.program.ir import Activation
from tests.tiny import FAMILIES, tiny_config, tiny_tensors

REMOVED = object()


def read(folder: Path, family: str = "llama", **changes: object) -> ModelSpec:
    """The spec of a family's configuration with fields changed, or REMOVED."""
    config = {
        name: value
        for name, value in tiny_config(family, **changes).items()
        if value is not REMOVED
    }
    (folder / "config.json").write_text(json.dumps(config))
    return ModelSpec.read(folder)


def test_every_field_of_llama(tmp_path: Path) -> None:
    spec = read(tmp_path, attention_bias=True, tie_word_embeddings=True)
    assert spec == ModelSpec(
        architecture="LlamaForCausalLM",
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        activation=Activation.SILU,
        norm_eps=1e-5,
        max_positions=512,
        rope=DefaultRope(10000.0, 512),
        windows=(None, None),
        attention_scales=(8**-0.5, 8**-0.5),
        tied=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=False,
        qk_norm=False,
    )


def test_every_field_of_gpt2(tmp_path: Path) -> None:
    spec = read(tmp_path, "gpt2", n_inner=100, scale_attn_by_inverse_layer_idx=True)
    assert spec == ModelSpec(
        architecture="GPT2LMHeadModel",
        vocab_size=256,
        hidden_size=32,
        intermediate_size=100,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=8,
        activation=Activation.GELU_TANH,
        norm_eps=1e-5,
        max_positions=512,
        rope=None,
        windows=(None, None),
        attention_scales=(8**-0.5, 8**-0.5 / 2),
        tied=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        qk_norm=False,
    )


def test_every_architecture_has_a_builder(tmp_path: Path) -> None:
    named = {config["architectures"][0] for config in FAMILIES.values()}
    assert set(BUILDERS) == named
    with pytest.raises(UnsupportedModel) as error:
        read(tmp_path, architectures=["MambaForCausalLM"])
    assert error.value.hint == f"supported are {', '.join(BUILDERS)}"


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"head_dim": 20, "num_key_value_heads": None}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    ("gpt2", {"tie_word_embeddings": False, "n_inner": 7}),
]


@pytest.mark.parametrize(("family", "options"), OPTIONS)
def test_programs_want_the_tensors_that_such_models_have(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    program = build(read(tmp_path, family, **options), 64)
    wanted = {weight.tensor: weight.tensor_shape for weight in program.weights()}
    tensors = tiny_tensors(tiny_config(family, **options), seed=0)
    assert wanted == {name: tensor.shape for name, tensor in tensors.items()}


def test_slices_of_fused_tensors_cover_them(tmp_path: Path) -> None:
    program = build(read(tmp_path, "gpt2"), 64)
    fused = [
        weight for weight in program.weights() if weight.tensor.endswith("0.attn.c_attn.weight")
    ]
    assert [(part.first_row, part.shape) for part in fused] == [
        (0, (32, 32)),
        (32, (32, 32)),
        (64, (32, 32)),
    ]


def windows(folder: Path, family: str, **changes: object) -> tuple[int | None, ...]:
    return read(folder, family, num_hidden_layers=4, **changes).windows


def test_windows(tmp_path: Path) -> None:
    def mistral(**changes: object) -> tuple[int | None, ...]:
        return windows(tmp_path, "mistral", **changes)

    assert mistral(sliding_window=9) == (9,) * 4
    assert mistral(sliding_window=None) == (None,) * 4
    assert mistral(sliding_window=REMOVED) == (4096,) * 4
    assert windows(tmp_path, "llama", sliding_window=9) == (None,) * 4


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_windows_by_layer(family: str, tmp_path: Path) -> None:
    def qwen(**changes: object) -> tuple[int | None, ...]:
        return windows(tmp_path, family, **changes)

    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    used = {"use_sliding_window": True, "sliding_window": 9}
    assert qwen(sliding_window=9, max_window_layers=1) == (None,) * 4
    assert qwen(**used) == (None,) * 4  # max_window_layers is 28 unless it is given
    assert qwen(**used, max_window_layers=3) == (None, None, None, 9)
    assert qwen(**used, max_window_layers=0) == (9,) * 4
    assert qwen(use_sliding_window=True, max_window_layers=3) == (None, None, None, 4096)
    assert qwen(**{**used, "sliding_window": None}, max_window_layers=0) == (None,) * 4
    assert qwen(**used, max_window_layers=0, layer_types=kinds) == (None, 9, 9, None)
    assert qwen(layer_types=["full_attention"] * 4) == (None,) * 4


def test_head_dim(tmp_path: Path) -> None:
    assert read(tmp_path).head_dim == 8
    assert read(tmp_path, head_dim=20, hidden_size=33).head_dim == 20
    assert read(tmp_path, head_dim=None).head_dim == 8
    assert read(tmp_path, "qwen3", head_dim=REMOVED).head_dim == 128
    assert read(tmp_path, "gpt2", head_dim=99).head_dim == 8  # it has no such field


def test_architecture_by_model_type(tmp_path: Path) -> None:
    for family, config in FAMILIES.items():
        for absent in (REMOVED, None, []):
            spec = read(tmp_path, family, architectures=absent)
            assert spec.architecture == config["architectures"][0]


def test_what_defaults_are(tmp_path: Path) -> None:
    optional = ("rms_norm_eps", "rope_theta", "hidden_act", "tie_word_embeddings")
    spec = read(tmp_path, **dict.fromkeys((*optional, "num_key_value_heads"), REMOVED))
    assert spec.norm_eps == 1e-6
    assert spec.rope == DefaultRope(10000.0, 512)
    assert spec.activation is Activation.SILU
    assert not spec.tied
    assert spec.num_kv_heads == 4


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("silu", Activation.SILU),
        ("swish", Activation.SILU),
        ("gelu_new", Activation.GELU_TANH),
        ("gelu_pytorch_tanh", Activation.GELU_TANH),
        ("relu", Activation.RELU),
    ],
)
def test_activations(name: str, activation: Activation, tmp_path: Path) -> None:
    assert read(tmp_path, hidden_act=name).activation is activation


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_size": REMOVED}, "hidden_size is missing"),
    ("llama", {"hidden_size": None}, "hidden_size is missing"),
    ("llama", {"hidden_size": "32"}, "hidden_size must be an integer in"),
    ("llama", {"hidden_size": 32.0}, "hidden_size must be an integer in"),
    ("llama", {"hidden_size": True}, "hidden_size must be an integer in"),
    ("llama", {"hidden_size": -32}, "hidden_size must be an integer in"),
    ("llama", {"hidden_size": 0}, "got 0"),
    ("llama", {"hidden_size": [32]}, "hidden_size must be an integer in"),
    ("llama", {"hidden_size": 2**31}, "hidden_size must be an integer in"),
    ("llama", {"hidden_size": 34}, "hidden_size=34 is not a multiple of num_attention_heads=4"),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer in"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads must be"),
    ("llama", {"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of"),
    ("llama", {"num_key_value_heads": 8}, "num_attention_heads=4 is not a multiple of"),
    ("llama", {"num_key_value_heads": 0}, "num_key_value_heads must be"),
    ("llama", {"intermediate_size": REMOVED}, "intermediate_size is missing"),
    ("llama", {"vocab_size": REMOVED}, "vocab_size is missing"),
    ("llama", {"max_position_embeddings": REMOVED}, "max_position_embeddings is missing"),
    ("llama", {"max_position_embeddings": -1}, "max_position_embeddings must be"),
    ("llama", {"rms_norm_eps": -1e-5}, "rms_norm_eps must be a number > 0"),
    ("llama", {"rms_norm_eps": math.nan}, "rms_norm_eps must be a number > 0"),
    ("llama", {"rms_norm_eps": math.inf}, "rms_norm_eps must be a number > 0"),
    ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps must be a number > 0"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    ("llama", {"attention_bias": 1}, "attention_bias must be true or false"),
    ("llama", {"hidden_act": 3}, "hidden_act must be a string"),
    ("llama", {"head_dim": 7}, "even head_dim, got 7"),
    ("llama", {"head_dim": -8}, "head_dim must be"),
    ("llama", {"architectures": "LlamaForCausalLM"}, "architectures must be a list of strings"),
    ("llama", {"architectures": [7]}, "architectures must be a list of strings"),
    ("llama", {"architectures": None, "model_type": None}, "model_type is missing"),
    ("mistral", {"sliding_window": 0}, "sliding_window must be"),
    ("mistral", {"sliding_window": "all"}, "sliding_window must be"),
    ("qwen2", {"use_sliding_window": "no"}, "use_sliding_window must be true or false"),
    ("qwen2", {"max_window_layers": -1}, "max_window_layers must be"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types must be a list of 2 strings"),
    ("qwen2", {"layer_types": ["full_attention", 1]}, "layer_types must be a list of 2 strings"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "there is no window"),
    ("gpt2", {"n_embd": REMOVED}, "n_embd is missing"),
    ("gpt2", {"n_embd": 33}, "n_embd=33 is not a multiple of n_head=4"),
    ("gpt2", {"n_positions": REMOVED}, "n_positions is missing"),
    ("gpt2", {"n_inner": -1}, "n_inner must be"),
    ("gpt2", {"scale_attn_weights": 1}, "scale_attn_weights must be true or false"),
]


@pytest.mark.parametrize(("family", "changes", "message"), WRONG)
def test_wrong(family: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        read(tmp_path, family, **changes)
    assert not isinstance(error.value, UnsupportedModel)
    assert message in str(error.value)
    assert "config.json" in str(error.value)
    assert len(str(error.value)) < 500


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"architectures": ["LlavaForConditionalGeneration"]}, "Llava"),
    ("llama", {"architectures": None, "model_type": "mamba"}, "model_type mamba"),
    ("llama", {"hidden_act": "gelu"}, "supported are silu"),
    ("llama", {"hidden_act": ""}, "hidden_act ''"),
    ("gpt2", {"activation_function": "gelu"}, "activation_function 'gelu'"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ("llama", {"compression_config": {}}, "quantised"),
    ("llama", {"auto_map": {"AutoModel": "modeling.Own"}}, "its own code"),
    ("llama", {"num_local_experts": 8}, "mixtures of experts"),
    ("qwen2", {"num_experts": 2}, "mixtures of experts"),
    ("mistral", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("qwen2", {"layer_types": ["full_attention", "linear_attention"]}, "'linear_attention'"),
]


@pytest.mark.parametrize(("family", "changes", "message"), UNSUPPORTED)
def test_unsupported(family: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel) as error:
        read(tmp_path, family, **changes)
    assert message in str(error.value)


def test_one_expert_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, num_local_experts=0) == read(tmp_path, num_experts=1)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"a":' * 100_000]
)
def test_files_that_hold_no_object(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelSpec.read(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelSpec.read(tmp_path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    data=st.data(),
    family=st.sampled_from(sorted(FAMILIES)),
)
def test_junk_is_never_more_than_a_model_error(
    data: st.DataObject, family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extra = ["rope_scaling", "rope_parameters", "sliding_window", "layer_types", "head_dim"]
    names = data.draw(
        st.lists(st.sampled_from([*FAMILIES[family], *extra]), min_size=1, max_size=4)
    )
    changes = {name: data.draw(JUNK) for name in names}
    try:
        spec = read(tmp_path_factory.mktemp("junk"), family, **changes)
    except ModelError:
        return
    assert spec.num_heads % spec.num_kv_heads == 0


class TestMaxModelLen:
    def test_the_models_own(self, tmp_path: Path) -> None:
        assert read(tmp_path).resolve_max_model_len(None) == 512
        assert read(tmp_path, "gpt2", n_positions=100).resolve_max_model_len(None) == 100

    @pytest.mark.parametrize("wanted", [1, 17, 512])
    def test_the_users(self, wanted: int, tmp_path: Path) -> None:
        assert read(tmp_path).resolve_max_model_len(wanted) == wanted

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    @pytest.mark.parametrize("wanted", [0, -5, 513])
    def test_out_of_range(self, family: str, wanted: int, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"\[1, 512\]"):
            read(tmp_path, family).resolve_max_model_len(wanted)
