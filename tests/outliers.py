"""Plants the outliers of large models into a small one, which has none of its own.

    python -m tests.outliers FOLDER INTO
    octavo bench quality INTO --text FILE

Norm channels: one in a hundred of the weights of each norm before a projection is 50 times as
large, and the columns that read it 50 times as small. What the model computes in exact arithmetic
stays; whoever quantises what a norm gives now meets the outliers. Key bias: two channels of each
head's keys get a bias of +100 and -100, which stays the same in any context but, being rotated with
the rest of the key, changes what the model computes: compare with this model in float32.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from octavo.backends.base import F32

NORM_SHARE = 0.01
NORM_FACTOR = np.float32(50)
KEY_BIAS = np.float32(100)
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Which projections of a Llama read what a norm gives."""
SEED = 5


def plant_outliers(folder: Path, into: Path, *, norms: bool = True, key_bias: bool = True) -> None:
    """Write a copy of a Llama's folder, in float32, with outliers.

    Args:
        folder: with one ``model.safetensors``.
        into: is made.
        norms: plant them in the norms.
        key_bias: plant them in the biases of the keys; the other biases are 0.
    """
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = _read(folder / "model.safetensors")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        if norms:
            _plant_in_norms(weights, prefix, np.random.default_rng([SEED, layer]))
        if key_bias:
            _plant_key_bias(weights, prefix, config["head_dim"])
    config |= {"torch_dtype": "float32", "attention_bias": key_bias}
    (into / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, into / "model.safetensors", metadata={"format": "np"})


def _read(path: Path) -> dict[str, F32]:
    """The tensors of a file in bfloat16 or float32, as float32."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118


def _plant_in_norms(weights: dict[str, F32], prefix: str, random: np.random.Generator) -> None:
    for norm, readers in READERS.items():
        gain = weights[f"{prefix}.{norm}.weight"]
        count = max(1, round(NORM_SHARE * gain.size))
        channels = random.choice(gain.size, count, replace=False)
        gain[channels] *= NORM_FACTOR
        for reader in readers:
            weights[f"{prefix}.{reader}.weight"][:, channels] /= NORM_FACTOR


def _plant_key_bias(weights: dict[str, F32], prefix: str, head_dim: int) -> None:
    for name in ("q", "k", "v", "o"):
        rows = len(weights[f"{prefix}.self_attn.{name}_proj.weight"])
        weights[f"{prefix}.self_attn.{name}_proj.bias"] = np.zeros(rows, np.float32)
    bias = weights[f"{prefix}.self_attn.k_proj.bias"].reshape(-1, head_dim)
    # The slowest turning pair of channels but two: near the same in every position.
    bias[:, head_dim // 2 - 3] = KEY_BIAS
    bias[:, head_dim - 3] = -KEY_BIAS


if __name__ == "__main__":
    plant_outliers(Path(sys.argv[1]), Path(sys.argv[2]))
