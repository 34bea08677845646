"""The rules of beam search: against searches by hand, by brute force, and its bounds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from octavo.core.errors import InvalidRequest
from octavo.core.events import FinishReason
from octavo.runtime.beams import BeamParams, BeamSearch, Candidate

END = 0


def params(**fields: Any) -> BeamParams:
    return BeamParams(**{"width": 2, "max_tokens": 3, "end_token_ids": (END,), **fields})


def logprobs_after(token_ids: tuple[int, ...], vocab_size: int) -> list[float]:
    """A made-up model: float32 logprobs that depend on everything before."""
    random = np.random.PCG64([9, *token_ids]).random_raw(vocab_size)
    logits = (random % np.uint64(1000)).astype(np.float64) / 250
    return [float(np.float32(x)) for x in logits - np.log(np.exp(logits).sum())]


def run(search: BeamSearch, given: BeamParams, vocab_size: int) -> BeamSearch:
    while not search.is_over:
        search.advance([best(logprobs_after(b.token_ids, vocab_size), given) for b in search.beams])
    return search


def best(logprobs: list[float], given: BeamParams) -> list[Candidate]:
    ranked = sorted(enumerate(logprobs), key=lambda candidate: (-candidate[1], candidate[0]))
    return ranked[: given.num_candidates]


def test_a_search_by_hand() -> None:
    search = BeamSearch(params(length_penalty=0.0), 3)
    search.advance([[(5, -0.5), (6, -1.5), (END, -2.5)]])
    assert [(beam.token_ids, beam.logprob) for beam in search.beams] == [((5,), -0.5), ((6,), -1.5)]
    assert not search.endings, "an end token counts only among the best `width`"
    search.advance([[(END, -0.25), (7, -1.5), (8, -4.0)], [(7, -0.25), (5, -1.0), (END, -2.0)]])
    assert [(ending.token_ids, ending.score) for ending in search.endings] == [((5, END), -0.75)]
    assert [(beam.token_ids, beam.parent) for beam in search.beams] == [((6, 7), 1), ((5, 7), 0)]
    search.advance([[(END, -3.0), (5, -0.5), (6, -9.0)], [(5, -0.125), (6, -9.0), (END, -9.0)]])
    assert search.is_over
    assert [(e.token_ids, e.score, e.finish_reason) for e in search.endings] == [
        ((5, END), -0.75, FinishReason.STOP),
        ((5, 7, 5), -2.125, FinishReason.LENGTH),
    ]


def test_ties_go_to_the_better_beam_and_then_to_the_lower_token() -> None:
    search = BeamSearch(params(width=3, max_tokens=9), 9)
    search.advance([[(4, -1.0), (9, -1.0), (7, -1.0), (3, -2.0)]])
    assert [beam.token_ids for beam in search.beams] == [(4,), (7,), (9,)]
    search.advance([[(8, -1.0), (2, -3.0)], [(1, -1.0), (2, -3.0)], [(1, -1.0), (2, -3.0)]])
    assert [beam.token_ids for beam in search.beams] == [(4, 8), (7, 1), (9, 1)]


def test_of_equal_endings_the_first_one_stays_ahead() -> None:
    search = BeamSearch(params(width=1, length_penalty=0.0, early_stopping="never"), 3)
    search.advance([[(END, -1.0), (4, -1.0)]])
    assert search.is_over, "the beam could only become as good"
    assert [ending.token_ids for ending in search.endings] == [(END,)]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_a_search_that_is_wide_enough_finds_the_best_of_all(length_penalty: float) -> None:
    vocab_size, max_tokens = 3, 3  # 2 + 4 beams at the most, and 1 + 2 + 12 sequences in all
    given = params(
        width=15, max_tokens=max_tokens, length_penalty=length_penalty, early_stopping="never"
    )
    search = run(BeamSearch(given, max_tokens), given, vocab_size)
    every = []
    for length in range(1, max_tokens + 1):
        for token_ids in itertools.product(range(vocab_size), repeat=length):
            ends = token_ids[-1] == END
            if END not in token_ids[:-1] and (ends or length == max_tokens):
                logprob = sum(
                    logprobs_after(token_ids[:i], vocab_size)[token_id]
                    for i, token_id in enumerate(token_ids)
                )
                every.append((logprob / length**length_penalty, token_ids))
    every.sort(reverse=True)
    assert len(every) == 15
    assert [(ending.score, ending.token_ids) for ending in search.endings] == every


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("num_ends", [0, 1, 3])
@pytest.mark.parametrize("stopping", [False, True, "never"])
def test_the_candidates_asked_for_are_enough(width: int, num_ends: int, stopping: Any) -> None:
    """The same comes of all tokens of the vocabulary as of the best few."""
    given = params(
        width=width,
        max_tokens=8,
        early_stopping=stopping,
        end_token_ids=tuple(range(num_ends)),
    )
    few = run(BeamSearch(given, 8), given, 12)
    every = BeamSearch(given, 8)
    while not every.is_over:
        every.advance([list(enumerate(logprobs_after(b.token_ids, 12))) for b in every.beams])
    assert few.endings == every.endings
    assert len(few.endings) == width


def test_the_three_ways_to_stop_search_for_longer_and_longer() -> None:
    lengths = []
    for stopping in (True, False, "never"):
        given = params(width=3, max_tokens=30, early_stopping=stopping)
        search, steps = BeamSearch(given, 30), 0
        while not search.is_over:
            search.advance([best(logprobs_after(b.token_ids, 6), given) for b in search.beams])
            steps += 1
        lengths.append(steps)
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_vocabulary_smaller_than_the_search_gives_what_there_is() -> None:
    given = params(width=10, max_tokens=1)
    search = run(BeamSearch(given, 1), given, 3)
    assert sorted(ending.token_ids for ending in search.endings) == [(0,), (1,), (2,)]


def test_impossible_tokens_are_no_candidates() -> None:
    search = BeamSearch(params(), 3)
    search.advance([[(5, -0.5), (6, -math.inf), (END, -math.inf)]])
    assert [beam.token_ids for beam in search.beams] == [(5,)]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, r"width must be an integer in \[1, 19\], got 0"),
        ("width", 20, r"width must be an integer in \[1, 19\], got 20.*20 tokens.*1 of them"),
        ("width", True, "width must be an integer"),
        ("max_tokens", 0, r"max_tokens must be an integer in \[1, "),
        ("max_tokens", 2.0, "max_tokens must be an integer"),
        ("num_return", 3, r"num_return must be an integer in \[1, width=2\], got 3"),
        ("length_penalty", math.nan, r"length_penalty must be a number in \[-10.0, 10.0\]"),
        ("length_penalty", -10.5, "length_penalty must be a number"),
        ("length_penalty", "1", "length_penalty must be a number"),
        ("early_stopping", "always", "early_stopping must be False, True or 'never'"),
        ("early_stopping", 1, "early_stopping must be False, True or 'never'"),
        ("end_token_ids", (-1,), "end_token_ids must be token ids"),
        ("end_token_ids", (1.5,), "end_token_ids must be token ids"),
        ("end_token_ids", (3, 3), "names a token twice"),
        ("end_token_ids", tuple(range(20)), "takes at most 19 entries, got 20"),
    ],
)
def test_values_out_of_range(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        params(**{field: value})
    assert caught.value.param == field


def test_without_end_tokens_a_search_may_be_as_wide_as_a_ranking() -> None:
    assert params(width=20, end_token_ids=()).num_candidates == 20
