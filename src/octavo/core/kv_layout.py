"""How keys and values are divided: pages of sixteen tokens, and layers grouped by what they keep.

Shared by the scheduler, which counts pages, and by the backends, which fill them.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SIZE = 16
"""Tokens in a page."""


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers with the same retention rule; they share one page table and one pool.

    A page of the group holds ``PAGE_SIZE`` tokens of all its layers in one contiguous span,
    laid out ``[layers, K | V, kv heads, ...]``.
    """

    window: int | None
    """None keeps every token. W: a token sees itself and the W - 1 tokens before it."""
    layers: tuple[int, ...]
    """Indices of the program's attention layers, ascending."""
    num_kv_heads: int
    head_dim: int

    def first_needed(self, position: int) -> int:
        """The first position that a token at ``position`` attends to."""
        return 0 if self.window is None else max(0, position - self.window + 1)


def pages_for(num_tokens: int) -> int:
    """The number of pages that hold this many tokens."""
    return -(-num_tokens // PAGE_SIZE)
