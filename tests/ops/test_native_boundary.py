"""The strict boundary: what is not exactly right is refused by name, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from octavo import _native

ELEMENTWISE = ["exp", "log", "tanh", "sigmoid"]
ROWS = ["row_sums", "row_sums_of_squares"]


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def read_only(*shape: int) -> np.ndarray[Any, Any]:
    array = f32(*shape)
    array.flags.writeable = False
    return array


def unaligned(*shape: int) -> np.ndarray[Any, Any]:
    count = int(np.prod(shape))
    return np.zeros(4 * count + 1, np.uint8)[1:].view(np.float32).reshape(shape)


# Every way to be wrong that any argument can have: (what, array of the shape given).
WRONG_READ: list[tuple[str, Callable[..., Any]]] = [
    ("float64", lambda *shape: np.ones(shape)),
    ("float16", lambda *shape: np.ones(shape, np.float16)),
    ("int32", lambda *shape: np.ones(shape, np.int32)),
    ("big endian", lambda *shape: np.ones(shape, ">f4")),
    ("strided", lambda *shape: f32(*shape[:-1], 2 * shape[-1])[..., ::2]),
    ("reversed", lambda *shape: f32(*shape)[..., ::-1]),
    ("broadcast", lambda *shape: np.broadcast_to(np.float32(1), shape)),
    ("unaligned", unaligned),
    ("list", lambda *shape: np.ones(shape).tolist()),
    ("number", lambda *shape: 1.0),
    ("bytes", lambda *shape: bytes(4 * int(np.prod(shape)))),
    ("one more row", lambda *shape: f32(shape[0] + 1, *shape[1:])),
    ("one more dimension", lambda *shape: f32(1, 1, *shape)),
]
WRONG_WRITE = [*WRONG_READ, ("read-only", read_only)]
wrong_read = pytest.mark.parametrize(
    "wrong", [f for _, f in WRONG_READ], ids=[n for n, _ in WRONG_READ]
)
wrong_write = pytest.mark.parametrize(
    "wrong", [f for _, f in WRONG_WRITE], ids=[n for n, _ in WRONG_WRITE]
)


@pytest.fixture
def kernels(pools: dict[int, _native.ThreadPool]) -> _native.Kernels:
    return _native.Kernels(pools[2])


@pytest.mark.parametrize("argument", ["a", "b", "bias"])
@wrong_read
def test_product_inputs(kernels: _native.Kernels, argument: str, wrong: Callable[..., Any]) -> None:
    arguments = {"a": f32(3, 4), "b": f32(4, 5), "bias": f32(5)}
    arguments[argument] = wrong(*arguments[argument].shape)
    out = np.zeros((3, 5), np.float32)
    # A wrong shape of `a` may show as a mismatch of what must fit it.
    with pytest.raises(TypeError, match=r"^(a|b|out|bias): "):
        kernels.product(out=out, **arguments)
    assert not out.any()


@pytest.mark.parametrize("argument", ["a", "b", "bias", "out"])
def test_messages_name_the_argument(kernels: _native.Kernels, argument: str) -> None:
    arguments: dict[str, Any] = {"a": f32(3, 4), "b": f32(4, 5), "bias": f32(5), "out": f32(3, 5)}
    arguments[argument] = arguments[argument].astype(np.float64)
    with pytest.raises(TypeError, match=rf"^{argument}: dtype is not float32"):
        kernels.product(**arguments)


@wrong_write
def test_product_output(kernels: _native.Kernels, wrong: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^out: "):
        kernels.product(f32(3, 4), f32(4, 5), wrong(3, 5))


@pytest.mark.parametrize(
    ("a", "b", "out", "named"),
    [
        ((3, 4), (5, 6), (3, 6), r"b: shape is \(5, 6\), expected \(4, 6\)"),
        ((3, 4), (4, 6), (6, 3), r"out: shape is \(6, 3\), expected \(3, 6\)"),
        ((2, 3, 4), (4, 6), (2, 3, 6), "b: has 2 dimensions, expected 3"),
        ((2, 3, 4), (3, 4, 6), (2, 3, 6), r"b: shape is \(3, 4, 6\), expected \(2, 4, 6\)"),
        ((4,), (4, 6), (6,), "a: has 1 dimensions, expected 2 or 3"),
    ],
)
def test_product_shapes(
    kernels: _native.Kernels,
    a: tuple[int, ...],
    b: tuple[int, ...],
    out: tuple[int, ...],
    named: str,
) -> None:
    with pytest.raises(TypeError, match=named):
        kernels.product(f32(*a), f32(*b), f32(*out))


def test_no_bias_for_batches(kernels: _native.Kernels) -> None:
    with pytest.raises(TypeError, match=r"^bias: "):
        kernels.product(f32(2, 3, 4), f32(2, 4, 5), f32(2, 3, 5), f32(5))


@pytest.mark.parametrize("name", ROWS)
@wrong_write
def test_sums(kernels: _native.Kernels, name: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^out: "):
        getattr(kernels, name)(f32(3, 4), wrong(3))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("x", [f32(3), f32(3, 4).T, f32(3, 4).astype(">f4"), None])
def test_sums_input(kernels: _native.Kernels, name: str, x: Any) -> None:
    with pytest.raises(TypeError, match=r"^x: "):
        getattr(kernels, name)(x, f32(4))


@pytest.mark.parametrize("name", ELEMENTWISE)
@wrong_write
def test_elementwise(kernels: _native.Kernels, name: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^out: "):
        getattr(kernels, name)(f32(3, 4), wrong(3, 4))


@pytest.mark.parametrize("name", ELEMENTWISE)
@wrong_read
def test_elementwise_input(kernels: _native.Kernels, name: str, wrong: Callable[..., Any]) -> None:
    # A wrong shape of `x` shows as an `out` that does not fit it.
    with pytest.raises(TypeError, match=r"^(x|out): "):
        getattr(kernels, name)(wrong(3, 4), f32(3, 4))


def test_read_only_inputs_are_fine(kernels: _native.Kernels) -> None:
    out = np.empty((3, 5), np.float32)
    kernels.product(read_only(3, 4), read_only(4, 5), out, read_only(5))
    assert (out == 5).all()


def test_outputs_must_not_overlap_inputs(kernels: _native.Kernels) -> None:
    memory = np.ones(64, np.float32)
    square = memory[:16].reshape(4, 4)
    with pytest.raises(ValueError, match="out: shares memory with a"):
        kernels.product(square, f32(4, 4), square)
    with pytest.raises(ValueError, match="out: shares memory with b"):
        kernels.product(f32(4, 4), square, memory[8:24].reshape(4, 4))
    with pytest.raises(ValueError, match="out: shares memory with bias"):
        kernels.product(f32(4, 4), f32(4, 4), square, memory[:4])
    with pytest.raises(ValueError, match="out: shares memory with x"):
        kernels.exp(memory[:16], memory[1:17])
    with pytest.raises(ValueError, match="out: shares memory with x"):
        kernels.row_sums(square, memory[:4])
    kernels.exp(memory[:16], memory[16:32])  # neighbours are fine


@pytest.mark.parametrize("call", ["product", "row_sums", "exp"])
def test_missing_arguments(kernels: _native.Kernels, call: str) -> None:
    with pytest.raises(TypeError):
        getattr(kernels, call)(f32(3, 4))
