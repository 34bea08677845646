"""From stories to rows of token ids, a new mixture in every epoch."""

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from conversations import (
    Exchange,
    Requests,
    Talk,
    begun,
    gone_on_with,
    hastily,
    plainly,
    request_for,
)
from corpus import WORD
from drills import Drills
from introductions import Introductions
from invented import invented_name, invented_noun
from made_stories import (
    ASKED_SHARE,
    LATER,
    LATER_TALK,
    OPEN,
    OPEN_TALK,
    OPEN_WORDS,
    PLOTS,
    TALK,
    TOPICS,
    WORDS,
    MadeStory,
    Teller,
    Words,
    read_plots,
)
from make_tokenizer import END_OF_TEXT, END_OF_TURN, user_turn

AGAIN_SHARE = 0.3
"""What answers something goes on with the conversation before it so often."""
RENAMED_SHARE = 0.3
GIRLS = "Lily Mia Lucy Sara Anna Emma Amy Jane Sue Molly Daisy Bella Sally Ella Kate Rosie".split()
BOYS = "Tim Tom Ben Max Jack Sam Bob Joe Leo Billy Timmy Tommy Mark Johnny Fred Peter".split()


@dataclass(frozen=True, slots=True)
class Shares:
    """What there is how much of.

    Where one with a default is nothing, nothing is drawn for it: stages from before it stay as
    they were, to the row.
    """

    made: float
    """Of all stories, so many are made from plots."""
    chat: float
    """Of the stories of the corpus, so many answer a request,"""
    begun: float
    """and of the others so many go on with a beginning that somebody types."""
    made_chat: float
    """Of the made stories, so many answer something."""
    plain: float
    """Of these, so many answer a topic alone, or a beginning."""
    things: float
    """Of the topics of made stories, so many are a thing or a place in it, if there is any."""
    talk: float
    """Of everything that is told or said, so much is no story."""
    introduced: float = 0.0
    """Of the made stories, so many are to go on with how somebody else begins one, where they can
    (``introductions``),"""
    introduced_alone: float = 0.0
    """and of those that do, so many are text that nobody asked for."""
    after: float = 0.0
    """After so many beginnings something else is said, which the plot does not know."""
    drills: float = 0.0
    """Of everything, so much is a drill (``drills``)."""


FIRST_SHARES = Shares(
    made=0.6, chat=0.05, begun=0.3, made_chat=0.7, plain=0.25, things=0.2, talk=0.05
)


@dataclass(frozen=True, slots=True)
class Material:
    """What made stories and talk are drawn from."""

    plots: dict[Path, int]
    """Folders or files; and how often a plot of each is told where one of another is told once."""
    talk: dict[Path, int]
    """Files; and how often what is in each is said."""
    words: tuple[Path, ...] = (WORDS,)
    asked_share: float = ASKED_SHARE
    """Of the topics, so many are what the plot says that it is about."""
    invented_names: float = 0.0
    """Where somebody's name is said by the one who asks, it is so often one made of syllables,"""
    invented_nouns: float = 0.0
    """and so is the noun of an open plot."""


FIRST_MATERIAL = Material(plots={PLOTS: 1}, talk={TALK: 1})
LATER_MATERIAL = Material(
    plots={PLOTS: 1, LATER: 2}, talk={TALK: 1, LATER_TALK: 4}, asked_share=0.8
)
OPEN_MATERIAL = Material(
    plots={PLOTS: 1, LATER: 2, OPEN: 2, TOPICS: 2},
    talk={TALK: 1, OPEN_TALK: 3},  # the later talk greets who says "good night"
    words=(WORDS, OPEN_WORDS),
    asked_share=0.8,
    invented_names=0.45,
    invented_nouns=0.35,
)


class Rows(NamedTuple):
    """What a pass is trained on; all [rows, context]."""

    tokens: np.ndarray
    """int64."""
    next_tokens: np.ndarray
    """int64: the same stream, one token later."""
    weights: np.ndarray
    """float32: what each of the next tokens counts."""


