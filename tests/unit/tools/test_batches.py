"""What the rows of a training are, and what counts in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from batches import OPEN_MATERIAL, Mixture, Rows, Shares
from conversations import EARLY, RARE, Exchange, Requests
from made_stories import PLOTS, PRONOUNS
from make_tokenizer import ASSISTANT, USER

LETTERS = re.compile("[a-z]+")
MADE = Shares(made=1.0, chat=0.0, begun=0.0, made_chat=0.7, plain=0.0, things=0.0, talk=0.05)


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
    things = {thing for story in stories for thing in requests.main_things(story)}
    before = topics()
    mixture.shares = replace(MADE, things=1.0)
    after = topics()
    shares = [sum(topic in things for topic in each) / len(each) for each in (before, after)]
    assert shares[1] > 2 * shares[0] > 0


def test_a_main_thing_comes_early_and_again(stories: list[str]) -> None:
    requests = Requests(stories)
    found = [(story, thing) for story in stories for thing in requests.main_things(story)]
    assert len(found) > len(stories) / 2
    for story, thing in found:
        noun = thing.split()[1]
        words = re.findall(r"[a-z]+", story.lower())
        places = [at for at, word in enumerate(words) if word in (noun, noun + "s")]
        assert len(places) > 1
        early = len(re.findall(r"[a-z]+", story[: int(EARLY * len(story))].lower()))
        assert places[0] < early


def test_requests_count_nothing_and_answers_do(mixture: Mixture, tokenizer: Tokenizer) -> None:
    asked, told = map(tokenizer.token_to_id, (USER, ASSISTANT))
    in_request, num_requests = False, 0
    for token, weight in flat(mixture.rows(8, 512)):
        in_request |= token == asked
        assert (weight == 0.0) == in_request
        if in_request and token == told:
            in_request = False
            num_requests += 1
        assert weight in (0.0, 1.0)
    assert num_requests > 5


def test_only_the_first_mention_of_a_rare_word_counts_more(tokenizer: Tokenizer) -> None:
    often = ["The little girl and a dog went to the park."] * (RARE + 1)
    mixture = Mixture(often, tokenizer, seed=5, first_mention=4.0)
    answer = "The little girl had kites. One kite was a dragon, and the kite flew. Please!"
    told = tokenizer.encode(answer)
    said = Exchange(
        "Please tell me about the little girl, a kite and a dragon!",
        answer,
        about="the little girl, a kite and a dragon",
    )
    weights = mixture.worth(told, said)
    heavy = [span for span, weight in zip(told.offsets, weights, strict=True) if weight == 4.0]
    marked = "".join("^" if covered(at, heavy) else " " for at in range(len(answer)))
    assert [answer[slice(*match.span())] for match in re.finditer(r"\^+", marked)] == [
        " kites",
        " dragon",
    ]
    assert set(weights) == {1.0, 4.0}


def covered(at: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= at < end for start, end in spans)


def test_words_that_nobody_has_are_copied(stories: list[str], tokenizer: Tokenizer) -> None:
    """They come where they are said by who asks, and only there: nobody likes to read them."""
    known = {word for pronouns in PRONOUNS.values() for word in pronouns} | {
        word
        for path in PLOTS.rglob("*.toml")
        for word in LETTERS.findall(path.read_text(encoding="utf-8").lower())
    }

    def new_words(names: float, nouns: float) -> list[tuple[str, str]]:
        """Each with the request that its answer belongs to."""
        material = replace(OPEN_MATERIAL, invented_names=names, invented_nouns=nouns)
        shares = replace(MADE, talk=0.0, introduced=0.4, plain=0.4)
        mixture = Mixture(stories, tokenizer, seed=5, shares=shares, material=material)
        tokens = mixture.rows(64, 512).tokens.flatten().tolist()
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        found = re.findall(r"<\|user\|> ([^<]*)<\|end\|><\|assistant\|>([^<]*)<\|end\|>", text)
        return [
            (word, request)
            for request, answer in found
            for word in set(LETTERS.findall(answer.lower()))
            if word not in known and word.removesuffix("s") not in known
        ]

    assert not new_words(0.0, 0.0)
    for shares, at_least in (((1.0, 0.0), 11), ((0.0, 1.0), 2)):
        copied = new_words(*shares)
        assert len(copied) >= at_least
        assert all(word in request.lower() for word, request in copied)


def test_what_is_told_counts_so_in_rows_too(stories: list[str], tokenizer: Tokenizer) -> None:
    mixture = Mixture(stories, tokenizer, seed=5, shares=MADE, first_mention=4.0)
    counts = np.unique(mixture.rows(8, 512).weights).tolist()
    assert counts == [0.0, 1.0, 4.0]


def test_the_state_tells_whether_the_same_rows_follow(
    stories: list[str], tokenizer: Tokenizer
) -> None:
    """Over a change of shares, as in a training that is taken up again."""
    one, other = (Mixture(stories, tokenizer, seed=5, shares=MADE) for _ in range(2))
    for each in (one, other):
        each.rows(2, 512)
        each.shares = replace(MADE, plain=0.5, things=0.5)
        each.rows(2, 512)
    assert one.state() == other.state()
    one.rows(1, 8)
    assert one.state() != other.state()
    other.rows(1, 8)
    assert one.state() == other.state()
    one.shares = replace(MADE, plain=1.0)
    for each in (one, other):
        each.rows(8, 512)
    assert one.state() != other.state()
