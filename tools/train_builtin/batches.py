"""From stories to rows of token ids, a new mixture in every epoch."""

import random
import re
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from conversations import Requests
from make_tokenizer import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER

CHAT_SHARE = 0.5
AGAIN_SHARE = 0.3
RENAMED_SHARE = 0.3
IGNORED = -100
"""The label of tokens that are given, not to be predicted."""

GIRLS = "Lily Mia Lucy Sara Anna Emma Amy Jane Sue Molly Daisy Bella Sally Ella Kate Rosie".split()
BOYS = "Tim Tom Ben Max Jack Sam Bob Joe Leo Billy Timmy Tommy Mark Johnny Fred Peter".split()


class Mixture:
    """Rows of ``context + 1`` tokens with labels, cut from a stream of stories and conversations.

    Half of the stories stand alone, half answer a request; some of those follow an earlier story
    in the same conversation. Names of people change places in some, so that a name has to be
    looked up, not remembered.
    """

    def __init__(self, stories: list[str], tokenizer: Tokenizer, seed: int) -> None:
        self._stories = list(stories)
        self._requests = Requests(stories)
        self._tokenizer = tokenizer
        self._chance = random.Random(seed)
        self._ids = {
            token: tokenizer.token_to_id(token)
            for token in (END_OF_TEXT, USER, ASSISTANT, END_OF_TURN)
        }
        self._pieces = self._stream()
        self._rest = (np.empty(0, np.int64), np.empty(0, np.int64))

    def rows(self, count: int, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels, each [count, context] of int64."""
        needed = count * context + 1
        tokens, labels = ([part] for part in self._rest)
        while sum(map(len, tokens)) < needed:
            piece, wanted = next(self._pieces)
            tokens.append(np.array(piece))
            labels.append(np.array(wanted))
        stream, targets = np.concatenate(tokens), np.concatenate(labels)
        self._rest = stream[needed - 1 :], targets[needed - 1 :]
        shape = (count, context)
        return stream[: needed - 1].reshape(shape), targets[1:needed].reshape(shape)

    def _stream(self) -> Iterator[tuple[list[int], list[int]]]:
        """Token ids with labels; a request's tokens have the label IGNORED."""
        chance, ids = self._chance, self._ids
        while True:
            chance.shuffle(self._stories)
            again = False
            for story in self._stories:
                told = renamed(story, chance) if chance.random() < RENAMED_SHARE else story
                answer = self._encode(told)
                if chance.random() >= CHAT_SHARE:
                    again = False
                    yield self._labelled([ids[END_OF_TEXT]], answer)
                    continue
                again = again and chance.random() < AGAIN_SHARE
                request = self._encode(self._requests.request(told, chance, again=again))
                given = [ids[USER], *request, ids[END_OF_TURN], ids[ASSISTANT]]
                if not again:
                    given.insert(0, ids[END_OF_TEXT])
                again = True
                yield self._labelled(given, [*answer, ids[END_OF_TURN]])

    def _labelled(self, given: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
        # The first given token ends what came before: END_OF_TEXT has to be learned.
        first = given[0] if given[0] == self._ids[END_OF_TEXT] else IGNORED
        return given + answer, [first, *[IGNORED] * (len(given) - 1), *answer]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def renamed(story: str, chance: random.Random) -> str:
    """The story with names of girls and of boys exchanged for others."""
    change = {}
    for names in (GIRLS, BOYS):
        change.update(zip(names, chance.sample(names, len(names)), strict=True))
    return re.sub(r"\b[A-Z][a-z]+\b", lambda match: change.get(match[0], match[0]), story)
