"""The sampler by hand-made numbers: order of the steps, ties, failures, scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.backends.base import F32, ScoredRows
from octavo.backends.sampler import draw, rows_between, sample
from tests.unit.backends.sampling_rows import SAMPLERS, Row, Sampler, batch_of, make_sampler


@pytest.fixture(scope="module", params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return make_sampler(request.param)


def array(*rows: list[float]) -> F32:
    logits = np.array(rows, np.float32)
    logits.flags.writeable = False  # the sampler works on copies
    return logits


def greedy_token(logits: list[float], sampler: Sampler, **parameters: object) -> int:
    """The token at temperature 0: what penalties, biases and masks make the highest."""
    row = Row(temperature=0.0, **parameters)  # type: ignore[arg-type]
    tokens, _, errors = sampler.sample(array(logits), batch_of([row], len(logits)))
    assert errors == {}
    return int(tokens[0])


def possible_tokens(logits: list[float], row: dict[str, object], sampler: Sampler) -> set[int]:
    """Every token that 400 draws give."""
    rows = [Row(position=position, **row) for position in range(400)]  # type: ignore[arg-type]
    tokens, _, errors = sampler.sample(array(*[logits] * 400), batch_of(rows, len(logits)))
    assert errors == {}
    return set(tokens.tolist())


class TestGreedy:
    def test_takes_the_highest(self, sampler: Sampler) -> None:
        assert greedy_token([0.1, 2.0, -5.0], sampler) == 1

    @pytest.mark.parametrize("logits", [[1, 3, 3, 3], [-0.0, 0.0], [0.0, -0.0], [-3e38, -3e38]])
    def test_takes_the_lower_id_in_a_tie(self, logits: list[float], sampler: Sampler) -> None:
        first = logits.index(max(logits))
        assert greedy_token(logits, sampler) == first
        assert greedy_token(logits, sampler, bias={0: 0.0}) == first

    def test_ignores_filters(self, sampler: Sampler) -> None:
        # typical_p alone would drop token 0: its surprise is far below the entropy.
        logits = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0]
        assert greedy_token(logits, sampler, top_k=3, top_p=0.1, typical_p=0.05) == 0

    @pytest.mark.parametrize("temperature", [1e-45, 1e-39])
    @pytest.mark.parametrize("extra", [{}, {"bias": {2: 0.0}}])
    def test_temperatures_too_small_for_float32_are_greedy(
        self, temperature: float, extra: dict[str, object], sampler: Sampler
    ) -> None:
        row = {"temperature": temperature, **extra}
        assert possible_tokens([1.0, 2.0, 2.0], row, sampler) == {1}


class TestPenalties:
    def test_repetition_divides_positive_and_multiplies_negative(self, sampler: Sampler) -> None:
        assert greedy_token([2.0, 1.5], sampler, repetition_penalty=1.3, seen={0: 0}) == 0
        assert greedy_token([2.0, 1.5], sampler, repetition_penalty=1.4, seen={0: 0}) == 1
        assert greedy_token([-1.0, -1.2], sampler, repetition_penalty=1.1, seen={0: 0}) == 0
        assert greedy_token([-1.0, -1.2], sampler, repetition_penalty=1.3, seen={0: 0}) == 1
        assert greedy_token([1.0, 1.5], sampler, repetition_penalty=0.5, seen={0: 3}) == 0

    def test_repetition_counts_prompt_and_output_once(self, sampler: Sampler) -> None:
        for count in (0, 1, 9):
            logits = [2.0, 1.6, 1.5]
            seen = {0: count, 1: 0}
            assert greedy_token(logits, sampler, repetition_penalty=1.2, seen=seen) == 0
            assert greedy_token(logits, sampler, repetition_penalty=1.4, seen=seen) == 2

    def test_presence_is_subtracted_once_for_output_tokens(self, sampler: Sampler) -> None:
        assert greedy_token([2.0, 1.0], sampler, presence_penalty=1.5, seen={0: 0}) == 0
        assert greedy_token([2.0, 1.0], sampler, presence_penalty=1.5, seen={0: 1}) == 1
        assert greedy_token([2.0, 1.0], sampler, presence_penalty=0.9, seen={0: 7}) == 0
        assert greedy_token([1.0, 2.0], sampler, presence_penalty=-1.5, seen={0: 1}) == 0

    def test_frequency_is_subtracted_for_each_occurrence(self, sampler: Sampler) -> None:
        assert greedy_token([2.0, 1.0], sampler, frequency_penalty=0.4, seen={0: 0}) == 0
        assert greedy_token([2.0, 1.0], sampler, frequency_penalty=0.4, seen={0: 2}) == 0
        assert greedy_token([2.0, 1.0], sampler, frequency_penalty=0.4, seen={0: 3}) == 1

    def test_order_is_repetition_then_subtractions_then_bias(self, sampler: Sampler) -> None:
        # (4 / 2) - 1.5 - 2 * 0.5 + 0.75 = 0.25; any other order gives another number.
        parameters = {
            "repetition_penalty": 2.0,
            "presence_penalty": 1.5,
            "frequency_penalty": 0.5,
            "seen": {0: 2},
        }
        assert greedy_token([4.0, 0.24], sampler, bias={0: 0.75}, **parameters) == 0
        assert greedy_token([4.0, 0.26], sampler, bias={0: 0.75}, **parameters) == 1

    def test_each_row_has_its_own(self, sampler: Sampler) -> None:
        rows = [
            Row(temperature=0, presence_penalty=2, seen={0: 1, 1: 1}),
            Row(temperature=0),
            Row(temperature=0, presence_penalty=2, seen={2: 1}),
            Row(temperature=0, presence_penalty=2, seen={0: 1}),
        ]
        tokens, _, _ = sampler.sample(array(*[[2.0, 1.9, 1.8]] * 4), batch_of(rows, 3))
        assert tokens.tolist() == [2, 0, 0, 1]


class TestBiasAndMask:
    def test_bias_is_added(self, sampler: Sampler) -> None:
        assert greedy_token([1.0, 2.0, 3.0], sampler, bias={0: 2.5}) == 0
        assert greedy_token([1.0, 2.0, 3.0], sampler, bias={2: -1.5, 0: 0.5}) == 1

    def test_minus_infinity_bans(self, sampler: Sampler) -> None:
        assert greedy_token([1.0, 2.0, 3.0], sampler, bias={2: -math.inf}) == 1
        row = {"bias": {0: -math.inf, 3: -math.inf}}
        assert possible_tokens([9.0, 1.0, 1.0, 2.0], row, sampler) == {1, 2}

    def test_only_allowed_tokens_are_chosen(self, sampler: Sampler) -> None:
        logits = [float(i) for i in range(70)]
        assert greedy_token(logits, sampler, allowed=[3, 31, 32]) == 32
        assert greedy_token(logits, sampler, allowed=[0]) == 0
        assert greedy_token(logits, sampler, allowed=[69, 64]) == 69
        assert possible_tokens([0.0] * 40, {"allowed": [1, 31, 39]}, sampler) == {1, 31, 39}

    def test_a_mask_outlasts_a_bias(self, sampler: Sampler) -> None:
        assert greedy_token([1.0, 2.0, 0.0], sampler, bias={1: 100.0}, allowed=[0, 2]) == 0

    def test_rows_share_masks(self, sampler: Sampler) -> None:
        rows = [Row(temperature=0, allowed=[1]), Row(temperature=0), Row(temperature=0)]
        batch = batch_of(rows, 3)
        batch.mask_of_row[2] = 0
        tokens, _, _ = sampler.sample(array(*[[2.0, 1.0, 0.0]] * 3), batch)
        assert tokens.tolist() == [1, 0, 1]


class TestDraws:
    @pytest.mark.parametrize(
        ("number", "index"),
        [(0, 1), (2**62 - 1, 1), (2**62, 3), (3 * 2**62 - 1, 3), (3 * 2**62, 5), (2**64 - 1, 5)],
    )
    def test_each_index_owns_its_share_of_the_numbers(self, number: int, index: int) -> None:
        weights = [0, 1, 0, 2, 0, 1, 0]
        for unit in (1, 3, 2**40, 2**59):
            reached = np.cumsum(np.array(weights, np.int64) * unit)
            assert draw(reached, number) == index

    def test_the_same_key_gives_the_same_token(self, sampler: Sampler) -> None:
        logits = array(*[[0.0] * 64] * 4)
        rows = [Row(seed=5, choice=1, position=9)] * 4
        tokens, _, _ = sampler.sample(logits, batch_of(rows, 64))
        assert len(set(tokens.tolist())) == 1

    @pytest.mark.parametrize("varies", ["seed", "choice", "position"])
    def test_each_part_of_the_key_matters(self, varies: str, sampler: Sampler) -> None:
        rows = [Row(**{varies: value}) for value in range(20)]
        tokens, _, _ = sampler.sample(array(*[[0.0] * 64] * 20), batch_of(rows, 64))
        assert len(set(tokens.tolist())) > 10

    def test_filters_are_obeyed(self, sampler: Sampler) -> None:
        logits = [1.0, 3.0, 2.0, 0.0, 3.0]
        assert possible_tokens(logits, {"top_k": 2}, sampler) == {1, 4}
        assert possible_tokens(logits, {"top_p": 0.5}, sampler) == {1, 4}
        assert possible_tokens(logits, {"min_p": 0.3}, sampler) == {1, 2, 4}
        assert possible_tokens(logits, {"typical_p": 0.1}, sampler) == {1}

    def test_impossible_tokens_are_never_drawn(self, sampler: Sampler) -> None:
        logits = [-math.inf, 0.0, -math.inf, 0.0, -math.inf]
        assert possible_tokens(logits, {}, sampler) == {1, 3}
        assert possible_tokens(logits, {"top_k": 4}, sampler) == {1, 3}

    @pytest.mark.parametrize("temperature", [2e-38, 1e-30, 1e-6])
    @pytest.mark.parametrize("extra", [{}, {"top_p": 0.9}, {"bias": {2: 0.0}}])
    def test_tiny_temperatures_take_the_highest(
        self, temperature: float, extra: dict[str, object], sampler: Sampler
    ) -> None:
        row = dict(temperature=temperature, **extra)
        assert possible_tokens([-1e4, 1.0, 2.0, 2.0, 1e-3], row, sampler) == {2, 3}

    @pytest.mark.parametrize("extra", [{}, {"top_p": 0.9}, {"typical_p": 0.9}, {"top_k": 3}])
    def test_logits_at_the_ends_of_float32(
        self, extra: dict[str, object], sampler: Sampler
    ) -> None:
        assert possible_tokens([-3e38, 3e38, 0.0, 3e38], extra, sampler) == {1, 3}
        assert possible_tokens([-3e38, -3e38, -math.inf], extra, sampler) == {0, 1}

    def test_a_high_temperature_flattens(self, sampler: Sampler) -> None:
        logits = [0.0, 5.0, -5.0, 2.0]
        assert possible_tokens(logits, {"temperature": 100.0}, sampler) == {0, 1, 2, 3}


class TestFailures:
    @pytest.mark.parametrize("parameters", [{}, {"temperature": 0.0}, {"bias": {0: 1.0}}])
    @pytest.mark.parametrize(
        ("logits", "sentence"),
        [
            ([0.0, math.nan, 1.0], "not numbers"),
            ([math.inf, math.nan, 1.0], "not numbers"),
            ([0.0, math.inf, 1.0], "infinite"),
            ([-math.inf] * 3, "probability 0"),
        ],
    )
    def test_unusable_logits_fail_their_row_alone(
        self,
        logits: list[float],
        sentence: str,
        parameters: dict[str, object],
        sampler: Sampler,
    ) -> None:
        good = [0.5, 0.25, 1.0]
        row = Row(num_logprobs=2, **parameters)  # type: ignore[arg-type]
        alone, alone_scores, _ = sampler.sample(array(good), batch_of([row], 3))
        tokens, scores, errors = sampler.sample(array(good, logits, good), batch_of([row] * 3, 3))
        assert list(errors) == [1]
        assert sentence in errors[1]
        assert tokens.tolist() == [alone[0], -1, alone[0]]
        for neighbour in (0, 2):
            assert same_score(scores, neighbour, alone_scores, 0)
        assert scores.top_ids[1].tolist() == []

    def test_a_row_with_every_token_banned_fails_alone(self, sampler: Sampler) -> None:
        banned = Row(bias={0: -math.inf, 1: -math.inf})
        masked = Row(allowed=[1], bias={1: -math.inf}, temperature=0)
        impossible = Row(allowed=[1])
        logits = array([1.0, 2.0], [1.0, 2.0], [1.0, -math.inf], [1.0, 0.5])
        tokens, _, errors = sampler.sample(
            logits, batch_of([banned, masked, impossible, Row(temperature=0)], 2)
        )
        assert tokens.tolist() == [-1, -1, -1, 0]
        assert sorted(errors) == [0, 1, 2]
        assert all("leave no token" in message for message in errors.values())

    @pytest.mark.parametrize(("logit", "penalty"), [(3e38, 0.1), (1.0, 1e-50), (0.0, 1e-50)])
    def test_penalties_that_overflow_fail_the_row(
        self, logit: float, penalty: float, sampler: Sampler
    ) -> None:
        rows = [Row(repetition_penalty=penalty, seen={0: 0}), Row(temperature=0)]
        logits = array([logit, 0.5], [0.5, 0.0])
        tokens, _, errors = sampler.sample(logits, batch_of(rows, 2))
        assert tokens.tolist() == [-1, 0]
        assert "penalties" in errors[0]

    @pytest.mark.parametrize(
        "wrong", [Row(bias={7: 1.0}), Row(bias={-1: 1.0}), Row(seen={2: 1}), Row(seen={-3: 0})]
    )
    def test_an_id_that_is_no_token_fails_its_row_alone(self, wrong: Row, sampler: Sampler) -> None:
        rows = [wrong, Row(bias={1: 9.0}, temperature=0)]
        tokens, _, errors = sampler.sample(array([1.0, 0.0], [1.0, 0.0]), batch_of(rows, 2))
        assert tokens.tolist() == [-1, 1]
        assert list(errors) == [0]
        assert "a token that the model does not have" in errors[0]

    def test_filters_that_leave_nothing_fail_the_row_alone(self, sampler: Sampler) -> None:
        rows = [Row(min_p=1.5), Row(temperature=0)]
        tokens, _, errors = sampler.sample(array([1.0, 0.0], [1.0, 0.0]), batch_of(rows, 2))
        assert tokens.tolist() == [-1, 0]
        assert "filters" in errors[0]

    def test_an_exception_fails_its_row_alone(self) -> None:
        class Broken:
            def exp(self, x: F32, out: F32) -> None:
                raise RuntimeError("no exp today")

            def log(self, x: F32, out: F32) -> None: ...

        rows = [Row(top_k=1), Row(temperature=0)]
        tokens, _, errors = sample(array([1.0, 0.0], [1.0, 0.0]), batch_of(rows, 2), Broken())
        assert tokens.tolist() == [-1, 0]
        assert "no exp today" in errors[0]


class TestScores:
    LOGITS = (1.0, 3.0, -math.inf, 3.0, 2.0)

    def test_chosen_tokens_are_scored_before_anything_is_changed(self, sampler: Sampler) -> None:
        row = Row(
            temperature=0.5, top_k=1, bias={0: 50.0}, presence_penalty=1, seen={3: 1},
            num_logprobs=2,
        )  # fmt: skip
        tokens, scores, _ = sampler.sample(array([*self.LOGITS]), batch_of([row], 5))
        log_total = math.log(math.exp(1) + 2 * math.exp(3) + math.exp(2))
        assert tokens.tolist() == [0]
        np.testing.assert_allclose(scores.logprobs, [1 - log_total], rtol=1e-6)
        assert scores.top_ids[0].tolist() == [1, 3]  # a tie: the lower id first
        np.testing.assert_allclose(scores.top_logprobs[0], [3 - log_total] * 2, rtol=1e-6)

    def test_rows_get_as_many_as_they_ask_for(self, sampler: Sampler) -> None:
        rows = [Row(temperature=0, num_logprobs=count) for count in (-1, 0, 1, 20)]
        _, scores, _ = sampler.sample(array(*[[*self.LOGITS]] * 4), batch_of(rows, 5))
        assert [ids.tolist() for ids in scores.top_ids] == [[], [], [1], [1, 3, 4, 0, 2]]
        assert [len(values) for values in scores.top_logprobs] == [0, 0, 1, 5]
        assert scores.top_logprobs[3][4] == -math.inf
        assert scores.logprobs[1] == scores.logprobs[2] == scores.top_logprobs[3][0]

    def test_known_tokens_are_scored(self, sampler: Sampler) -> None:
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 4, (9, 3000)).astype(np.float32)
        targets = rng.integers(0, 3000, 9).astype(np.int32)
        scores, errors = sampler.score(logits, targets, np.arange(9, dtype=np.int32))
        exact = logits.astype(np.float64)
        exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
        assert errors == {}
        np.testing.assert_allclose(scores.logprobs, exact[np.arange(9), targets], atol=3e-6)
        for row in range(9):
            order = np.argsort(-exact[row])[:row]
            assert scores.top_ids[row].tolist() == order.tolist()
            np.testing.assert_allclose(scores.top_logprobs[row], exact[row, order], atol=3e-6)

    def test_a_certain_token_has_logprob_0(self, sampler: Sampler) -> None:
        scores, _ = sampler.score(
            array([-math.inf, 7.0], [0.0, 3e38]), np.array([1, 1], np.int32),
            np.array([2, 0], np.int32))  # fmt: skip
        assert scores.logprobs.tolist() == [0.0, 0.0]
        assert scores.top_logprobs[0].tolist() == [0.0, -math.inf]

    def test_unusable_logits_fail_their_row_alone(self, sampler: Sampler) -> None:
        good = [1.0, 2.0, 3.0]
        targets, num_top = np.array([0, 0, 2], np.int32), np.array([1, 1, 1], np.int32)
        scores, errors = sampler.score(array(good, [1.0, math.nan, 0.0], good), targets, num_top)
        alone, _ = sampler.score(array(good), targets[2:], num_top[2:])
        assert list(errors) == [1]
        assert "not numbers" in errors[1]
        assert same_score(scores, 2, alone, 0)

    def test_no_rows(self, sampler: Sampler) -> None:
        logits, nothing = np.zeros((0, 5), np.float32), np.zeros(0, np.int32)
        assert sampler.score(logits, nothing, nothing)[0].top_ids == []
        tokens, scores, errors = sampler.sample(logits, batch_of([], 5))
        assert (tokens.tolist(), scores.top_ids, errors) == ([], [], {})


def test_rows_between_are_those_rows(sampler: Sampler) -> None:
    rows = [
        Row(temperature=0, bias={0: 5.0}),
        Row(temperature=0, seen={2: 1}, presence_penalty=2),
        Row(temperature=0, allowed=[1]),
        Row(temperature=0, bias={1: 5.0, 2: 7.0}, num_logprobs=1),
    ]
    logits = array(*[[1.0, 2.0, 3.0]] * 4)
    whole = batch_of(rows, 3)
    expected, _, _ = sampler.sample(logits, whole)
    assert expected.tolist() == [0, 1, 1, 2]
    for start in range(4):
        for stop in range(start, 5):
            part = rows_between(whole, start, stop)
            assert len(part.seeds) == stop - start
            tokens, _, _ = sampler.sample(logits[start:stop], part)
            assert tokens.tolist() == expected[start:stop].tolist()


def same_score(scores: ScoredRows, row: int, others: ScoredRows, other: int) -> bool:
    return (
        scores.logprobs[row].tobytes() == others.logprobs[other].tobytes()
        and scores.top_ids[row].tobytes() == others.top_ids[other].tobytes()
        and scores.top_logprobs[row].tobytes() == others.top_logprobs[other].tobytes()
    )