class Mixture:
    """Rows of tokens, cut from a stream of stories and conversations.

    Tokens of requests count nothing in the loss, and others 1; but where a rare word of what the
    answer is about comes up first in it, they count ``first_mention``.

    Stories of the corpus come in another order in every epoch; names of people change places in
    some, so that a name has to be looked up, not remembered. Made stories are new every time. Some
    stories stand alone, some answer a request, alone or after others in the same conversation.
    ``shares`` may be changed at any time, for what is drawn from then on.
    """

    def __init__(
        self,
        stories: list[str],
        tokenizer: Tokenizer,
        seed: int,
        shares: Shares = FIRST_SHARES,
        material: Material = FIRST_MATERIAL,
        *,
        first_mention: float = 1.0,
    ) -> None:
        self.shares = shares
        self._material = material
        self._first_mention = first_mention
        self._stories = list(stories)
        self._requests = Requests(stories)
        self._tokenizer = tokenizer
        self._chance = random.Random(seed)
        self._teller = Teller(
            self._chance,
            [
                plot
                for source, times in material.plots.items()
                for plot in times * read_plots(source)
            ],
            asked_share=material.asked_share,
            words=Words(material.words),
        )
        files = [path for path, times in material.talk.items() for _ in range(times)]
        self._talk = Talk(self._chance, files)
        self._introductions = Introductions(self._chance)
        self._drills = Drills(self._chance, tokenizer)
        self._ids = {token: tokenizer.token_to_id(token) for token in (END_OF_TEXT, END_OF_TURN)}
        self._epochs = self._in_epochs()
        self._pieces = self._stream()
        self._rest = (np.empty(0, np.int64), np.empty(0, np.float32))

    def rows(self, count: int, context: int) -> Rows:
        """So many rows of so many tokens, which go on where the last ones ended."""
        needed = count * context + 1
        tokens, weights = ([part] for part in self._rest)
        while sum(map(len, tokens)) < needed:
            piece, counts = next(self._pieces)
            tokens.append(np.array(piece))
            weights.append(np.array(counts, np.float32))
        stream, worth = np.concatenate(tokens), np.concatenate(weights)
        self._rest = stream[needed - 1 :], worth[needed - 1 :]
        parts = stream[: needed - 1], stream[1:needed], worth[1:needed]
        return Rows(*(part.reshape(count, context) for part in parts))

    def state(self) -> str:
        """The same for two that will give the same rows, if they are asked for the same ones."""
        rest = b"".join(part.tobytes() for part in self._rest)
        return hashlib.sha256(repr(self._chance.getstate()).encode() + rest).hexdigest()

    def _stream(self) -> Iterator[tuple[list[int], list[float]]]:
        """Token ids, and what they count in the loss."""
        ids = self._ids
        in_conversation = False
        while True:
            if self.shares.drills and self._chance.random() < self.shares.drills:
                in_conversation = False
                drill, weights = self._drills.drill()
                yield [ids[END_OF_TEXT], *drill], [1.0, *weights]
                continue
            again = in_conversation and self._chance.random() < AGAIN_SHARE
            said = self._said(again=again)
            in_conversation = said.request is not None
            # END_OF_TEXT ends what came before, and has to be learned.
            goes_on = again and in_conversation
            tokens, weights = ([], []) if goes_on else ([ids[END_OF_TEXT]], [1.0])
            if said.request is not None:
                given = self._encode(user_turn(said.request)).ids
                tokens += given
                weights += [0.0] * len(given)
            answer = self._encode(said.answer)
            tokens += answer.ids
            weights += self.worth(answer, said)
            if said.request is not None:
                tokens.append(ids[END_OF_TURN])
                weights.append(1.0)
            yield tokens, weights

    def _said(self, *, again: bool) -> Exchange:
        """A story alone, or something said and its answer; ``again``: after an earlier answer."""
        chance = self._chance
        if chance.random() < self.shares.talk:
            return self._talk.exchange()
        if chance.random() < self.shares.made:
            made = self._teller.story()
            introduced = self._introduced(made)
            if introduced is not None:
                return introduced
            if chance.random() >= self.shares.made_chat:
                return Exchange(None, made.text)
            topic = made.topic
            if chance.random() < self.shares.things:
                topic = chance.choice(self._requests.main_things(made.text) or [topic])
            if chance.random() < self.shares.plain:
                said = plainly(topic, made.text, chance, self._after(made))
            else:
                request = request_for(topic, chance, again=again)
                said = Exchange(request, made.text, topic)
            return hastily(self._with_inventions(said, made.words), chance)
        story = next(self._epochs)
        told = renamed(story, chance) if chance.random() < RENAMED_SHARE else story
        if chance.random() < self.shares.chat:
            return self._requests.request(told, chance, again=again)
        if chance.random() < self.shares.begun:
            return hastily(gone_on_with(told, chance), chance)
        return Exchange(None, told)

    def _introduced(self, made: MadeStory) -> Exchange | None:
        """The story as it goes on with a beginning that somebody types, in some cases."""
        chance = self._chance
        if not self.shares.introduced or chance.random() >= self.shares.introduced:
            return None
        parts = self._introductions.begin(made)
        if parts is None:
            return None
        if self.shares.introduced_alone and chance.random() < self.shares.introduced_alone:
            return Exchange(None, f"{parts.beginning} {parts.rest}")
        said = begun(parts.beginning, parts.rest, chance)
        return hastily(self._with_inventions(said, (parts.name, *made.words)), chance)

    def _with_inventions(self, said: Exchange, words: Iterable[str]) -> Exchange:
        """With a word that nobody has in the place of one that is asked with, in some cases."""
        shares = {True: self._material.invented_names, False: self._material.invented_nouns}
        if not any(shares.values()) or said.request is None:
            return said
        for word in words:
            is_name = word[0].isupper()
            asked = re.search(rf"\b{re.escape(word)}\b", said.request)
            if asked is None or self._chance.random() >= shares[is_name]:
                continue
            if is_name:
                said = exchanged(said, word, invented_name(self._chance))
            elif word[0] not in "aeiou":  # its article stays right
                said = exchanged(said, word, invented_noun(self._chance))
        return said

    def _after(self, made: MadeStory) -> str:
        """What somebody says beside the beginning of a story; mostly nothing."""
        share = self.shares.after
        if not share or made.hero is None or self._chance.random() >= share:
            return ""
        return self._introductions.after(made.hero)

    def _in_epochs(self) -> Iterator[str]:
        """The stories of the corpus, shuffled anew each time they are all told."""
        while True:
            self._chance.shuffle(self._stories)
            yield from self._stories

    def worth(self, answer: Encoding, said: Exchange) -> list[float]:
        """What each token of an answer counts."""
        weights = [1.0] * len(answer.ids)
        for word in set(WORD.findall(said.about)):
            first = re.search(rf"\b{re.escape(word)}s?\b", said.answer, re.IGNORECASE)
            if first is None or not self._requests.is_rare(word):
                continue
            for index, (start, end) in enumerate(answer.offsets):
                if start < first.end() and end > first.start():
                    weights[index] = self._first_mention
        return weights

    def _encode(self, text: str) -> Encoding:
        return self._tokenizer.encode(text, add_special_tokens=False)


def exchanged(said: Exchange, word: str, other: str) -> Exchange:
    """With another name or noun, also in the plural and at the beginning of a sentence."""
    change = {word: other, word.capitalize(): other.capitalize()}
    pattern = rf"\b(?:{'|'.join(map(re.escape, change))})(?=s?\b)"
    return Exchange(
        *(part and re.sub(pattern, lambda match: change[match[0]], part) for part in said)
    )


def renamed(story: str, chance: random.Random) -> str:
    """The story with names of girls and of boys exchanged for others."""
    change = {}
    for names in (GIRLS, BOYS):
        change.update(zip(names, chance.sample(names, len(names)), strict=True))
    return re.sub(r"\b[A-Z][a-z]+\b", lambda match: change.get(match[0], match[0]), story)
