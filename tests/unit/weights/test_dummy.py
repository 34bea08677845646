"""Dummy weights: their scale, and that a weight's numbers depend on nothing but its name."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.backends.base import WeightSource
from octavo.program.ir import Weight
from octavo.weights.dummy import NORM_SPREAD, DummyWeights

SOURCE = DummyWeights()


def test_linear_weights_keep_the_size_of_activations() -> None:
    source: WeightSource = SOURCE
    matrix = source.load(Weight("up_proj.weight", (300, 500)))
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    assert matrix.std() * np.sqrt(500) == pytest.approx(1, abs=0.01)
    assert abs(matrix.mean()) < 1e-3
    # Normal: a third of the values lies beyond one standard deviation.
    assert (np.abs(matrix) > 1 / np.sqrt(500)).mean() == pytest.approx(0.3173, abs=0.005)
    # Rows and neighbours are unrelated.
    assert abs(np.corrcoef(matrix[:-1].ravel(), matrix[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(matrix.ravel()[:-1], matrix.ravel()[1:])[0, 1]) < 0.02


def test_transposed_weights_are_scaled_by_what_the_operation_sums_over() -> None:
    matrix = SOURCE.load(Weight("c_fc.weight", (800, 50), transposed=True))
    assert matrix.shape == (800, 50)
    assert matrix.std() * np.sqrt(50) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "mean"), [("norm.weight", 1.0), ("ln_1.weight", 1.0), ("ln_1.bias", 0.0)]
)
def test_vectors_are_near_one_or_zero(name: str, mean: float) -> None:
    vector = SOURCE.load(Weight(name, (4000,)))
    assert vector.mean() == pytest.approx(mean, abs=0.002)
    assert vector.std() == pytest.approx(NORM_SPREAD, rel=0.05)


def test_rows_agree_with_the_whole() -> None:
    fused = Weight("qkv", (8, 5), first_row=3, num_tensor_rows=20)
    whole = SOURCE.load(fused)
    for begin, end in ((0, 8), (0, 3), (3, 8), (2, 2)):
        np.testing.assert_array_equal(SOURCE.load_rows(fused, begin, end), whole[begin:end])


@given(
    num_rows=st.integers(1, 40),
    num_columns=st.integers(1, 9),
    transposed=st.booleans(),
    data=st.data(),
)
def test_slices_agree_with_the_whole(
    num_rows: int, num_columns: int, transposed: bool, data: st.DataObject
) -> None:
    whole = SOURCE.load(Weight("qkv", (num_rows, num_columns), transposed))
    first = data.draw(st.integers(0, num_rows - 1))
    last = data.draw(st.integers(first + 1, num_rows))
    part = SOURCE.load(
        Weight("qkv", (last - first, num_columns), transposed, first, num_tensor_rows=num_rows)
    )
    np.testing.assert_array_equal(part, whole[first:last])


def test_slices_agree_across_blocks() -> None:
    """65,536 values are drawn at a time: a slice from the middle crosses borders elsewhere."""
    whole = SOURCE.load(Weight("x", (30_001, 7)))
    part = SOURCE.load(Weight("x", (20_000, 7), first_row=9_999, num_tensor_rows=30_001))
    np.testing.assert_array_equal(part, whole[9_999:29_999])


def test_numbers_depend_on_seed_and_name() -> None:
    weight = Weight("a", (8, 8))
    first = SOURCE.load(weight)
    np.testing.assert_array_equal(DummyWeights(0).load(weight), first)
    assert not np.array_equal(DummyWeights(1).load(weight), first)
    assert not np.array_equal(SOURCE.load(Weight("b", (8, 8))), first)


def test_numbers_are_these() -> None:
    """Fixed once: a change of the generator must not pass unnoticed, files are named after it."""
    loaded = DummyWeights(7).load(Weight("model.layers.0.mlp.up_proj.weight", (2, 4)))
    assert loaded.view(np.uint32).tolist() == [
        [1045275882, 3183032578, 3213067889, 1049136152],
        [1048747913, 1047655583, 1045487614, 3197117977],
    ]
    assert DummyWeights(7).fingerprint == "1ee4b4853a0502fb0cb0838c9ddbeeb4"


def test_fingerprint_follows_the_seed() -> None:
    assert DummyWeights(0).fingerprint == SOURCE.fingerprint
    assert DummyWeights(1).fingerprint != SOURCE.fingerprint


def test_large_shapes_are_quick() -> None:
    started = time.process_time()
    SOURCE.load(Weight("lm_head.weight", (16_000, 512)))
    seconds = time.process_time() - started
    print(f"{16_000 * 512 * 4 / seconds / 1e6:.0f} MB/s")
    assert seconds < 0.5, "expected 0.02 s"
