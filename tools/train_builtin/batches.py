"""From stories to rows of token ids, a new mixture in every epoch."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from conversations import Requests, Talk, request_for
from made_stories import Teller
from make_tokenizer import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER

AGAIN_SHARE = 0.3
"""What answers something goes on with the conversation before it so often."""
RENAMED_SHARE = 0.3
IGNORED = -100
"""The label of tokens that are given, not to be predicted."""

GIRLS = "Lily Mia Lucy Sara Anna Emma Amy Jane Sue Molly Daisy Bella Sally Ella Kate Rosie".split()
BOYS = "Tim Tom Ben Max Jack Sam Bob Joe Leo Billy Timmy Tommy Mark Johnny Fred Peter".split()


@dataclass(frozen=True, slots=True)
class Shares:
    """What there is how much of."""

    made: float
    """Of all stories, so many are made from plots."""
    chat: float
    """Of the stories of the corpus, so many answer a request;"""
    made_chat: float
    """and of the made ones."""
    talk: float
    """Of everything that is told or said, so much is no story."""


FIRST_SHARES = Shares(made=0.6, chat=0.05, made_chat=0.7, talk=0.05)
LAST_SHARES = Shares(made=0.8, chat=0.0, made_chat=0.7, talk=0.07)
"""While the rate falls: what is learned last stays best, and made stories hang together."""


class Mixture:
    """Rows of ``context + 1`` tokens with labels, cut from a stream of stories and conversations.

    Stories of the corpus come in another order in every epoch; names of people change places in
    some, so that a name has to be looked up, not remembered. Made stories are new every time. Some
    stories stand alone, some answer a request, alone or after others in the same conversation.
    ``shares`` may be changed at any time, for what is drawn from then on.
    """

    def __init__(
        self, stories: list[str], tokenizer: Tokenizer, seed: int, shares: Shares = FIRST_SHARES
    ) -> None:
        self.shares = shares
        self._stories = list(stories)
        self._requests = Requests(stories)
        self._tokenizer = tokenizer
        self._chance = random.Random(seed)
        self._teller = Teller(self._chance)
        self._talk = Talk(self._chance)
        self._ids = {
            token: tokenizer.token_to_id(token)
            for token in (END_OF_TEXT, USER, ASSISTANT, END_OF_TURN)
        }
        self._epochs = self._in_epochs()
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
        ids = self._ids
        in_conversation = False
        while True:
            again = in_conversation and self._chance.random() < AGAIN_SHARE
            request, answer = self._told(again=again)
            in_conversation = request is not None
            if request is None:
                yield self._labelled([ids[END_OF_TEXT]], self._encode(answer))
                continue
            given = [ids[USER], *self._encode(request), ids[END_OF_TURN], ids[ASSISTANT]]
            if not again:
                given.insert(0, ids[END_OF_TEXT])
            yield self._labelled(given, [*self._encode(answer), ids[END_OF_TURN]])

    def _told(self, *, again: bool) -> tuple[str | None, str]:
        """What is asked, and what is told; None: a story that nobody asked for."""
        chance = self._chance
        if chance.random() < self.shares.talk:
            return self._talk.exchange()
        if chance.random() < self.shares.made:
            made = self._teller.story()
            if chance.random() >= self.shares.made_chat:
                return None, made.text
            return request_for(made.topic, chance, again=again), made.text
        story = next(self._epochs)
        told = renamed(story, chance) if chance.random() < RENAMED_SHARE else story
        if chance.random() >= self.shares.chat:
            return None, told
        return self._requests.request(told, chance, again=again), told

    def _in_epochs(self) -> Iterator[str]:
        """The stories of the corpus, shuffled anew each time they are all told."""
        while True:
            self._chance.shuffle(self._stories)
            yield from self._stories

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
