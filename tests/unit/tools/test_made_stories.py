"""Plots become stories without a hole in them, the same for the same seed."""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import pytest

from conversations import Talk, request_for
from made_stories import (
    LATER,
    LATER_TALK,
    OPEN,
    OPEN_TALK,
    OPEN_WORDS,
    TALK,
    WORDS,
    Being,
    Doing,
    Plot,
    Teller,
    Thing,
    Words,
    read_plots,
    told,
)

OPEN_PLOTS = read_plots(OPEN)
PLOTS = read_plots() + read_plots(LATER) + OPEN_PLOTS
SEEDS = range(25)
HOLE = re.compile(r"[\[\]{}|<>]|  |\b[Aa] [aeio]|\b(an?|the) (an?|the) |\bNone\b| [.,!?](?!\.)")
"""What a mistake in a plot leaves in a story."""


WORDS_OF_ALL = Words((WORDS, OPEN_WORDS))


def teller(seed: int) -> Teller:
    return Teller(random.Random(seed), PLOTS, words=WORDS_OF_ALL)


def test_there_are_many_plots() -> None:
    assert len({plot.name for plot in PLOTS}) == len(PLOTS) >= 60


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_plot_becomes_a_story(plot: Plot) -> None:
    stories = [teller(seed).story(plot) for seed in SEEDS]
    for made in stories:
        for text in (made.text, made.topic):
            assert text.isascii()
            assert not HOLE.search(text), text
        assert 250 <= len(made.text) <= 1500, made.text
        assert made.text[0].isupper() or made.text[0] == '"'
        assert made.text.rstrip('"')[-1] in ".!?", made.text
        assert made.text.count('"') % 2 == 0, made.text
        assert made.topic[-1] not in ".!?"
    assert len({made.text for made in stories}) == len(stories)


def test_the_same_seed_tells_the_same_stories() -> None:
    first, second = ([teller(5).story() for _ in range(3)] for _ in range(2))
    assert first == second
    assert teller(6).story() != first[0]


@pytest.mark.parametrize("plot", OPEN_PLOTS, ids=lambda plot: plot.name)
def test_an_open_plot_has_room_for_any_word(plot: Plot) -> None:
    """Who and what it is asked about changes its story and its topic."""
    topics = [teller(seed).story(plot).topic for seed in range(40)]
    assert len(set(topics)) > 20


@pytest.mark.parametrize("plot", OPEN_PLOTS, ids=lambda plot: plot.name)
def test_what_can_be_exchanged_is_in_the_story(plot: Plot) -> None:
    made = teller(3).story(plot)
    assert made.hero
    assert made.hero.name in made.words
    assert all(re.search(rf"\b{re.escape(word)}", made.text) for word in made.words), made


def test_words_come_with_their_articles_prepositions_and_forms() -> None:
    words, chance = WORDS_OF_ALL, random.Random(1)
    uncountable = words.draw("uncountable", (), chance)
    assert isinstance(uncountable, Thing)
    assert uncountable.a == uncountable.the == str(uncountable)
    doings = [words.draw("doing", (), chance) for _ in range(500)]
    for doing in doings:
        assert isinstance(doing, Doing)
        assert re.search(r"\w+ing\b", doing.ing)
        assert doing.base != doing.ing != doing.past
        assert "{" not in f"{doing.base}{doing.past}{doing.ing}"
    places = {str(words.draw("spot", (), chance)) for _ in range(200)}
    assert len(places) > 50


def test_choices_articles_and_capitals() -> None:
    being = Being("Pip", "owl", "", "he", "him", "his", "himself")
    named = {"hero": being, "what": "apple"}
    text = told(
        "[A|A] {what} [for|for [{hero}|{hero}]]\nyes.\n\n{hero.he!c}. {hero.a!c}",
        named,
        random.Random(1),
    )
    assert re.fullmatch(r"An apple for( Pip)? yes\.\nHe\. An owl", text)


def test_talk_is_asked_and_answered() -> None:
    kinds = tomllib.loads(TALK.read_text(encoding="utf-8"))["talk"]
    assert len(kinds) >= 20
    talk = Talk(random.Random(3), (TALK, LATER_TALK, OPEN_TALK))
    for said, answer, about in (talk.exchange() for _ in range(3000)):
        assert said
        assert not about
        assert answer.isascii()
        assert not re.search(r"[\[\]{}|]", said + answer), (said, answer)


def test_what_is_said_most_is_answered_often() -> None:
    def times_said(files: tuple[Path, ...]) -> int:
        talk = Talk(random.Random(3), files)
        return sum(talk.exchange().request == "hello" for _ in range(4000))

    once = times_said((TALK,))
    assert times_said((TALK, *4 * (LATER_TALK,))) > 4 * once
    assert times_said((TALK, OPEN_TALK)) > 2 * once


def test_requests_carry_the_topic() -> None:
    asked = {request_for("a lost ball", random.Random(seed)) for seed in range(100)}
    assert "Tell me a story about a lost ball." in asked
    assert any("lost ball" not in request for request in asked), "some ask for any story"
