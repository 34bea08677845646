"""What counts as a repetition when the built-in model is trained against them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from make_tokenizer import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER
from octavo.models.builtin import builtin_folder
from repetition import (
    MAX_BEGINNING,
    MIN_BEGINNING,
    NGRAM,
    Beginnings,
    Continuation,
    continued,
    repeats,
    sentence_ending,
)

END = 99
STORIES = [
    f"Once upon a time, there was a dog named {name}. {name} had a ball. He lost the ball."
    for name in ("Max", "Tom", "Ben", "Sam", "Leo", "Bob", "Joe", "Tim")
]


def repeated(tokens: list[int]) -> list[int]:
    """The positions."""
    found = repeats(tokens, [token == END for token in tokens])
    return [position for position, again in enumerate(found) if again]


def test_the_token_that_completes_a_run_again_repeats() -> None:
    block = list(range(NGRAM))
    assert repeated([*block, 50, *block, 51]) == [2 * NGRAM]
    assert repeated([*block, 50, *block[1:], 51]) == []


def test_in_a_loop_every_token_repeats_but_the_first_ones() -> None:
    block = list(range(10))
    assert repeated(block * 3) == list(range(10 + NGRAM - 1, 30))
    assert repeated([7] * 20) == list(range(NGRAM, 20))


def test_a_sentence_that_comes_again_repeats_whole() -> None:
    sentence = [1, 2, 3, 4, END]
    assert repeated([*sentence, 8, 9, END, *sentence]) == [8, 9, 10, 11, 12]


def test_a_short_sentence_may_come_again() -> None:
    assert repeated([1, 2, 3, END, 8, 9, END, 1, 2, 3, END]) == []


def test_nothing_repeats_in_what_is_new() -> None:
    assert repeated(list(range(200))) == []
    assert repeated([]) == []


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(builtin_folder() / "tokenizer.json"))


def test_beginnings_are_of_stories_and_of_chats(tokenizer: Tokenizer) -> None:
    begin, user, end, assistant = map(
        tokenizer.token_to_id, (END_OF_TEXT, USER, END_OF_TURN, ASSISTANT)
    )
    drawn = Beginnings(STORIES * 10, tokenizer, seed=3).draw(60)
    chats = [given for given in drawn if user in given]
    assert 0 < len(chats) < len(drawn) / 2
    for given in drawn:
        assert given[0] == begin
        if given in chats:
            assert given[1] == user
            assert given[-2:] == [end, assistant]
        else:
            assert MIN_BEGINNING < len(given) <= MAX_BEGINNING + 1
            assert any(story.startswith(tokenizer.decode(given)) for story in STORIES)


def test_no_story_begins_twice_in_one_draw(tokenizer: Tokenizer) -> None:
    stories = [f"{name} is here and not there." for name in ("Ann", "Bob", "Cat", "Dan")]
    drawn = sorted(Beginnings(stories, tokenizer, seed=1).draw(len(stories)))
    alone = [given for given in drawn if tokenizer.token_to_id(USER) not in given]
    assert len(alone) >= 2
    assert all(first[:3] != second[:3] for first, second in pairwise(alone))


def test_sentences_end_where_they_seem_to(tokenizer: Tokenizer) -> None:
    ending = sentence_ending(tokenizer)
    assert len(ending) == tokenizer.get_vocab_size()
    ids = tokenizer.encode("He ran. Why? Oh!\nShe, too", add_special_tokens=False).ids
    ends = [tokenizer.decode([token]) for token in ids if ending[token]]
    assert "".join(ends).strip('"') == ".?!\n"


def test_continuations_are_the_likeliest_and_are_marked(tokenizer: Tokenizer) -> None:
    given = Beginnings(STORIES, tokenizer, seed=3).draw(2)
    ending = sentence_ending(tokenizer)
    found = continued(builtin_folder(), given, ending)
    assert [each.given for each in found] == given
    for each in found:
        assert isinstance(each, Continuation)
        assert each.repeated == repeats(each.tokens, [ending[token] for token in each.tokens])
    # One at a time, the same ones.
    chance = random.Random(0)
    picked = chance.randrange(2)
    assert continued(builtin_folder(), [given[picked]], ending) == [found[picked]]
