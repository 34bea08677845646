"""Programs: shapes are checked where they are written, and what is derived from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from octavo.core.kv_layout import KVGroup
from octavo.program.builder import ProgramBuilder
from octavo.program.ir import (
    Activation,
    Add,
    Attend,
    Embed,
    EmbedBy,
    Logits,
    Program,
    RotaryTable,
    RowKind,
    Take,
    Value,
    Weight,
    inputs_of,
    weights_of,
)

TABLE = Weight("table", (50, 8))
ANGLES = RotaryTable((1.0, 0.5), 1.0, 64)


def small_program(
    *,
    windows: tuple[int | None, ...] = (None,),
    scale: float = 0.5,
    eps: float = 1e-5,
    angles: RotaryTable = ANGLES,
    max_model_len: int = 64,
) -> Program:
    """A tied model of attention layers only."""
    builder = ProgramBuilder(max_model_len)
    x = builder.embed_tokens(TABLE)
    for layer, window in enumerate(windows):
        normed = builder.rms_norm(x, Weight(f"{layer}.norm", (8,)), eps=eps)
        q = builder.rotary(normed, angles, num_heads=2)
        k = builder.linear(normed, Weight(f"{layer}.k", (4, 8)), Weight(f"{layer}.k_bias", (4,)))
        v = builder.linear(normed, Weight(f"{layer}.v", (4, 8)))
        attended = builder.attend(q, k, v, num_heads=2, num_kv_heads=1, scale=scale, window=window)
        x = builder.add(x, attended)
    return builder.finish(builder.take(x), TABLE)


def test_values_follow_from_operations() -> None:
    builder = ProgramBuilder(64)
    x = builder.embed_tokens(TABLE)
    assert x == Value(0, 8, RowKind.TOKENS)
    assert builder.linear(x, Weight("w", (3, 8))) == Value(1, 3, RowKind.TOKENS)
    assert builder.take(x) == Value(2, 8, RowKind.HEADS)


MISTAKES: dict[str, Callable[[ProgramBuilder, Value], object]] = {
    "linear of another width": lambda b, x: b.linear(x, Weight("w", (3, 7))),
    "bias of another width": lambda b, x: b.linear(x, Weight("w", (3, 8)), Weight("c", (8,))),
    "norm of another width": lambda b, x: b.rms_norm(x, Weight("w", (7,)), eps=1e-5),
    "norm with a long bias": lambda b, x: b.layer_norm(
        x, Weight("w", (8,)), Weight("c", (9,)), eps=1e-5
    ),
    "head norm of another width": lambda b, x: b.head_norm(
        x, Weight("w", (3,)), num_heads=2, eps=1e-5
    ),
    "add of two widths": lambda b, x: b.add(x, b.linear(x, Weight("w", (3, 8)))),
    "add of two kinds of rows": lambda b, x: b.add(x, b.take(x)),
    "glu of two widths": lambda b, x: b.glu(x, b.linear(x, Weight("w", (3, 8))), Activation.SILU),
    "rotary wider than the head": lambda b, x: b.rotary(x, ANGLES, num_heads=4),
    "rotary after take": lambda b, x: b.rotary(b.take(x), ANGLES, num_heads=2),
    "rotary of a part of a head": lambda b, x: b.rotary(x, ANGLES, num_heads=3),
    "heads not a multiple of kv heads": lambda b, x: b.attend(
        x, x, x, num_heads=4, num_kv_heads=3, scale=1.0
    ),
    "keys of another width": lambda b, x: b.attend(
        x, b.linear(x, Weight("w", (3, 8))), x, num_heads=2, num_kv_heads=2, scale=1.0
    ),
    "a window of nothing": lambda b, x: b.attend(
        x, x, x, num_heads=2, num_kv_heads=2, scale=1.0, window=0
    ),
    "taking twice": lambda b, x: b.take(b.take(x)),
    "logits of all tokens": lambda b, x: b.finish(x, TABLE),
    "logits of another width": lambda b, x: b.finish(b.take(x), Weight("w", (50, 7))),
    "too few positions": lambda b, x: b.finish(
        b.take(b.embed_positions(Weight("p", (63, 8)))), TABLE
    ),
    "too few angles": lambda b, x: b.finish(
        b.take(b.rotary(x, dataclasses.replace(ANGLES, num_positions=63), num_heads=2)), TABLE
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_builders_are_caught(name: str) -> None:
    builder = ProgramBuilder(64)
    x = builder.embed_tokens(TABLE)
    with pytest.raises(AssertionError):
        MISTAKES[name](builder, x)


def test_operations_read_only_what_stands_before_them() -> None:
    embed = Embed(TABLE, EmbedBy.TOKEN)
    x, taken = Value(0, 8), Value(1, 8, RowKind.HEADS)
    Program((embed, Take(x), Logits(taken, TABLE)), 64)
    later = Value(2, 8)
    with pytest.raises((AssertionError, IndexError)):
        Program((embed, Add(x, later), Take(Value(1, 8)), Logits(taken, TABLE)), 64)
    with pytest.raises(AssertionError, match="reads"):
        Program((embed, Take(x), Logits(dataclasses.replace(taken, index=0), TABLE)), 64)
    with pytest.raises(AssertionError):
        Program((embed, Take(x)), 64)  # no logits


def test_layers_are_numbered_in_order() -> None:
    program = small_program(windows=(None, None))
    first, second = program.attention_layers()
    swapped = [
        dataclasses.replace(part, layer=1 - part.layer) if isinstance(part, Attend) else part
        for part in program.operations
    ]
    assert (first.layer, second.layer) == (0, 1)
    with pytest.raises(AssertionError, match="in order"):
        Program(tuple(swapped), 64)


def test_inputs_and_weights_in_the_order_of_their_fields() -> None:
    program = small_program()
    attend = program.attention_layers()[0]
    assert inputs_of(attend) == (attend.q, attend.k, attend.v)
    assert weights_of(attend) == ()
    linear = program.operations[3]
    assert [weight.tensor for weight in weights_of(linear)] == ["0.k", "0.k_bias"]


def test_each_weight_is_named_once() -> None:
    program = small_program(windows=(None, None))
    assert [weight.tensor for weight in program.weights()] == [
        "table",
        *(f"{layer}.{name}" for layer in (0, 1) for name in ("norm", "k", "k_bias", "v")),
    ]
    assert program.vocab_size == 50


def test_layers_that_keep_the_same_tokens_are_a_group() -> None:
    program = small_program(windows=(16, None, 16, 20, None))
    assert program.kv_groups() == (
        KVGroup(16, (0, 2), 1, 4),
        KVGroup(None, (1, 4), 1, 4),
        KVGroup(20, (3,), 1, 4),
    )


def test_layers_of_other_shapes_are_groups_of_their_own() -> None:
    builder = ProgramBuilder(64)
    x = builder.embed_tokens(TABLE)
    for num_heads in (2, 4, 2):
        x = builder.attend(x, x, x, num_heads=num_heads, num_kv_heads=num_heads, scale=1.0)
    program = builder.finish(builder.take(x), TABLE)
    assert [group.layers for group in program.kv_groups()] == [(0, 2), (1,)]


def test_digest_covers_everything_that_decides_bits() -> None:
    programs = [
        small_program(),
        small_program(windows=(5,)),
        small_program(scale=0.25),
        small_program(eps=1e-6),
        small_program(max_model_len=63),
        small_program(angles=dataclasses.replace(ANGLES, frequencies=(1.0, 0.5 + 2**-52))),
        small_program(angles=dataclasses.replace(ANGLES, magnitude=1.1)),
        small_program(angles=dataclasses.replace(ANGLES, num_positions=65)),
    ]
    assert len({program.digest() for program in programs}) == len(programs)
    assert small_program().digest() == programs[0].digest()


def test_listing() -> None:
    assert str(small_program(windows=(7,))) == "\n".join(
        [
            "program: 9 operations, sequences of up to 64 tokens",
            "%0    embed     tokens x 8      table token",
            "%1    norm      tokens x 8      %0 0.norm rms eps=1e-05",
            "%2    rotary    tokens x 8      %1 rotary(4 of a head, 64 positions)"
            " num_heads=2 head_dim=4",
            "%3    linear    tokens x 4      %1 0.k 0.k_bias",
            "%4    linear    tokens x 4      %1 0.v",
            "%5    attend    tokens x 8      %2 %3 %4 layer=0 num_heads=2 num_kv_heads=1"
            " head_dim=4 scale=0.5 window=7",
            "%6    add       tokens x 8      %0 %5",
            "%7    take      heads x 8       %6",
            "%8    logits    heads x 50      %7 table",
        ]
    )


@pytest.mark.parametrize(
    ("weight", "tensor_shape", "shown"),
    [
        (Weight("w", (3, 5)), (3, 5), "w"),
        (Weight("w", (3, 5), transposed=True), (5, 3), "w.T"),
        (Weight("w", (3, 5), True, 6, 9), (5, 9), "w.T[6:9]"),
        (Weight("w", (3,), first_row=3, num_tensor_rows=9), (9,), "w[3:6]"),
        (Weight("w", (3,), num_tensor_rows=3), (3,), "w"),
    ],
)
def test_weights(weight: Weight, tensor_shape: tuple[int, ...], shown: str) -> None:
    assert weight.tensor_shape == tensor_shape
    assert str(weight) == shown


def test_a_slice_beyond_its_tensor() -> None:
    with pytest.raises(AssertionError):
        _ = Weight("w", (3,), first_row=7, num_tensor_rows=9).tensor_shape
