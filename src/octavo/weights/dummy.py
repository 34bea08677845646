"""Random weights of the right scale, for models of which only a config.json is at hand.

They are right for speed and for tests, useless for quality. No file is read.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from octavo.program.ir import Weight
from octavo.weights.identity import Identity

F32 = NDArray[np.float32]

NORM_SPREAD = 0.02
"""Norm weights are 1 and biases 0, give or take this standard deviation."""
_NUM_LEVELS = 2**16
_VALUES_PER_WORD = 4
_BLOCK_WORDS = 2**14


class DummyWeights:
    """Numbers that depend on the seed, the tensor's name and the position only; a ``WeightSource``.

    Matrices are drawn from N(0, 1 / sqrt(last dimension)), so that activations keep their size
    from layer to layer. A value is one of 65,536 quantiles of the normal distribution, picked by
    16 bits of PCG64-DXSM (O'Neill 2014, as in NumPy), which can be entered at any position: the
    slices of one fused tensor agree with the whole, whichever is loaded, in any order.

    A transposed tensor is drawn in the orientation that the operation wants, (out, in).
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        normal = statistics.NormalDist()
        self._quantiles = np.array(
            [normal.inv_cdf((level + 0.5) / _NUM_LEVELS) for level in range(_NUM_LEVELS)],
            np.float32,
        )
        self._fingerprint = hashlib.blake2b(
            f"dummy,{seed},{NORM_SPREAD}".encode() + self._quantiles.tobytes(),
            digest_size=16,
            person=b"octavo-dummy",
        ).hexdigest()

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the seed and the way of drawing."""
        return self._fingerprint

    def identity(self) -> Identity | None:
        """None: what was made of random numbers is not worth keeping."""
        return None

    def load_rows(self, weight: Weight, begin: int, end: int) -> F32:
        """Rows [begin, end) of a matrix, drawn anew: (end - begin, columns) f32."""
        first_row = weight.first_row + begin
        shape = end - begin, *weight.shape[1:]
        whole = weight.num_tensor_rows or weight.shape[0]
        part = replace(weight, shape=shape, first_row=first_row, num_tensor_rows=whole)
        return self.load(part)

    def load(self, weight: Weight) -> F32:
        """The weight as a new C-contiguous float32 array of ``weight.shape``; the caller owns it.

        The same weight always has the same numbers.
        """
        mean, spread = _distribution(weight)
        levels = self._quantiles * np.float32(spread) + np.float32(mean)
        result = np.empty(weight.shape, np.float32)
        flat = result.reshape(-1)
        words = np.random.PCG64DXSM(self._stream(weight.tensor))
        # The slice may begin inside a word; drawing starts at that word's first value.
        first = weight.first_row * math.prod(weight.shape[1:])
        words.advance(first // _VALUES_PER_WORD)
        skipped = first % _VALUES_PER_WORD
        position = 0
        while position < flat.size:
            num_words = min(_BLOCK_WORDS, -(-(flat.size - position + skipped) // _VALUES_PER_WORD))
            picks = words.random_raw(num_words).astype("<u8", copy=False).view("<u2")
            picks = picks[skipped : skipped + flat.size - position]
            # Every pick is in range; mode "raise" would copy the output twice.
            np.take(levels, picks, out=flat[position : position + picks.size], mode="clip")
            position += picks.size
            skipped = 0
        return result

    def _stream(self, tensor: str) -> int:
        """What starts the random numbers of one tensor: 128 bits."""
        digest = hashlib.blake2b(f"{self.seed},{tensor}".encode(), digest_size=16).digest()
        return int.from_bytes(digest, "little")


def _distribution(weight: Weight) -> tuple[float, float]:
    """Mean and standard deviation."""
    if len(weight.shape) > 1:
        return 0.0, 1.0 / math.sqrt(max(weight.shape[-1], 1))
    if weight.tensor.endswith("bias"):
        return 0.0, NORM_SPREAD
    return 1.0, NORM_SPREAD
