"""Plots become stories without a hole in them, the same for the same seed."""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import pytest

from conversations import Talk, request_for
from made_stories import LATER, LATER_TALK, TALK, Being, Plot, Teller, read_plots, told

PLOTS = read_plots() + read_plots(LATER)
SEEDS = range(25)
HOLE = re.compile(r"[\[\]{}|<>]|  |\b[Aa] [aeio]|\b(an?|the) (an?|the) |\bNone\b| [.,!?](?!\.)")
"""What a mistake in a plot leaves in a story."""


def teller(seed: int) -> Teller:
    return Teller(random.Random(seed), PLOTS)


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
    talk = Talk(random.Random(3), (TALK, LATER_TALK))
    for said, answer, about in (talk.exchange() for _ in range(2000)):
        assert said
        assert not about
        assert answer.isascii()
        assert not re.search(r"[\[\]{}|]", said + answer), (said, answer)


def test_what_is_said_most_is_answered_often() -> None:
    def times_said(files: tuple[Path, ...]) -> int:
        talk = Talk(random.Random(3), files)
        return sum(talk.exchange().request == "hello" for _ in range(4000))

    assert times_said((TALK, *4 * (LATER_TALK,))) > 4 * times_said((TALK,))


def test_requests_carry_the_topic() -> None:
    asked = {request_for("a lost ball", random.Random(seed)) for seed in range(100)}
    assert "Tell me a story about a lost ball." in asked
    assert any("lost ball" not in request for request in asked), "some ask for any story"
