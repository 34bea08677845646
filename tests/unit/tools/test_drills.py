"""Drills count where they can be known, and nowhere else."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from tokenizers import Tokenizer

from batches import Mixture, Shares
from drills import Drills

NOTHING = Shares(made=1.0, chat=0.0, begun=0.0, made_chat=0.0, plain=0.0, things=0.0, talk=0.0)


def test_what_counts_has_followed_the_same_token_before(tokenizer: Tokenizer) -> None:
    drills = Drills(random.Random(2), tokenizer)
    for _ in range(50):
        tokens, weights = drills.drill()
        assert len(tokens) == len(weights)
        assert weights[0] == 0.0
        seen: set[tuple[int, int]] = set()
        for pair, weight in zip(pairwise(tokens), weights[1:], strict=True):
            assert weight in (0.0, 1.0)
            assert not weight or pair in seen
            seen.add(pair)
        assert 0.3 < sum(weights) / len(weights) < 0.8


def test_no_two_drills_are_the_same(tokenizer: Tokenizer) -> None:
    drills = Drills(random.Random(2), tokenizer)
    assert len({tuple(drills.drill()[0]) for _ in range(100)}) == 100


def test_they_are_mixed_in_where_a_stage_has_them(stories: list[str], tokenizer: Tokenizer) -> None:
    def counted(drills: float) -> float:
        """How much of the rows counts: all of a story, and half of a drill."""
        mixture = Mixture(stories, tokenizer, seed=1, shares=replace(NOTHING, drills=drills))
        return float(mixture.rows(8, 512).weights.mean())

    assert counted(0.0) == 1.0
    assert 0.5 < counted(0.5) < 0.95
