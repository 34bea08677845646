"""Programs of a few operations, computed by the reference backend from arrays given by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from octavo.backends.base import Limits
from octavo.backends.reference import ReferenceBackend, ReferenceExecutable
from octavo.program.builder import ProgramBuilder
from octavo.program.ir import Program, Value, Weight
from tests.forward import Sequences

F32 = NDArray[np.float32]
MAX_LEN = 1024


class ArrayWeights:
    """A weight source over arrays by tensor name."""

    fingerprint = "by hand"

    def identity(self) -> None:
        return None

    def __init__(self, arrays: Mapping[str, F32]) -> None:
        self._arrays = arrays

    def load_rows(self, weight: Weight, begin: int, end: int) -> F32:
        return np.ascontiguousarray(self.load(weight)[begin:end])

    def load(self, weight: Weight) -> F32:
        tensor = self._arrays[weight.tensor]
        assert tensor.shape == weight.tensor_shape, weight
        whole = tensor.T if weight.transposed else tensor
        return np.ascontiguousarray(whole[weight.first_row :][: weight.shape[0]])


def weight_of(name: str, array: F32) -> Weight:
    return Weight(name, array.shape)


def compile_by_hand(
    program: Program, arrays: Mapping[str, F32], *, num_pages: int = 8, instruction_set: str = ""
) -> tuple[ReferenceExecutable, Limits]:
    """Compile for one thread."""
    limits = Limits(32, 512, program.max_model_len, num_pages)
    backend = ReferenceBackend(1, instruction_set)
    return backend.compile(program, ArrayWeights(arrays), limits), limits


def inputs_program(
    build: Callable[..., Value], num_inputs: int, features: tuple[int, ...], num_rows: int
) -> Program:
    """Row i of every input is the one with the number of token i; the result goes out unchanged.

    The tensors are input0, input1, ..., and ``identity``, which is the head.
    """
    builder = ProgramBuilder(MAX_LEN)
    values = [
        builder.embed_tokens(Weight(f"input{index}", (num_rows, features[index])))
        for index in range(num_inputs)
    ]
    result = builder.take(build(builder, *values))
    return builder.finish(result, Weight("identity", (result.features, result.features)))


def compute(
    build: Callable[..., Value], *inputs: F32, weights: Mapping[str, F32] | None = None
) -> F32:
    """The rows that a few operations give for rows of inputs; row i is at position i.

    Exact, but for the sign of zero: the head multiplies by one and adds zeros.
    """
    num_rows = len(inputs[0])
    features = tuple(array.shape[1] for array in inputs)
    program = inputs_program(build, len(inputs), features, num_rows)
    arrays = {f"input{index}": array for index, array in enumerate(inputs)}
    arrays["identity"] = np.eye(program.vocab_size, dtype=np.float32)
    executable, limits = compile_by_hand(
        program, {**arrays, **(weights or {})}, num_pages=2 + num_rows // 16
    )
    sequences = Sequences(executable, limits)
    return sequences.logits([(sequences.add(), list(range(num_rows)))])[0]


def random_array(seed: int, *shape: int, scale: float = 1.0) -> F32:
    """Numbers between -scale and scale."""
    numbers = np.random.Generator(np.random.PCG64(seed)).uniform(-scale, scale, shape)
    return numbers.astype(np.float32)
