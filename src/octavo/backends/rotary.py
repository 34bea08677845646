"""The cosines and sines of a rotary embedding, for every backend."""

from __future__ import annotations

import numpy as np

from octavo.backends.base import F32
from octavo.program.ir import RotaryTable

_BLOCK = 4096  # positions in float64 at once


def rotary_tables(table: RotaryTable) -> tuple[F32, F32]:
    """Cosines and sines, each (num_positions, rotary_dim / 2).

    Computed in float64 and rounded once. The last bit may differ between NumPy's builds, which
    is why their content is part of an executable's numerics.
    """
    frequencies = np.array(table.frequencies)
    shape = (table.num_positions, len(frequencies))
    cosines, sines = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for start in range(0, table.num_positions, _BLOCK):
        stop = min(start + _BLOCK, table.num_positions)
        angles = np.arange(start, stop, dtype=np.float64)[:, None] * frequencies
        cosines[start:stop] = np.cos(angles) * table.magnitude
        sines[start:stop] = np.sin(angles) * table.magnitude
    return cosines, sines
