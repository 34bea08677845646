"""What a checkpoint has against what a model wants: one error that names everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.core.errors import ModelError
from octavo.program.ir import Weight
from octavo.weights.checkpoint import Checkpoint
from octavo.weights.inventory import group_by_layer
from tests.unit.weights.files import Arrays, nothing_left_open, whole, write


def layers(numbers: range, shape: tuple[int, ...] = (2, 2)) -> dict[str, NDArray[Any]]:
    return {f"model.layers.{n}.up.weight": np.ones(shape, np.float32) for n in numbers}


def wanted(arrays: Arrays) -> list[Weight]:
    return [whole(name, array) for name, array in arrays.items()]


def problems(folder: Path, weights: list[Weight]) -> ModelError:
    with nothing_left_open(folder), pytest.raises(ModelError) as error:
        Checkpoint(folder).check(weights)
    assert error.value.message.startswith(str(folder))
    assert error.value.hint
    return error.value


def test_check_accepts_what_fits(tmp_path: Path) -> None:
    arrays = {**layers(range(3)), "model.norm.weight": np.ones(2, np.float16)}
    Checkpoint(write(tmp_path / "m", arrays)).check(wanted(arrays))


def test_check_reports_everything_at_once(tmp_path: Path) -> None:
    arrays = layers(range(8)) | {
        "model.norm.weight": np.ones(5, np.float32),
        "model.scales": np.ones(2, np.int8),
        "vision.patch.weight": np.ones(1, np.float32),
    }
    weights = [
        *wanted(layers(range(12))),
        Weight("model.norm.weight", (6,)),
        Weight("model.scales", (2,)),
        Weight("lm_head.weight", (3, 2)),
    ]
    message = problems(write(tmp_path / "m", arrays), weights).message
    assert message.splitlines()[1:] == [
        "  5 tensors missing:",
        "    model.layers.[8-11].up.weight",
        "    lm_head.weight",
        "  1 tensor of another shape:",
        "    model.norm.weight is (5,), the model needs (6,)",
        "  1 tensor of a type that is none of F32, F16, BF16:",
        "    model.scales has type I8",
        "  1 tensor that the model has no use for:",
        "    vision.patch.weight",
    ]


def test_check_counts_a_fused_tensor_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"qkv": np.ones((4, 6), np.float32)})
    slices = [
        Weight("qkv", (2, 4), transposed=True, first_row=row, num_tensor_rows=6)
        for row in (0, 2, 4)
    ]
    Checkpoint(folder).check(slices)
    wrong = [
        Weight("qkv", (3, 4), transposed=True, first_row=row, num_tensor_rows=9)
        for row in (0, 3, 6)
    ]
    message = problems(folder, wrong).message
    assert message.splitlines()[1:] == [
        "  1 tensor of another shape:",
        "    qkv is (4, 6), the model needs (4, 9)",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "h.3.attn.bias",
        "transformer.h.3.attn.masked_bias",
    ],
)
def test_check_tolerates_harmless_buffers(tmp_path: Path, name: str) -> None:
    arrays = layers(range(2))
    folder = write(tmp_path / "m", {**arrays, name: np.ones(3, np.float32)})
    Checkpoint(folder).check(wanted(arrays))


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.bias", "model.layers.0.self_attn.q_proj.bias"])
def test_check_does_not_tolerate_real_biases(tmp_path: Path, name: str) -> None:
    arrays = layers(range(2))
    folder = write(tmp_path / "m", {**arrays, name: np.ones(3, np.float32)})
    assert name in problems(folder, wanted(arrays)).message


def test_head_of_a_tied_model_must_repeat_the_embedding(tmp_path: Path) -> None:
    embedding = np.arange(6, dtype=np.float32).reshape(3, 2)
    weights = [Weight("model.embed_tokens.weight", (3, 2))]
    arrays = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.copy()}
    Checkpoint(write(tmp_path / "same", arrays)).check(weights)

    arrays["lm_head.weight"][2, 1] += 1
    error = problems(write(tmp_path / "other", arrays), weights)
    assert "has an lm_head.weight of its own" in error.message
    assert "tie_word_embeddings" in (error.hint or "")


def test_embedding_of_a_tied_model_may_be_saved_as_its_head(tmp_path: Path) -> None:
    head = np.arange(6, dtype=np.float32).reshape(3, 2)
    weight = Weight("model.embed_tokens.weight", (3, 2), also_named="lm_head.weight")
    source = Checkpoint(write(tmp_path / "m", {"lm_head.weight": head}))
    source.check([weight])
    np.testing.assert_array_equal(source.load(weight), head)


@pytest.mark.parametrize(
    ("stored", "asked", "says"),
    [
        ("language_model.model.", "model.", "begin with 'language_model.'"),
        ("layers.", "deep.layers.", "lack the prefix 'deep.'"),
    ],
)
def test_check_suggests_the_prefix(tmp_path: Path, stored: str, asked: str, says: str) -> None:
    names = ["0.up.weight", "1.up.weight", "2.up.weight"]
    folder = write(tmp_path / "m", {stored + name: np.ones(2, np.float32) for name in names})
    error = problems(folder, [Weight(asked + name, (2,)) for name in names])
    assert says in (error.hint or "")


def test_check_suggests_a_similar_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"model.final_norm.weight": np.ones(2, np.float32)})
    error = problems(folder, [Weight("model.finalnorm.weight", (2,))])
    assert "did you mean 'model.final_norm.weight'" in (error.hint or "")


def test_report_of_a_thousand_tensors_stays_readable(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {"x": np.ones(2, np.float32)})
    weights = [Weight(f"odd{n}name", (2,)) for n in range(1000)]
    lines = problems(folder, weights).message.splitlines()
    assert lines[1] == "  1000 tensors missing:"
    assert len(lines) < 40
    assert "    and 970 more lines like these" in lines


def test_group_by_layer() -> None:
    names = [f"h.{n}.w" for n in (3, 0, 1, 2, 7, 9)] + ["0.b", "2.b", "x", "h.4.v"]
    assert group_by_layer(names) == ["h.[0-3,7,9].w", "[0,2].b", "x", "h.4.v"]
