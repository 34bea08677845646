"""Pages of keys and values in float32, and causal attention through them, in NumPy.

The reference backend's own; ``reference.py`` has the other operations. A query row's result is a
function of that row and of the keys and values that it sees, to the bit: not of the rows computed
beside it, of how a prompt was cut, or of what lies in slots that it does not see.

- Attention reduces over chunks at absolute multiples of 256 tokens. Each gives (max, sum, output);
  they are merged in ascending order, also when there is only one.
- A chunk may be computed a few tokens wider than a row needs. A token that the row does not see
  has the weight +0 exactly. It adds +0 to sums, and +-0 to outputs, which the merge turns to +0.
- Scores of unseen tokens are selected away, never multiplied away, and values that no row sees
  read as zero: NaN there changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo._native import Kernels
from octavo.backends.base import F32, Batch, Bools
from octavo.core.kv_layout import PAGE_SIZE, KVGroup
from octavo.program.ir import Attend

CHUNK = 256
"""Tokens reduced together. Part of what decides the bits."""
PAGES_PER_CHUNK = CHUNK // PAGE_SIZE

_NEVER = np.float32(-np.inf)
_ZERO = np.float32(0.0)

I64 = NDArray[np.int64]


class PagePool:
    """The pages of one KV group."""

    def __init__(self, group: KVGroup, num_pages: int) -> None:
        self.group = group
        # (pages, layers, K | V, kv heads, tokens, head_dim); memory is taken as pages are used
        self.pages: F32 = np.zeros(
            (num_pages, len(group.layers), 2, group.num_kv_heads, PAGE_SIZE, group.head_dim),
            np.float32,
        )

    def copy(self, source: int, target: int) -> None:
        self.pages[target] = self.pages[source]

    def bytes_of(self, page: int) -> NDArray[np.uint8]:
        """A writable view: (bytes,)."""
        view: NDArray[np.uint8] = self.pages[page].reshape(-1).view(np.uint8)
        return view

    def write(self, layer: int, places: Places, keys: F32, values: F32) -> None:
        """Store rows of keys and values, each (tokens, kv heads, head_dim)."""
        self.pages[places.pages, layer, 0, :, places.slots] = keys
        self.pages[places.pages, layer, 1, :, places.slots] = values

    def keys(self, layer: int, pages: I64) -> F32:
        """With tokens as columns: (seqs * kv heads, head_dim, tokens). ``pages``: (seqs, n)."""
        found = self.pages[pages, layer, 0].transpose(0, 2, 4, 1, 3)
        return np.ascontiguousarray(found).reshape(
            -1, self.group.head_dim, pages.shape[1] * PAGE_SIZE
        )

    def values(self, layer: int, pages: I64) -> F32:
        """(seqs, kv heads, tokens, head_dim). ``pages``: (seqs, n)."""
        found = self.pages[pages, layer, 1].transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(found).reshape(
            len(pages), self.group.num_kv_heads, pages.shape[1] * PAGE_SIZE, self.group.head_dim
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Where the keys and values of a step's tokens go."""

    pages: I64  # (tokens,)
    slots: I64  # (tokens,)


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """One chunk of those sequences of a bundle that see something in it."""

    members: I64  # (seqs,) indices into the bundle
    pages: I64  # (seqs, n) page 0 where no row looks
    visible: Bools  # (seqs, rows, tokens)
    unseen: Bools  # (seqs, tokens) by every row


