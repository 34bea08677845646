"""What the rows of a training are, and what counts in them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from batches import MAIN_THING, Mixture, Rows, Shares
from conversations import Requests
from corpus import WORD
from made_stories import Teller
from make_tokenizer import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER, make_tokenizer

MADE = Shares(made=1.0, chat=0.0, made_chat=0.7, plain=0.0, things=0.0, talk=0.05)


@pytest.fixture(scope="module")
def stories() -> list[str]:
    teller = Teller(random.Random(1))
    return [teller.story().text for _ in range(900)]


@pytest.fixture(scope="module")
def tokenizer(stories: list[str]) -> Tokenizer:
    return make_tokenizer(stories)


@pytest.fixture
def mixture(stories: list[str], tokenizer: Tokenizer) -> Mixture:
    return Mixture(stories, tokenizer, seed=5, shares=MADE)


def flat(rows: Rows) -> Iterator[tuple[int, float]]:
    """Each next token, and what it counts."""
    return zip(rows.next_tokens.flatten().tolist(), rows.weights.flatten().tolist(), strict=True)


def test_next_tokens_are_the_same_stream_one_later(mixture: Mixture) -> None:
    first, second = mixture.rows(4, 64), mixture.rows(2, 128)
    for rows, shape in ((first, (4, 64)), (second, (2, 128))):
        assert rows.tokens.shape == rows.next_tokens.shape == rows.weights.shape == shape
        assert (rows.tokens.dtype, rows.weights.dtype) == (np.int64, np.float32)
        assert rows.tokens.flatten()[1:].tolist() == rows.next_tokens.flatten()[:-1].tolist()
    assert first.next_tokens.flatten()[-1] == second.tokens.flatten()[0]


def test_how_rows_are_cut_changes_nothing(stories: list[str], tokenizer: Tokenizer) -> None:
    one, other = (Mixture(stories, tokenizer, seed=5, shares=MADE) for _ in range(2))
    long = list(flat(one.rows(4, 100)))
    short = [pair for _ in range(8) for pair in flat(other.rows(1, 50))]
    assert long == short


def test_what_people_say_who_do_not_ask_is_mixed_in(mixture: Mixture, tokenizer: Tokenizer) -> None:
    def num_asked(rows: Rows) -> int:
        text = tokenizer.decode(rows.tokens.flatten().tolist(), skip_special_tokens=False)
        return len(re.findall(r"<\|user\|>[^<]*\bstory\b", text))

    asked = num_asked(mixture.rows(16, 512))
    mixture.shares = replace(MADE, plain=1.0)
    mixture.rows(1, 512)  # what was begun
    assert num_asked(mixture.rows(16, 512)) < asked / 4


def test_some_requests_name_only_a_thing(
    mixture: Mixture, stories: list[str], tokenizer: Tokenizer
) -> None:
    def topics() -> list[str]:
        tokens = mixture.rows(24, 512).tokens.flatten().tolist()
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        return re.findall(r"about ([^<.!?,]+)[^<]*<\|end\|><\|assistant\|>", text)

    requests = Requests(stories)
    things = {thing for story in stories for thing in requests.things(story, MAIN_THING)}
    before = topics()
    mixture.shares = replace(MADE, things=1.0)
    after = topics()
    shares = [sum(topic in things for topic in each) / len(each) for each in (before, after)]
    assert shares[1] > 0.4 > 2 * shares[0]


def test_a_main_thing_is_said_again_and_again(stories: list[str]) -> None:
    requests = Requests(stories)
    found = [(story, thing) for story in stories for thing in requests.things(story, 3)]
    assert len(found) > len(stories) / 3
    for story, thing in found:
        assert len(re.findall(rf"\b{thing.split()[1]}\b", story)) >= 3


def test_requests_count_nothing_and_answers_do(mixture: Mixture, tokenizer: Tokenizer) -> None:
    begins, asked, told, ends = map(
        tokenizer.token_to_id, (END_OF_TEXT, USER, ASSISTANT, END_OF_TURN)
    )
    in_request, num_requests = False, 0
    for token, weight in flat(mixture.rows(8, 512)):
        in_request |= token == asked
        assert (weight == 0.0) == in_request
        if in_request and token == told:
            in_request = False
            num_requests += 1
        assert weight in (0.0, 1.0)
        if token == begins or (token == ends and not in_request):
            assert weight == 1.0
    assert num_requests > 5


def test_what_was_asked_for_counts_more_when_it_is_told_first(
    mixture: Mixture, tokenizer: Tokenizer
) -> None:
    """Where tokens begin to count more, a word of the request begins."""
    asked, told, ends = map(tokenizer.token_to_id, (USER, ASSISTANT, END_OF_TURN))
    mixture.first_mention = 4.0
    ids, weights = map(list, zip(*flat(mixture.rows(16, 512)), strict=True))
    num_heavy = 0
    for begin in [index for index, token in enumerate(ids) if token == asked][:-1]:
        answer = ids.index(told, begin) + 1
        request = WORD.findall(tokenizer.decode(ids[begin:answer]).lower())
        end = ids.index(ends, answer) if ends in ids[answer:] else len(ids)
        heavy = [index for index in range(answer, end) if weights[index] == 4.0]
        for index in heavy:
            if index - 1 not in heavy:
                named = WORD.findall(tokenizer.decode(ids[index : index + 8]).lower())[0]
                assert {named, named.removesuffix("s")} & set(request)
        num_heavy += bool(heavy)
    assert num_heavy > 10
