"""Stop strings: found across pieces, held back only while they may come, leftmost first."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from octavo.text.stops import StopFinder, StopMatch, StopStrings


def search(
    stops: Sequence[str], pieces: Sequence[str], num_ignored: int = 0
) -> tuple[list[str], StopMatch | None]:
    """What is given out piece by piece, and the match; the first pieces do not count."""
    finder = StopStrings(stops).finder()
    released = []
    for number, piece in enumerate(pieces):
        released.append(finder.feed(piece, counts=number >= num_ignored))
        if finder.match:
            return released, finder.match
    released.append(finder.finish())
    return released, finder.match


def oracle(stops: Sequence[str], text: str, ignored: int = 0) -> StopMatch | None:
    """By trying every place: leftmost, then shortest, among those that end past ``ignored``."""
    for start in range(len(text)):
        for stop in sorted(stops, key=len):
            if text.startswith(stop, start) and start + len(stop) > ignored:
                return StopMatch(start, stop)
    return None


def test_text_without_a_stop_is_given_out_at_once() -> None:
    assert search(["stop"], ["some ", "text", ""]) == (["some ", "text", "", ""], None)


def test_a_stop_across_pieces() -> None:
    released, match = search(["stop"], ["a s", "to", "p b"])
    assert released == ["a ", "", ""]
    assert match == StopMatch(2, "stop")
    assert match.end == 6


def test_what_may_be_a_stop_is_held_then_released() -> None:
    assert search(["stop"], ["a st", "ones"])[0] == ["a ", "stone", "s"]
    assert search(["</s>"], ["x<", "/", "s", "x"])[0] == ["x", "", "", "</sx", ""]


def test_text_that_ends_half_way_is_released() -> None:
    assert search(["stop"], ["a sto"]) == (["a ", "sto"], None)


def test_repeating_beginnings() -> None:
    assert search(["aab"], ["aaaab"]) == (["aa"], StopMatch(2, "aab"))
    assert search(["abab!"], ["ab", "ab", "ab", "!"])[1] == StopMatch(2, "abab!")


def test_the_leftmost_of_several_wins() -> None:
    assert search(["late", "early"], ["early late"])[1] == StopMatch(0, "early")


def test_the_shorter_of_two_at_one_place_wins() -> None:
    assert search(["\n\n", "\n"], ["a\n\nb"])[1] == StopMatch(1, "\n")
    assert search(["abc", "ab"], ["ab"]) == ([""], StopMatch(0, "ab")), "and does not wait"


def test_one_that_began_earlier_is_waited_for() -> None:
    stops = ["abcd", "bc"]
    assert search(stops, ["abc", "d"]) == (["", ""], StopMatch(0, "abcd"))
    assert search(stops, ["abc", "x"]) == (["", "a"], StopMatch(1, "bc"))
    assert search(stops, ["abc"]) == (["", "a"], StopMatch(1, "bc"))


def test_the_leftmost_of_several_candidates_wins() -> None:
    assert search(["abcdef", "bc", "de"], ["abcdex"])[1] == StopMatch(1, "bc")


def test_a_candidate_is_visible_while_it_waits() -> None:
    finder = StopStrings(["abcd", "bc"]).finder()
    assert finder.feed("abc") == ""
    assert (finder.candidate, finder.match) == (StopMatch(1, "bc"), None)


def test_stops_that_do_not_count_are_text() -> None:
    assert search(["b"], ["ab", "ab"], num_ignored=1) == (["ab", "a"], StopMatch(3, "b"))


def test_a_stop_that_begins_too_early_but_ends_late_counts() -> None:
    assert search(["abc"], ["ab", "c"], num_ignored=1) == (["", ""], StopMatch(0, "abc"))


STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=4)
PIECES = st.lists(st.text(alphabet="abc", max_size=4), max_size=12)


@given(stops=STOPS, pieces=PIECES, num_ignored=st.integers(0, 3))
@example(stops=["abab", "ba"], pieces=["ab", "ab"], num_ignored=0)
def test_equals_trying_every_place(stops: list[str], pieces: list[str], num_ignored: int) -> None:
    text = "".join(pieces)
    ignored = len("".join(pieces[:num_ignored]))
    released, match = search(stops, pieces, num_ignored)
    assert match == oracle(stops, text, ignored)
    assert "".join(released) == (text if match is None else text[: match.start])


@given(stops=STOPS, pieces=PIECES)
def test_never_gives_out_what_may_begin_a_stop(stops: list[str], pieces: list[str]) -> None:
    """And holds back nothing else: the held text is the longest that begins a stop string."""
    finder = StopStrings(stops).finder()
    text = given_out = ""
    for piece in pieces:
        text += piece
        given_out += finder.feed(piece)
        if finder.match:
            break
        held = text[len(given_out) :]
        beginnings = {stop[:length] for stop in stops for length in range(len(stop) + 1)}
        assert held == max((end for end in beginnings if text.endswith(end)), key=len)


@given(stops=STOPS, text=st.text(alphabet="abc", max_size=20))
def test_cutting_into_pieces_changes_nothing(stops: list[str], text: str) -> None:
    assert search(stops, list(text))[1] == search(stops, [text])[1]


def test_finders_do_not_share_state() -> None:
    stops = StopStrings(["ab"])
    first, second = stops.finder(), stops.finder()
    first.feed("a")
    assert second.feed("b") == "b"
    assert first.feed("b") == ""
    assert first.match == StopMatch(0, "ab")
    assert isinstance(second, StopFinder)
    assert second.match is None


@pytest.mark.parametrize("stop", ["a" * 255 + "b", "]" * 200, "^-\\"])
def test_time_is_linear(stop: str) -> None:
    """The worst texts: forever nearly a stop string."""
    num_characters = 100_000
    text = stop[0] * num_characters if stop[0] != "]" else "]]x" * (num_characters // 3)
    finder = StopStrings([stop, stop[1:] + "?"]).finder()
    started = time.process_time()
    for start in range(0, num_characters, 4):
        finder.feed(text[start : start + 4])
    seconds = time.process_time() - started
    assert finder.match is None
    assert seconds < 10e-6 * num_characters, f"{seconds / num_characters * 1e6:.2f} us a character"