@dataclass(frozen=True, slots=True)
class Bundle:
    """Sequences with the same number of rows in a step, computed together."""

    rows: I64  # (seqs, rows) of the batch
    chunks: list[ChunkPlan]  # ascending


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The index work of one step for one KV group, the same for all of its layers."""

    places: Places
    bundles: list[Bundle]


def plan_attention(batch: Batch, group_index: int, group: KVGroup) -> AttentionPlan:
    """Find out who writes where, and who sees what."""
    table = batch.page_tables[group_index].astype(np.int64)
    counts = np.diff(batch.row_starts)
    positions = batch.positions.astype(np.int64)
    seq_of_row = np.repeat(np.arange(len(counts)), counts)
    places = Places(table[seq_of_row, positions // PAGE_SIZE], positions % PAGE_SIZE)
    bundles = []
    for count in np.unique(counts[counts > 0]).tolist():
        seqs = np.flatnonzero(counts == count)
        rows = batch.row_starts[seqs, None].astype(np.int64) + np.arange(count)
        bundles.append(Bundle(rows, _plan_chunks(positions[rows], table[seqs], group)))
    return AttentionPlan(places, bundles)


def _plan_chunks(last: I64, table: I64, group: KVGroup) -> list[ChunkPlan]:
    """The chunks of a bundle. ``last``: (seqs, rows) the position of each row."""
    first = np.zeros_like(last)
    if group.window is not None:
        first = np.maximum(first, last - (group.window - 1))
    chunks = []
    for begin in range(int(first.min()) // CHUNK * CHUNK, int(last.max()) + 1, CHUNK):
        members = np.flatnonzero((last[:, -1] >= begin) & (first[:, 0] < begin + CHUNK))
        if len(members) == 0:
            continue
        first_page = begin // PAGE_SIZE
        past_page = min(int(last[members].max()) // PAGE_SIZE + 1, first_page + PAGES_PER_CHUNK)
        columns = np.arange(first_page, past_page)
        tokens = np.arange(first_page * PAGE_SIZE, past_page * PAGE_SIZE)
        lowest, highest = first[members, :, None], last[members, :, None]
        visible: Bools = np.asarray((tokens >= lowest) & (tokens <= highest))
        seen = visible.any(axis=1)
        page_seen = seen.reshape(len(members), -1, PAGE_SIZE).any(axis=2)
        pages = np.where(page_seen, table[members[:, None], columns], 0)
        chunks.append(ChunkPlan(members, pages, visible, np.logical_not(seen)))
    return chunks


class PagedAttention:
    """``Attend`` over the pools of a program."""

    def __init__(self, kernels: Kernels, pools: list[PagePool]) -> None:
        self._kernels = kernels
        self._place_of_layer = {
            layer: (pool, index, group_index)
            for group_index, pool in enumerate(pools)
            for index, layer in enumerate(pool.group.layers)
        }

    def attend(self, operation: Attend, plans: list[AttentionPlan], q: F32, k: F32, v: F32) -> F32:
        """Store the step's keys and values, then attend. All (tokens, features)."""
        pool, layer, group_index = self._place_of_layer[operation.layer]
        plan = plans[group_index]
        kv_shape = (-1, operation.num_kv_heads, operation.head_dim)
        pool.write(layer, plan.places, k.reshape(kv_shape), v.reshape(kv_shape))
        # Query heads of a KV head stand together: (tokens, kv heads, heads of one, head_dim)
        queries = q.reshape(len(q), operation.num_kv_heads, -1, operation.head_dim)
        result = np.empty_like(queries)
        scale = np.float32(operation.scale)
        for bundle in plan.bundles:
            # (seqs, kv heads, rows, heads of one, head_dim)
            rows = np.ascontiguousarray(queries[bundle.rows].transpose(0, 2, 1, 3, 4))
            outputs = self._attend_bundle(rows, bundle.chunks, pool, layer, scale)
            result[bundle.rows] = outputs.transpose(0, 2, 1, 3, 4)
        return result.reshape(q.shape)

    def _attend_bundle(
        self, queries: F32, chunks: list[ChunkPlan], pool: PagePool, layer: int, scale: np.float32
    ) -> F32:
        """The chunks merged in ascending order; shaped as the queries."""
        best = np.full(queries.shape[:-1], _NEVER)
        total = np.zeros_like(best)
        output = np.zeros_like(queries)
        for chunk in chunks:
            members = chunk.members
            peak, weight, part = self._attend_chunk(queries[members], chunk, pool, layer, scale)
            together = np.maximum(best[members], peak)
            base = _finite_base(together)
            old, new = self._exp(best[members] - base), self._exp(peak - base)
            best[members] = together
            total[members] = total[members] * old + weight * new
            # + 0 turns -0 into +0: whether unseen tokens were added then does not show.
            merged = output[members] * old[..., None] + part * new[..., None] + _ZERO
            output[members] = merged
        return output / total[..., None]

    def _attend_chunk(
        self, queries: F32, chunk: ChunkPlan, pool: PagePool, layer: int, scale: np.float32
    ) -> tuple[F32, F32, F32]:
        """One chunk's maximum and sum, (seqs, kv heads, rows, heads of one), and output."""
        seqs, kv_heads, rows, heads, head_dim = queries.shape
        flat = queries.reshape(seqs * kv_heads, rows * heads, head_dim)
        keys = pool.keys(layer, chunk.pages)
        scores = np.empty((*flat.shape[:2], keys.shape[2]), np.float32)
        self._kernels.product(flat, keys, scores)
        scores = scores.reshape(seqs, kv_heads, rows, heads, -1)
        scores = np.where(chunk.visible[:, None, :, None], scores * scale, _NEVER)
        peak = scores.max(axis=-1)
        scores -= _finite_base(peak)[..., None]
        self._kernels.exp(scores, scores)
        sums = np.empty(peak.size, np.float32)
        self._kernels.row_sums(scores.reshape(peak.size, -1), sums)
        values = pool.values(layer, chunk.pages)
        np.copyto(values, _ZERO, where=chunk.unseen[:, None, :, None])
        return peak, sums.reshape(peak.shape), self._weigh(scores, values, chunk.visible)

    def _weigh(self, weights: F32, values: F32, visible: Bools) -> F32:
        """Weights times values: (seqs, kv heads, rows, heads of one, head_dim)."""
        if np.isfinite(values).all():
            return self._product(weights, values)
        # Some row's values are NaN or infinite. A weight of 0 would not keep them out of the rows
        # before it, so each row is given only what it sees.
        parts = [
            self._product(
                weights[:, :, row : row + 1],
                np.where(visible[:, None, row, :, None], values, _ZERO),
            )
            for row in range(weights.shape[2])
        ]
        return np.concatenate(parts, axis=2)

    def _product(self, weights: F32, values: F32) -> F32:
        seqs, kv_heads, rows, heads, num_tokens = weights.shape
        out = np.empty((seqs, kv_heads, rows, heads, values.shape[-1]), np.float32)
        self._kernels.product(
            np.ascontiguousarray(weights).reshape(seqs * kv_heads, rows * heads, num_tokens),
            values.reshape(seqs * kv_heads, num_tokens, -1),
            out.reshape(seqs * kv_heads, rows * heads, -1),
        )
        return out

    def _exp(self, x: F32) -> F32:
        self._kernels.exp(x, x)
        return x


def _finite_base(peak: F32) -> F32:
    """What is taken off before exp; 0 for a row that has seen nothing yet."""
    return np.where(peak == _NEVER, _ZERO, peak)
