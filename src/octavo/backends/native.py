"""The native backend: a program becomes one list of calls that run without Python.

``program/fuse.py`` fuses, ``native_layout.py`` gives every value a place and every operation a
call, ``csrc/executor`` runs the calls, ``csrc/kernels`` computes.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from octavo._native import Forward, Kernels, NativeSampler, Products, ThreadPool
from octavo.backends.base import (
    F32,
    HEAD_BLOCK,
    I32,
    NO_SCORES,
    Batch,
    Limits,
    Rows,
    WeightSource,
    closed,
)
from octavo.backends.cpu import available_cores, unusable_instruction_set
from octavo.backends.memory import zeroed_bytes
from octavo.backends.native_layout import Layout
from octavo.backends.native_sampler import SampledRows
from octavo.backends.packed_weights import PackedWeights
from octavo.core.kv_layout import page_bytes
from octavo.program.fuse import Fusions, fuse
from octavo.program.ir import Embed, Logits, Program
from octavo.weights.formats import FORMATS, find_format
from octavo.weights.pack_cache import PackCache
from octavo.weights.recipes import describe, formats_of

VERSION = 1
"""Raised by every change that changes bits."""
KV_LAYOUT_VERSION = 1


class NativeBackend:
    """Compiles programs for the processor at hand.

    Args:
        num_threads: None: one for each core that this process may use. Never changes a bit.
        instruction_set: empty: the best there is.
        weights: the format of the weights: f32, bf16, w8 or w4 (``weights/recipes.py``).
        kv: the format of keys and values: f32, bf16 or int8.
        profile: measure how long each kind of work takes.
        fusions: which neighbours are computed together. Never changes a bit.
        pack_cache: where packed weights are looked for and kept; None: nowhere.

    Raises:
        ConfigError: no such instruction set on this machine, or no such format.
    """

    name = "native"

    def __init__(
        self,
        num_threads: int | None = None,
        instruction_set: str = "",
        *,
        weights: str = "f32",
        kv: str = "f32",
        profile: bool = False,
        fusions: Fusions | None = None,
        pack_cache: PackCache | None = None,
    ) -> None:
        self._num_threads = num_threads or available_cores()
        self._pack_cache = pack_cache
        self._weights = find_format(weights).name
        self._kv = kv
        self._profile = profile
        self._pool = ThreadPool(self._num_threads)
        try:
            self._kernels = Kernels(self._pool, instruction_set)
        except ValueError as error:
            raise unusable_instruction_set(instruction_set, error) from error
        self._fusions = fusions or Fusions()

    def weight_bytes(self, program: Program) -> int:
        """Of the packed weights, and of what stays in float32."""
        formats = formats_of(program, self._weights)
        sizes = (
            prod(FORMATS[formats[weight]].shape(*weight.shape))
            if weight in formats
            else 4 * prod(weight.shape)
            for weight in program.weights()
        )
        # Float32 tables are rows, also where the head has the same numbers in panels.
        heads = {part.weight for part in program.operations if isinstance(part, Logits)}
        twice = {
            part.table
            for part in program.operations
            if isinstance(part, Embed) and part.table in heads and formats[part.table] == "f32"
        }
        return sum(sizes) + sum(4 * prod(table.shape) for table in twice)

    def compile(self, program: Program, weights: WeightSource, limits: Limits) -> NativeExecutable:
        """Pack weights or read them packed, lay out the calls, make room for keys and values.

        Raises:
            ModelError: a weight cannot be loaded.
        """
        return NativeExecutable(
            program,
            weights,
            limits,
            self._pool,
            self._kernels,
            self._weights,
            self._kv,
            self._fusions,
            self._profile,
            self._pack_cache,
            self._num_threads,
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """What an executable gives back when it is closed."""

    forward: Forward
    sampler: NativeSampler
    pages: list[NDArray[np.uint8]]  # a KV group each: (pages, bytes)
    packed: PackedWeights
    source: WeightSource

    def copy_pages(self, batch: Batch) -> None:
        """What comes before a step is computed."""
        self.packed.num_steps += 1
        for group, source, target in batch.page_copies.tolist():
            self.pages[group][target] = self.pages[group][source]


class NativeExecutable:
    """A program in packed weights, its pages, and its calls."""

    def __init__(
        self,
        program: Program,
        weights: WeightSource,
        limits: Limits,
        pool: ThreadPool,
        kernels: Kernels,
        weight_format: str,
        kv_format: str,
        fusions: Fusions,
        profile: bool,
        pack_cache: PackCache | None,
        num_threads: int,
    ) -> None:
        self.kv_groups = program.kv_groups()
        sampler = NativeSampler(pool, program.vocab_size, kernels.instruction_set)
        uses_bf16 = "bf16" in (weight_format, kv_format)
        self._family = "any" if not uses_bf16 else _bf16_family(kernels.instruction_set)
        self._vocab_size = program.vocab_size
        self._program_digest = program.digest()
        pages = [
            zeroed_bytes(limits.num_pages * page_bytes(group, kv_format)).reshape(
                limits.num_pages, -1
            )
            for group in self.kv_groups
        ]
        forward = Forward(
            pool,
            kernels.instruction_set,
            max_tokens=limits.max_num_batched_tokens,
            max_heads=HEAD_BLOCK,
            max_model_len=limits.max_model_len,
            joins_rows=fusions.stack,
            finds_peaks=fusions.highest,
        )
        formats = formats_of(program, weight_format)
        self._weight_format = describe(weight_format)
        self._kv_format = kv_format
        fused = fuse(program, fusions, lambda linear: formats[linear.weight])
        packed = PackedWeights(
            fused,
            weights,
            Products(pool, kernels.instruction_set),
            formats,
            self._weight_format,
            pack_cache,
            num_threads,
        )
        layout = Layout(
            forward,
            weights,
            packed,
            formats,
            self.kv_groups,
            pages,
            kv_format,
        )
        layout.lay_out(fused)
        forward.profile(profile)
        self._rope_digest = layout.rope_digest()
        self.weight_bytes = layout.weight_bytes
        self.weights_from_cache = packed.from_cache
        """Whether they were read packed."""
        self._held: _Held | None = _Held(forward, sampler, pages, packed, weights)
        # Also for whoever drops it without closing it.
        self._let_go = weakref.finalize(self, packed.close)
        self._let_go.atexit = False
        packed.keep()

    def numerics(self) -> dict[str, str]:
        """What decides the bits of keys and values; asks for the weights' fingerprint."""
        held = self._open()
        if held.packed.fingerprint is None:
            held.packed.fingerprint = held.source.fingerprint
        return {
            "backend": f"{NativeBackend.name} {VERSION}",
            "instruction_set": self._family,
            "kv_format": f"{self._kv_format} panels {KV_LAYOUT_VERSION}",
            "program": self._program_digest,
            "rope": self._rope_digest,
            "weight_format": self._weight_format,
            "weights": held.packed.fingerprint,
        }

    def run(self, batch: Batch) -> Rows:
        """Copy pages, compute every token of the batch, store its keys and values, sample."""
        held = self._open()
        held.copy_pages(batch)
        room = max(batch.sampling.num_logprobs.tolist(), default=-1)
        drawn = SampledRows(len(batch.sample_rows), min(room, self._vocab_size))
        num_failed = held.forward.run(batch, held.sampler, drawn.tokens, *drawn.arrays())
        rows = Rows(drawn.tokens, drawn.scored(), NO_SCORES)
        if num_failed:
            rows.errors = drawn.failures()
        if len(batch.score_rows):
            room = min(int(batch.score_num_top.max()), self._vocab_size)
            scored = SampledRows(len(batch.score_rows), room)
            held.forward.score(
                batch.score_rows,
                held.sampler,
                batch.score_targets,
                batch.score_num_top,
                *scored.arrays(),
            )
            rows.prompt_scores, rows.prompt_errors = scored.scored(), scored.failures()
        return rows

    def logits(self, batch: Batch, rows: I32) -> F32:
        """As :meth:`run`, but instead of sampling the logits of these rows: (rows, vocab)."""
        held = self._open()
        held.copy_pages(batch)
        held.forward.compute(batch)
        blocks = [rows[start : start + HEAD_BLOCK] for start in range(0, len(rows), HEAD_BLOCK)]
        found = [held.forward.logits(block).copy() for block in blocks]
        return np.concatenate([np.empty((0, self._vocab_size), np.float32), *found])

    def seconds(self) -> dict[str, float]:
        """By kind of stage, if the backend profiles; those of the head have a prefix."""
        return self._open().forward.seconds()

    def page(self, group: int, page: int) -> NDArray[np.uint8]:
        """One page's bytes, a writable view."""
        view: NDArray[np.uint8] = self._open().pages[group][page]
        return view

    def close(self) -> None:
        """Let go of weights and pages; see :meth:`PackedWeights.close`.

        A step that is running all the same keeps them until it is done.
        """
        self._let_go()
        self._held = None

    def _open(self) -> _Held:
        held = self._held
        if held is None:
            raise closed()
        return held


def _bf16_family(instruction_set: str) -> str:
    """bf16 products round denormals away where one instruction computes them."""
    return "bf16" if instruction_set in ("avx512bf16", "amx") else "fma"
