"""Philox against the known answers of its authors, and against itself written with plain ints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.backends.philox import philox4x32, random_u64

# "philox4x32 10" in tests/kat_vectors of the Random123 library: counter, key, output.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

seeds = st.integers(0, 2**64 - 1)
words = st.integers(0, 2**32 - 1)


def parse(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (right >> 32) ^ c1 ^ k0,
            right % 2**32,
            (left >> 32) ^ c3 ^ k1,
            left % 2**32,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def one(seed: int, choice: int, position: int) -> int:
    numbers = random_u64(
        np.array([seed], np.uint64),
        np.array([choice], np.uint32),
        np.array([position], np.uint32),
    )
    return int(numbers[0])


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, answer: str) -> None:
    output = philox4x32(np.array([parse(counter)], np.uint32), np.array([parse(key)], np.uint32))
    assert output.dtype == np.uint32
    assert output[0].tolist() == parse(answer)


def test_known_answers_side_by_side() -> None:
    counters = np.array([parse(counter) for counter, _, _ in KNOWN_ANSWERS], np.uint32)
    keys = np.array([parse(key) for _, key, _ in KNOWN_ANSWERS], np.uint32)
    assert philox4x32(counters, keys).tolist() == [parse(answer) for _, _, answer in KNOWN_ANSWERS]


@given(seeds, words, words)
def test_the_number_of_a_row_is_two_words_of_its_counter(
    seed: int, choice: int, position: int
) -> None:
    output = plain_philox([position, choice, 0, 0], [seed % 2**32, seed >> 32])
    assert one(seed, choice, position) == output[0] + (output[1] << 32)


@given(st.lists(st.tuples(seeds, words, words), min_size=1, max_size=20))
def test_a_row_does_not_depend_on_its_neighbours(rows: list[tuple[int, int, int]]) -> None:
    together = random_u64(
        np.array([seed for seed, _, _ in rows], np.uint64),
        np.array([choice for _, choice, _ in rows], np.uint32),
        np.array([position for _, _, position in rows], np.uint32),
    )
    assert together.tolist() == [one(*row) for row in rows]


def test_no_rows_give_no_numbers() -> None:
    nothing = np.array([], np.uint32)
    assert random_u64(nothing.astype(np.uint64), nothing, nothing).shape == (0,)


def test_seed_choice_and_position_each_matter() -> None:
    numbers = {
        one(seed, choice, position)
        for seed in (0, 1, 2**32, 2**63 - 1)
        for choice in range(8)
        for position in (0, 1, 2, 100_000)
    }
    assert len(numbers) == 4 * 8 * 4


@pytest.mark.parametrize("varies", ["seed", "choice", "position"])
def test_numbers_are_uniform_along_each_argument(varies: str) -> None:
    count = 64_000
    steps = np.arange(count)
    zeros = np.zeros(count, np.int64)
    numbers = random_u64(
        (steps if varies == "seed" else zeros).astype(np.uint64),
        (steps if varies == "choice" else zeros).astype(np.uint32),
        (steps if varies == "position" else zeros).astype(np.uint32),
    )
    # 64 equal cells of the high bits, and of the low ones: chi-square with 63 degrees of freedom
    # has mean 63 and standard deviation 11.2; 130 is six of these away.
    for cells in (numbers >> np.uint64(58), numbers & np.uint64(63)):
        counts = np.bincount(cells.astype(np.int64), minlength=64)
        statistic = float(((counts - count / 64) ** 2).sum() / (count / 64))
        assert 20 < statistic < 130
