"""What the scheduler counts: how much there is, and which paths were taken."""

from __future__ import annotations

import msgspec


class PageStats(msgspec.Struct, frozen=True):
    """Pages of one KV group; each is exactly one of the three."""

    free: int
    cached: int
    held: int


class SchedulerStats(msgspec.Struct, frozen=True):
    """Sequences and pages at this moment, and counters since the start.

    The counters show that a path was taken; a test that compares one path with another asserts
    them.
    """

    waiting: int
    """Sequences that are neither running nor finished."""
    running: int
    pages: tuple[PageStats, ...]
    """For each KV group."""
    requests: int
    steps: int
    computed_tokens: int
    max_running: int
    """Most sequences that ran together."""
    max_step_tokens: int
    """Most tokens in one step."""
    preemptions: int
    """Sequences that lost slot and pages, whatever the reason."""
    displacements: int
    """Sequences that were let in by preempting others for their sake."""
    hit_tokens: int
    """Tokens that were found in the prefix cache when a sequence started."""
    forks: int
    page_copies: int
    evictions: int


class Counters(msgspec.Struct):
    """The counters that ``SchedulerStats`` reports, while they grow."""

    requests: int = 0
    steps: int = 0
    computed_tokens: int = 0
    max_running: int = 0
    max_step_tokens: int = 0
    preemptions: int = 0
    displacements: int = 0
    hit_tokens: int = 0
    forks: int = 0
    page_copies: int = 0

    def count_step(self, num_tokens: int) -> None:
        self.steps += 1
        self.computed_tokens += num_tokens
        self.max_step_tokens = max(self.max_step_tokens, num_tokens)
