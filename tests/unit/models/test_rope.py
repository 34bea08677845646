"""Rotary embeddings: settings, lengths, and frequencies against properties of each method.

Equality with transformers is checked in tests/parity and by the golden files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from octavo.backends.rotary import rotary_tables
from octavo.core.errors import ModelError, UnsupportedModel
from octavo.models.fields import Fields
from octavo.models.rope import (
    DefaultRope,
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    Rope,
    YarnRope,
    read_rope,
    rotary_table,
)

HEAD_DIM = 8
PLAIN = 10000.0 ** -(np.arange(4) / 4)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 2.0, 3.0, 4.0],
    "long_factor": [5.0, 6.0, 7.0, 8.0],
    "original_max_position_embeddings": 128,
}


def read(settings: dict[str, Any] | None, *, head_dim: int = HEAD_DIM, **config: object) -> Rope:
    values = {"max_position_embeddings": 512, "rope_scaling": settings, **config}
    return read_rope(Fields(values, "config.json"), head_dim=head_dim)


class TestReading:
    def test_forms_mean_the_same(self) -> None:
        expected = LinearRope(700.0, 512, 2.0)
        assert read({"type": "linear", "factor": 2}, rope_theta=700) == expected
        assert read({"rope_type": "linear", "factor": 2}, rope_theta=700) == expected
        assert read({"rope_type": "linear", "factor": 2.0, "rope_theta": 700}) == expected
        inside = {"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0}
        assert read(None, rope_parameters=inside) == expected
        assert read(None, rope_parameters=inside, rope_theta=5.0) == expected
        assert read(inside, rope_parameters={"rope_type": "default"}) == expected

    @pytest.mark.parametrize(
        "settings", [None, {}, {"type": "default"}, {"rope_type": "default", "factor": 3.0}]
    )
    def test_no_scaling(self, settings: dict[str, Any] | None) -> None:
        assert read(settings) == DefaultRope(10000.0, 512)

    def test_kinds(self) -> None:
        assert read({"type": "dynamic", "factor": 2.0}) == DynamicRope(10000.0, 512, 2.0)
        assert read(LLAMA3) == Llama3Rope(10000.0, 512, 8.0, 1.0, 4.0, 64)
        yarn = read(YARN)
        assert isinstance(yarn, YarnRope)
        assert (yarn.beta_fast, yarn.beta_slow, yarn.truncate) == (32.0, 1.0, True)
        long = read(LONG)
        assert isinstance(long, LongRope)
        assert long.factor == 4.0  # 512 / 128

    def test_original_length(self) -> None:
        """Beside the settings it counts more than inside; else it is the maximum."""
        beside = read(YARN, original_max_position_embeddings=32)
        assert isinstance(beside, YarnRope)
        assert beside.original_len == 32
        absent = read({"rope_type": "yarn", "factor": 4.0})
        assert isinstance(absent, YarnRope)
        assert absent.original_len == 512

    def test_magnitudes(self) -> None:
        assert read(LLAMA3).magnitude == 1.0
        assert read(YARN).magnitude == 0.1 * math.log(4.0) + 1.0
        assert read({**YARN, "attention_factor": 0.5}).magnitude == 0.5
        both = read({**YARN, "mscale": 2.0, "mscale_all_dim": 0.5}).magnitude
        assert both == (0.2 * math.log(4.0) + 1.0) / (0.05 * math.log(4.0) + 1.0)
        assert read({**YARN, "mscale": 2.0}).magnitude == read(YARN).magnitude
        assert read(LONG).magnitude == math.sqrt(1.0 + math.log(4.0) / math.log(128.0))
        assert read({**LONG, "factor": 1.0}).magnitude == 1.0
        assert read({**LONG, "attention_factor": 1.5}).magnitude == 1.5
        assert read(LONG, max_position_embeddings=64).magnitude == 1.0


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rope_scaling": []}, "rope_scaling must be an object"),
    ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
    ({"rope_theta": 0}, "rope_theta must be a number > 1"),
    ({"rope_theta": "10000"}, "rope_theta must be a number > 1"),
    ({"rope_scaling": {"rope_type": 3}}, "rope_type must be a string"),
    ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor must be a number >= 1"),
    ({"rope_scaling": {"rope_type": "linear", "factor": -2}}, "factor must be a number > 0"),
    ({"rope_scaling": {"type": "dynamic"}}, "factor is missing"),
    ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor is missing"),
    (
        {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
        "high_freq_factor must be a number > 1",
    ),
    (
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 0}},
        "original_max_position_embeddings must be an integer",
    ),
    ({"rope_scaling": {**YARN, "beta_fast": 0.5}}, "beta_fast must be a number > 1"),
    ({"rope_scaling": {**YARN, "truncate": "no"}}, "truncate must be true or false"),
    ({"rope_scaling": {**YARN, "attention_factor": 0}}, "attention_factor must be a number > 0"),
    ({"rope_scaling": {**LONG, "short_factor": [1.0]}}, "short_factor must be a list of 4 numbers"),
    ({"rope_scaling": {**LONG, "long_factor": [1, 2, 3, "4"]}}, "long_factor must be a list of 4"),
    ({"rope_scaling": {**LONG, "long_factor": [1, 2, 3, 0]}}, "long_factor must be a list of 4"),
    ({"rope_scaling": {**LONG, "long_factor": None}}, "long_factor is missing"),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_wrong(config: dict[str, Any], message: str) -> None:
    values = {"max_position_embeddings": 512, **config}
    with pytest.raises(ModelError) as error:
        read_rope(Fields(values, "config.json"), head_dim=HEAD_DIM)
    assert message in str(error.value)


def test_heads_that_cannot_turn() -> None:
    with pytest.raises(ModelError, match="even head_dim, got 7"):
        read(None, head_dim=7)
    with pytest.raises(ModelError, match="head_dim above 2"):
        read({"type": "dynamic", "factor": 2.0}, head_dim=2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": {"rope_type": "su"}}, "'su' is not supported"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, "mrope_section"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "differ by layer"),
    ],
)
def test_unsupported(config: dict[str, Any], message: str) -> None:
    values = {"max_position_embeddings": 512, **config}
    with pytest.raises(UnsupportedModel, match=message):
        read_rope(Fields(values, "config.json"), head_dim=HEAD_DIM)


@pytest.mark.parametrize(
    ("settings", "default_len", "longest_len"),
    [
        (None, 512, 512),
        ({"type": "linear", "factor": 2.5}, 512, 1280),
        ({"type": "dynamic", "factor": 2.0}, 512, 1024),
        (LLAMA3, 512, 512),
        (YARN, 512, 512),
        ({**YARN, "factor": 8.0}, 512, 1024),
        (LONG, 128, 512),
        ({**LONG, "factor": 8.0}, 128, 1024),
    ],
)
def test_lengths(settings: dict[str, Any] | None, default_len: int, longest_len: int) -> None:
    rope = read(settings)
    assert (rope.default_len, rope.longest_len) == (default_len, longest_len)


class TestFrequencies:
    def test_default(self) -> None:
        np.testing.assert_allclose(read(None).frequencies(HEAD_DIM, 512), PLAIN, rtol=1e-15)

    def test_linear(self) -> None:
        found = read({"type": "linear", "factor": 4.0}).frequencies(HEAD_DIM, 512)
        np.testing.assert_allclose(found, PLAIN / 4.0, rtol=1e-15)

    def test_dynamic_grows_with_the_length_alone(self) -> None:
        rope = read({"type": "dynamic", "factor": 2.0})
        for length in (1, 511, 512):
            np.testing.assert_allclose(rope.frequencies(HEAD_DIM, length), PLAIN, rtol=1e-15)
        # At twice the length the base grows by 2 * 2 - 1 = 3 to the power of 8 / 6.
        expected = (10000.0 * 3.0 ** (8 / 6)) ** -(np.arange(4) / 4)
        np.testing.assert_allclose(rope.frequencies(HEAD_DIM, 1024), expected, rtol=1e-14)

    def test_llama3_keeps_fast_and_divides_slow_ones(self) -> None:
        dim = 64
        plain = 10000.0 ** -(np.arange(32) / 32)
        found = read(LLAMA3, head_dim=dim).frequencies(dim, 512)
        turns = 64 * plain / (2 * np.pi)
        np.testing.assert_allclose(found[turns > 4], plain[turns > 4], rtol=1e-15)
        np.testing.assert_allclose(found[turns < 1], plain[turns < 1] / 8, rtol=1e-15)
        ramp = (turns > 1) & (turns < 4)
        assert ramp.sum() >= 3
        assert ((found < plain) & (found > plain / 8))[ramp].all()
        assert (np.diff(found) < 0).all()

    @pytest.mark.parametrize("truncate", [True, False])
    def test_yarn_keeps_fast_and_divides_slow_ones(self, truncate: bool) -> None:
        dim = 64
        plain = 10000.0 ** -(np.arange(32) / 32)
        found = read({**YARN, "truncate": truncate}, head_dim=dim).frequencies(dim, 512)
        turns = 128 * plain / (2 * np.pi)  # never 32: the fastest turns 20 times
        np.testing.assert_allclose(found[0], plain[0], rtol=1e-15)
        slow = turns < 0.7
        np.testing.assert_allclose(found[slow], plain[slow] / 4, rtol=1e-15)
        assert (np.diff(plain / found) >= -1e-12).all()

    def test_yarn_with_a_ramp_of_no_width(self) -> None:
        rope = read({**YARN, "beta_fast": 40.0, "beta_slow": 25.0})
        np.testing.assert_allclose(rope.frequencies(HEAD_DIM, 512)[1:], PLAIN[1:] / 4, rtol=1e-15)

    def test_longrope_chooses_by_the_length(self) -> None:
        rope = read(LONG)
        short, long = PLAIN / [1, 2, 3, 4], PLAIN / [5, 6, 7, 8]
        np.testing.assert_allclose(rope.frequencies(HEAD_DIM, 128), short, rtol=1e-15)
        np.testing.assert_allclose(rope.frequencies(HEAD_DIM, 129), long, rtol=1e-15)


def test_tables() -> None:
    """Computed in float64 and rounded once, in blocks that leave no seam."""
    rope = read({"type": "linear", "factor": 3.0}, max_position_embeddings=9000)
    table = rotary_table(rope, HEAD_DIM, 9000)
    cosines, sines = rotary_tables(table)
    angles = np.arange(9000)[:, None] * np.array(table.frequencies)
    assert cosines.dtype == sines.dtype == np.float32
    np.testing.assert_array_equal(cosines, np.cos(angles).astype(np.float32))
    np.testing.assert_array_equal(sines, np.sin(angles).astype(np.float32))


def test_tables_carry_the_magnitude() -> None:
    table = rotary_table(read(YARN), HEAD_DIM, 100)
    cosines, sines = rotary_tables(table)
    np.testing.assert_allclose(cosines**2 + sines**2, table.magnitude**2, rtol=1e-6)
