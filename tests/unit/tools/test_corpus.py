"""What becomes of the training text: stories cut apart, cleaned, chosen, and given capitals."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus import (
    BEGINNING,
    MAX_CHARACTERS,
    MIN_CHARACTERS,
    NUM_HELD_OUT,
    ORDINARY,
    SEPARATOR,
    TrueCaser,
    clean,
    cut,
    is_story,
    letters,
    read_corpus,
)


def test_stories_with_a_separator_are_cut_at_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"One.\n\nTwo.\n{SEPARATOR}\nThree.\nFour.")
    assert [clean(story) for story in cut(path, SEPARATOR)] == ["One.\nTwo.", "Three.\nFour."]


def test_without_one_an_empty_line_is_within_a_story(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("one.\n\ntwo.\nthree.\n\n\nfour.")
    assert [clean(story) for story in cut(path, None)] == ["one.\ntwo.", "three.\nfour."]


def test_bytes_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_bytes(b"caf\xe9 and tea")
    assert cut(path, SEPARATOR) == ["caf and tea"]


def test_clean_text_has_plain_quotes_and_single_spaces() -> None:
    story = "  “Wait…”  said\tTom\u2019s  mum \u2013 twice.\n\n \n He  did. "
    assert clean(story) == '"Wait..." said Tom\'s mum - twice.\nHe did.'


def test_letters_are_what_two_prints_have_in_common() -> None:
    assert letters('"Hi," said Tom.\nBye!') == letters("hi said tom bye")
    assert letters("Hi Tom") != letters("Hi Tim")


@pytest.mark.parametrize(
    ("story", "usable"),
    [
        ("A" + "b" * MIN_CHARACTERS + ".", True),
        ("A" + "b" * MIN_CHARACTERS + '."', True),
        ("A" + "b" * MIN_CHARACTERS, False),
        ("a" + "b" * MIN_CHARACTERS + ".", False),
        ("A" + "é" * MIN_CHARACTERS + ".", False),
        ("Short.", False),
        ("A" + "b" * MAX_CHARACTERS + ".", False),
    ],
)
def test_usable_stories(story: str, usable: bool) -> None:
    assert is_story(story) is usable


@pytest.mark.parametrize(
    ("story", "begins"),
    [
        ("once upon a time", True),
        ("lily was a girl", True),
        ("tom and his dog", False),
        ("tom and sue liked to run", True),
        ("and then he left", False),
    ],
)
def test_beginnings(story: str, begins: bool) -> None:
    assert bool(BEGINNING.match(story)) is begins


@pytest.fixture(scope="module")
def caser() -> TrueCaser:
    return TrueCaser(
        [
            "One day Tom saw a dog. The dog saw Tom. He said, Tom is here, and I am glad.",
            'The park was big and I saw Lily there. She said, "Hello, Lily and Tom!"',
            "He saw" + " her and" * ORDINARY + " her dog.",
        ]
    )


@pytest.mark.parametrize(
    ("lowered", "restored"),
    [
        ("the dog saw tom. he ran.", "The dog saw Tom. He ran."),
        ("i am lily's friend.", "I am Lily's friend."),
        ('he said, "hello, dog! come."', 'He said, "Hello, dog! Come."'),
        ("a cat named ziggy met tom.\nziggy ran.", "A cat named Ziggy met Tom.\nZiggy ran."),
        ("the park", "The park"),
        ('"dogs," said tom, "run." it was so.', '"Dogs," said Tom, "Run." It was so.'),
        (
            '"is it tom?" his dog asked. "yes!" it ran.',
            '"Is it Tom?" his dog asked. "Yes!" It ran.',
        ),
        ("he called her. a cat called her.", "He called her. A cat called her."),
    ],
)
def test_capitals_are_restored(caser: TrueCaser, lowered: str, restored: str) -> None:
    assert caser.restore(lowered) == restored


def story(number: int) -> str:
    """Whole, and unlike others."""
    body = " ".join(f"Tom saw {number} birds and {number + step} cats." for step in range(8))
    return f"Once upon a time there was a boy. {body}"


def test_the_corpus_has_no_story_twice_and_holds_the_last_ones_out(tmp_path: Path) -> None:
    real = [story(number) for number in range(NUM_HELD_OUT + 5)]
    text = f"\n{SEPARATOR}\n".join(["half of a", *real, real[0], "half of"])
    (tmp_path / "tinystories_2M.txt").write_text(text)
    new = story(1000)
    lowered = [f"half\n\n{real[1]}", real[2], new, f"and so {story(2000)}", new, "half"]
    (tmp_path / "tinystories_4M.txt").write_text("\n".join(lowered).lower())
    corpus = read_corpus(tmp_path)
    assert corpus.held_out == real[5:]
    assert corpus.train == [*real[:5], new]
