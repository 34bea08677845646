"""What a model repeats when it takes the likeliest token each time; no PyTorch in here.

``unloop.py`` trains against it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from conversations import Requests
from make_tokenizer import END_OF_TEXT, user_turn
from octavo import LLM, SamplingParams

CHAT_SHARE = 0.25
MIN_BEGINNING, MAX_BEGINNING = 3, 24
"""Tokens of a story that are given."""
CONTINUATION_TOKENS = 200
NGRAM = 8
MIN_SENTENCE = 5
SENTENCE_MARKS = ".!?\n"
TIMES, LOOP_TOKENS = 3, 24


@dataclass(frozen=True, slots=True)
class Continuation:
    """What followed a beginning, and which of its tokens repeat what it said before."""

    given: list[int]
    tokens: list[int]
    repeated: list[bool]


def repeats(tokens: Sequence[int], sentence_ends: Sequence[bool]) -> list[bool]:
    """Which tokens end a run of NGRAM that was there before, or stand in such a sentence.

    ``sentence_ends`` says of each token whether a sentence ends with it; sentences of fewer than
    MIN_SENTENCE tokens may come again.
    """
    found = [False] * len(tokens)
    ngrams: set[tuple[int, ...]] = set()
    for end in range(NGRAM, len(tokens) + 1):
        ngram = tuple(tokens[end - NGRAM : end])
        found[end - 1] = ngram in ngrams
        ngrams.add(ngram)
    sentences: set[tuple[int, ...]] = set()
    first = 0
    for position, ends in enumerate(sentence_ends):
        if not ends:
            continue
        sentence = tuple(tokens[first : position + 1])
        if len(sentence) >= MIN_SENTENCE and sentence in sentences:
            found[first : position + 1] = [True] * len(sentence)
        sentences.add(sentence)
        first = position + 1
    return found


class Beginnings:
    """Draws beginnings of training stories, and requests for them, as token ids."""

    def __init__(self, stories: list[str], tokenizer: Tokenizer, seed: int) -> None:
        self._stories = stories
        self._requests = Requests(stories)
        self._tokenizer = tokenizer
        self._chance = random.Random(seed)

    def draw(self, count: int) -> list[list[int]]:
        """Some, without a story twice."""
        return [self._begin(story) for story in self._chance.sample(self._stories, count)]

    def _begin(self, story: str) -> list[int]:
        if self._chance.random() < CHAT_SHARE:
            request = self._requests.request(story, self._chance)
            return self._encode(END_OF_TEXT + user_turn(request))
        given = self._chance.randint(MIN_BEGINNING, MAX_BEGINNING)
        return self._encode(END_OF_TEXT + story)[: 1 + given]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def sentence_ending(tokenizer: Tokenizer) -> list[bool]:
    """Of each token there is: whether a sentence, or a line, ends in it."""
    tokens = (tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size()))
    return [any(mark in token for mark in SENTENCE_MARKS) for token in tokens]


def continued(folder: Path, given: list[list[int]], ending: Sequence[bool]) -> list[Continuation]:
    """The likeliest continuations by the model in ``folder``; ``ending``: see above."""
    params = SamplingParams(max_tokens=CONTINUATION_TOKENS, temperature=0.0)
    with LLM(folder, weights="f32", max_num_seqs=64) as llm:
        outputs = llm.generate(given, params, progress=False)
    answers = [list(output.choices[0].token_ids) for output in outputs]
    return [
        Continuation(begin, answer, repeats(answer, [ending[token] for token in answer]))
        for begin, answer in zip(given, answers, strict=True)
    ]


def loop_in(ids: Sequence[int]) -> list[int] | None:
    """A block of tokens that stands TIMES times in a row and then covers LOOP_TOKENS or more.

    "very, very, very happy" is none: it is too short. A block repeated as often as it takes to
    reach LOOP_TOKENS is one, however short.
    """
    for length in range(1, len(ids) // TIMES + 1):
        span = max(TIMES * length, LOOP_TOKENS)
        equal = 0  # tokens in a row that equal the one a block before
        for position in range(length, len(ids)):
            equal = equal + 1 if ids[position] == ids[position - length] else 0
            if equal + length >= span:
                return list(ids[position - length + 1 : position + 1])
    return None
