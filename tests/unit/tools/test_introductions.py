"""A made story is begun as people begin one, and goes on about the one whom they named."""

from __future__ import annotations

import random
import re

import pytest

from introductions import Introduced, Introductions, without_introduction
from made_stories import (
    LATER,
    OPEN,
    OPEN_WORDS,
    WORDS,
    Being,
    MadeStory,
    Plot,
    Teller,
    Words,
    read_plots,
)

WORDS_OF_ALL = Words((WORDS, OPEN_WORDS))
PLOTS = read_plots() + read_plots(LATER) + read_plots(OPEN)
HERO = Being("Pip", "owl", "little", "he", "him", "his", "himself")
REST = '"Who?" said Pip. He flew on.'


@pytest.mark.parametrize(
    ("begin", "left"),
    [
        ("Pip was a little owl. One day, Pip flew.", "One day, Pip flew."),
        ("Pip was an owl who lived by the sea.", "Pip lived by the sea."),
        ("Pip was an old owl, and he lived by the sea.", "Pip lived by the sea."),
        ("Once upon a time, there was a little owl named Pip. Pip flew.", "Pip flew."),
        ("There once was an owl called Pip who flew.", "Pip flew."),
        ("One day, a little owl named Pip flew to the sea.", "One day, Pip flew to the sea."),
        ("Once upon a time, Pip the owl flew.", "Pip flew."),
        ("Ann had a friend, an owl named Pip, who flew.", None),
        ("Once there was a girl. She had an owl.", None),
        ("There lived a wise and old owl named Pip.", None),
        ("Pip flew to the sea.", None),
    ],
)
def test_the_words_that_say_who_it_is_are_taken_out(begin: str, left: str | None) -> None:
    expected = None if left is None else f"{left} {REST}"
    assert without_introduction(f"{begin} {REST}", HERO) == expected


def test_a_story_about_nobody_is_not_begun() -> None:
    introductions = Introductions(random.Random(1))
    assert introductions.begin(MadeStory("The sun rose.", "the sun")) is None


def test_most_plots_can_be_begun_and_go_on() -> None:
    begun_plots = 0
    for plot in PLOTS:
        found = [pair for seed in range(6) if (pair := begun(plot, seed))]
        begun_plots += bool(found)
        for beginning, rest, _ in found:
            assert rest[0].isupper() or rest[0] == '"' or beginning[-1] not in ".!?"
            assert not re.search(r"[\[\]{}|<>]|  |\b[Aa] [aeio]", f"{beginning} {rest}")
    assert begun_plots > 0.75 * len(PLOTS)


def begun(plot: Plot, seed: int) -> Introduced | None:
    chance = random.Random(seed)
    return Introductions(chance).begin(Teller(chance, [plot], words=WORDS_OF_ALL).story())


def test_who_is_named_is_told_of_by_that_name() -> None:
    introductions, chance = Introductions(random.Random(2)), random.Random(3)
    teller = Teller(chance, PLOTS, words=WORDS_OF_ALL)
    known = {name for names in introductions.names.values() for name in names}
    renamed = 0
    for _ in range(300):
        made = teller.story()
        pair = introductions.begin(made)
        if pair is None or made.hero is None:
            continue
        beginning, rest, name = pair
        assert re.search(rf"\b{name}\b", f"{beginning} {rest}")
        given = known & set(re.findall(r"\b[A-Z][a-z]+\b", beginning))
        if len(given) == 1 and made.hero.name not in f"{beginning} {rest}":
            renamed += 1
            assert re.search(rf"\b{given.pop()}\b", rest), pair
    assert renamed > 50
