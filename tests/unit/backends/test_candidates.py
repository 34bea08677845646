"""Which tokens the filters keep, by hand-made numbers; and picking the best of many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo._native import Kernels
from octavo.backends.candidates import (
    WEIGHT_ONE,
    Filters,
    best,
    best_first,
    exponentials,
    find_candidates,
    integer_weights,
)
from tests.unit.backends.sampling_rows import make_kernels


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return make_kernels()


def kept(probabilities: list[float], kernels: Kernels, **filters: float) -> list[int]:
    """The ids kept from logits that have these probabilities at temperature 1."""
    logits = np.array([math.log(p) if p else -math.inf for p in probabilities], np.float32)
    chosen = Filters(**filters)  # type: ignore[arg-type]
    return find_candidates(logits, chosen, kernels).ids.tolist()


def test_without_filters_every_token_stays(kernels: Kernels) -> None:
    assert kept([0.1, 0.6, 0.0, 0.3], kernels) == [0, 1, 2, 3]


def test_weights_are_relative_to_the_most_likely(kernels: Kernels) -> None:
    logits = np.array([1.0, 3.0, -math.inf, 3.0 - math.log(4)], np.float32)
    candidates = find_candidates(logits, Filters(), kernels)
    expected = [math.exp(-2), 1.0, 0.0, 0.25]
    np.testing.assert_allclose(candidates.weights / WEIGHT_ONE, expected, rtol=1e-6)
    assert candidates.weights[1] == WEIGHT_ONE
    assert candidates.total == sum(candidates.weights.tolist())


class TestTopK:
    def test_keeps_the_most_likely(self, kernels: Kernels) -> None:
        assert kept([0.1, 0.4, 0.2, 0.3], kernels, top_k=2) == [1, 3]

    def test_keeps_exactly_k_with_the_lower_ids_of_a_tie(self, kernels: Kernels) -> None:
        assert kept([0.2, 0.2, 0.2, 0.2, 0.2], kernels, top_k=3) == [0, 1, 2]
        assert kept([0.1, 0.2, 0.4, 0.2, 0.1], kernels, top_k=2) == [1, 2]

    @pytest.mark.parametrize("top_k", [0, 3, 4, 2**31 - 1])
    def test_zero_or_too_many_keep_all(self, top_k: int, kernels: Kernels) -> None:
        assert kept([0.1, 0.4, 0.5], kernels, top_k=top_k) == [0, 1, 2]


class TestTopP:
    @pytest.mark.parametrize(
        ("top_p", "count"),
        [(0.1, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.91, 4), (1, 4)],
    )
    def test_keeps_the_fewest_that_reach_it(
        self, top_p: float, count: int, kernels: Kernels
    ) -> None:
        most_likely_first = [3, 1, 2, 0]
        ids = kept([0.1, 0.3, 0.2, 0.4], kernels, top_p=top_p)
        assert ids == sorted(most_likely_first[:count])

    def test_reaching_it_exactly_is_enough(self, kernels: Kernels) -> None:
        assert kept([0.25, 0.25, 0.25, 0.25], kernels, top_p=0.5) == [0, 1]
        assert kept([0.25, 0.25, 0.25, 0.25], kernels, top_p=0.5000001) == [0, 1, 2]

    def test_lower_ids_of_a_tie_stay(self, kernels: Kernels) -> None:
        assert kept([0.2, 0.3, 0.3, 0.2], kernels, top_p=0.7) == [0, 1, 2]

    def test_the_higher_logit_goes_first_where_weights_are_equal(self, kernels: Kernels) -> None:
        logits = np.array([0.0, 1e-9, 0.0], np.float32)
        assert find_candidates(logits, Filters(), kernels).weights.tolist() == [WEIGHT_ONE] * 3
        assert find_candidates(logits, Filters(top_p=0.3), kernels).ids.tolist() == [1]

    def test_the_most_likely_always_stays(self, kernels: Kernels) -> None:
        assert kept([0.3, 0.4, 0.3], kernels, top_p=1e-30) == [1]

    @pytest.mark.parametrize("vocab_size", [200, 5000, 20_000])
    def test_flat_rows_of_every_size(self, vocab_size: int, kernels: Kernels) -> None:
        logits = np.zeros(vocab_size, np.float32)
        ids = find_candidates(logits, Filters(top_p=0.75), kernels).ids
        assert ids.tolist() == list(range(vocab_size * 3 // 4))


class TestMinP:
    def test_is_relative_to_the_most_likely(self, kernels: Kernels) -> None:
        assert kept([0.1, 0.5, 0.2, 0.15, 0.05], kernels, min_p=0.35) == [1, 2]
        assert kept([0.1, 0.5, 0.2, 0.15, 0.05], kernels, min_p=0.19) == [0, 1, 2, 3]

    def test_the_border_itself_stays(self, kernels: Kernels) -> None:
        logits = np.array([0.0, -1.0, -2.0], np.float32)
        border = float(exponentials(logits, kernels)[1])
        above = float(np.nextafter(np.float32(border), np.float32(1)))
        assert find_candidates(logits, Filters(min_p=border), kernels).ids.tolist() == [0, 1]
        assert find_candidates(logits, Filters(min_p=above), kernels).ids.tolist() == [0]

    def test_one_keeps_all_of_the_most_likely(self, kernels: Kernels) -> None:
        assert kept([0.1, 0.45, 0.45], kernels, min_p=1.0) == [1, 2]


class TestTypicalP:
    # Surprises 0.916, 1.204, 1.609, 2.303 and entropy 1.280: token 1 (0.3) is nearest, then
    # token 2 (0.2, distance 0.330), then token 3 (0.4, distance 0.364), then token 0 (0.1).
    @pytest.mark.parametrize(
        ("typical_p", "count"), [(0.01, 1), (0.29, 1), (0.31, 2), (0.49, 2), (0.51, 3), (0.91, 4)]
    )
    def test_goes_outwards_from_the_entropy(
        self, typical_p: float, count: int, kernels: Kernels
    ) -> None:
        nearest_first = [1, 2, 3, 0]
        ids = kept([0.1, 0.3, 0.2, 0.4], kernels, typical_p=typical_p)
        assert ids == sorted(nearest_first[:count])

    def test_lower_ids_of_a_tie_stay(self, kernels: Kernels) -> None:
        assert kept([0.25, 0.25, 0.25, 0.25], kernels, typical_p=0.6) == [0, 1, 2]

    def test_impossible_tokens_do_not_disturb(self, kernels: Kernels) -> None:
        assert kept([0.0, 0.1, 0.3, 0.0, 0.2, 0.4], kernels, typical_p=0.31) == [2, 4]


class TestTogether:
    def test_each_works_on_what_the_one_before_kept(self, kernels: Kernels) -> None:
        probabilities = [0.4, 0.3, 0.2, 0.1]
        assert kept(probabilities, kernels, top_p=0.85) == [0, 1, 2]
        # 0.4 and 0.3 are 57 % and 43 % of what top_k leaves.
        assert kept(probabilities, kernels, top_k=2, top_p=0.56) == [0]
        assert kept(probabilities, kernels, top_k=2, top_p=0.58) == [0, 1]
        # Three equal tokens are left by min_p; half of them is reached by two.
        assert kept([0.28, 0.28, 0.28, 0.16], kernels, min_p=0.9, typical_p=0.5) == [0, 1]

    def test_temperature_comes_first(self, kernels: Kernels) -> None:
        # Odds of 4 to 3 become, at temperature 0.5, odds of 16 to 9.
        probabilities = [4 / 7, 3 / 7]
        assert kept(probabilities, kernels, top_p=0.6) == [0, 1]
        assert kept(probabilities, kernels, temperature=0.5, top_p=0.6) == [0]
        assert kept(probabilities, kernels, min_p=0.7) == [0, 1]
        assert kept(probabilities, kernels, temperature=0.5, min_p=0.7) == [0]


class TestIntegerWeights:
    def test_rounds_half_to_even(self) -> None:
        halves = np.array([0.0, 0.5, 1.5, 2.5, 3.0], np.float32) / np.float32(WEIGHT_ONE)
        assert integer_weights(halves).tolist() == [0, 0, 2, 2, 3]

    def test_one_and_its_neighbour_are_exact(self) -> None:
        below_one = np.nextafter(np.float32(1), np.float32(0))
        weights = integer_weights(np.array([1.0, below_one], np.float32))
        assert weights.tolist() == [WEIGHT_ONE, WEIGHT_ONE - 2**16]

    def test_the_input_is_not_changed(self) -> None:
        weights = np.array([0.5], np.float32)
        integer_weights(weights)
        assert weights[0] == 0.5

    def test_e_to_the_0_is_1_and_to_minus_infinity_0(self, kernels: Kernels) -> None:
        edges = np.array([0.0, -0.0, -math.inf, -3e38], np.float32)
        assert exponentials(edges, kernels).tolist() == [1, 1, 0, 0]


tied_keys = st.lists(
    st.sampled_from([-math.inf, -3.5, -1.0, -0.0, 0.0, 1e-30, 2.0, 3e38]), min_size=1, max_size=60
)


@given(tied_keys, st.integers(1, 70))
def test_best_is_a_sort_by_key_then_index(keys: list[float], count: int) -> None:
    order = sorted(range(len(keys)), key=lambda i: (-keys[i], i))[:count]
    array = np.array(keys, np.float32)
    assert best(array, count).tolist() == sorted(order)
    assert best_first(array, count).tolist() == order
