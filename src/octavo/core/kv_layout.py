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


def page_bytes(group: KVGroup, kv_format: str) -> int:
    """Bytes of one page of a group: keys and values of all its layers, with their scales.

    Args:
        kv_format: f32, bf16 or int8.
    """
    of_vector = {
        "f32": 4 * group.head_dim,
        "bf16": 2 * group.head_dim,
        "int8": -(-group.head_dim // 4) * 4 + 4,  # padded to words, and a scale
    }
    return 2 * len(group.layers) * group.num_kv_heads * PAGE_SIZE * of_vector[kv_format]


def answer_room(num_prompt_tokens: int, *, max_model_len: int, num_pages: int) -> int:
    """Tokens that an answer can have at most: what context and pages leave; none, if below 1."""
    stored = (num_pages - 1) * PAGE_SIZE  # page 0 belongs to nobody
    # The last token is never stored.
    return min(max_model_len, stored + 1) - num_prompt_tokens


def pages_for(num_tokens: int) -> int:
    """The number of pages that hold this many tokens."""
    return -(-num_tokens // PAGE_SIZE)
