"""How near decoding comes to the memory's bandwidth: one sequence reads all weights for a token."""

from __future__ import annotations

import time
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from octavo.backends.cpu import available_cores
from octavo.backends.products import products_of
from octavo.core.config import EngineConfig
from octavo.core.kv_layout import PAGE_SIZE, page_bytes
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.program.ir import Linear, Logits
from octavo.weights.formats import FORMATS
from octavo.weights.recipes import formats_of

_PROBE_BYTES = 256 << 20
_TRIES = 3
_GIGA = 1e9


class ReadRoof(msgspec.Struct, frozen=True):
    """What a token of a single sequence reads, beside what the machine could read in that time."""

    bytes_a_token: int
    """Weights that are multiplied with, and the keys and values of the context."""
    read_gb_per_s: float
    """The most that was read before and after the sample, by as many threads."""
    share: float
    """Of that bandwidth."""

    @classmethod
    def beside(cls, tokens_per_s: float, bytes_a_token: int, read_gb_per_s: float) -> ReadRoof:
        """From a speed and what was probed beside it."""
        share = tokens_per_s * bytes_a_token / (read_gb_per_s * _GIGA)
        return cls(bytes_a_token, round(read_gb_per_s, 2), round(share, 4))


def bytes_a_token(folder: Path, config: EngineConfig, context: int) -> int:
    """Read for one token of one sequence of so many tokens.

    Args:
        folder: of the model.
        config: its formats.
        context: tokens before this one.
    """
    spec = ModelSpec.read(folder)
    program = build(spec, spec.resolve_max_model_len(config.max_model_len))
    formats = formats_of(program, config.weight_format)
    multiplied = {part.weight for part in program.operations if isinstance(part, Linear | Logits)}
    weights = sum(prod(FORMATS[formats[weight]].shape(*weight.shape)) for weight in multiplied)
    return weights + sum(
        page_bytes(group, config.kv_format) * min(context, group.window or context) // PAGE_SIZE
        for group in program.kv_groups()
    )


def probe_read(num_threads: int | None) -> float:
    """The best of a few readings of memory that no cache holds, in GB/s."""
    native = products_of(num_threads or available_cores())
    memory = np.ones(_PROBE_BYTES, np.uint8)
    seconds = []
    for _ in range(_TRIES):
        started_s = time.perf_counter()
        native.read(memory)
        seconds.append(time.perf_counter() - started_s)
    return _PROBE_BYTES / min(seconds) / _GIGA
