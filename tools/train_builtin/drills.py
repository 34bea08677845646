"""Words that nobody has, again and again: what it takes to copy, and nothing else.

A story says a new name in some places; a drill says some ten words of random tokens dozens of
times, in any order. Which of them comes next cannot be known, but how it goes on can: as it did
before. So attention that finds what followed the last time (an induction head: C. Olsson et al.,
*In-context Learning and Induction Heads*, 2022) is learned soon, for stories to use.
"""

import random

from tokenizers import Tokenizer

NUM_WORDS = (4, 12)
TOKENS_A_WORD = (2, 5)
TIMES = (3, 6)
"""A word comes so often, on average."""
SPACE = "\u0120"
"""How byte-level BPE writes the space that a word begins with."""


class Drills:
    """Draws drills for a tokeniser."""

    def __init__(self, chance: random.Random, tokenizer: Tokenizer) -> None:
        self._chance = chance
        pieces = sorted(tokenizer.get_vocab().items())
        self._first = [i for piece, i in pieces if piece[0] == SPACE and piece[1:].isalpha()]
        self._further = [i for piece, i in pieces if piece.isascii() and piece.isalpha()]

    def drill(self) -> tuple[list[int], list[float]]:
        """Token ids, and what they count: nothing where they cannot be known."""
        chance = self._chance
        words = [self._word() for _ in range(chance.randint(*NUM_WORDS))]
        tokens, weights, said = [], [], set()
        for _ in range(len(words) * chance.randint(*TIMES)):
            which = chance.randrange(len(words))
            word = words[which]
            tokens += word
            known = float(which in said)
            weights += [0.0] + [known] * (len(word) - 1)
            said.add(which)
        return tokens, weights

    def _word(self) -> list[int]:
        further = self._chance.randint(*TOKENS_A_WORD) - 1
        return [self._chance.choice(self._first), *self._chance.choices(self._further, k=further)]
