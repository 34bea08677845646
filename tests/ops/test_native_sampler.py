"""The native sampler under every instruction set: the bits of its slow twin, and nothing beside."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import _native
from octavo.backends import sampler as twin
from octavo.backends.base import I32, SamplingBatch, ScoredRows
from octavo.backends.candidates import WEIGHT_ONE, exponentials, integer_weights
from octavo.backends.native_sampler import NativeSampler
from octavo.backends.philox import random_u64
from tests.ops.helpers import F32, at_end_of_page
from tests.unit.backends.sampling_rows import Row, batch_of

KERNELS = _native.Kernels(_native.ThreadPool(1))
POOLS = [_native.ThreadPool(threads) for threads in (1, 2, 3)]
BLOCK = 512  # kLogitBlock
INF = math.inf

Result = tuple[I32, ScoredRows, dict[int, str]]

share = st.sampled_from([1.0, 1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 0.9999999]) | st.floats(
    2.0**-10, 1, width=32
)
plain_rows = st.builds(
    Row,
    seed=st.integers(0, 2**64 - 1),
    choice=st.integers(0, 2**32 - 1),
    position=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.0, 1e-39, 2e-38, 1e-30, 1e-6, 0.1, 0.7, 1.0, 1.0, 1.3, 100.0]),
    num_logprobs=st.sampled_from([-1, -1, 0, 1, 5, 20]),
)
filtered_rows = st.builds(
    dataclasses.replace,
    plain_rows,
    top_k=st.sampled_from([0, 0, 1, 2, 50, 300, 600, 2**31 - 1]),
    top_p=share,
    min_p=st.sampled_from([0.0, 0.0, 1e-40, 1e-12, 1e-4, 0.05, 0.5, 1.0]),
    typical_p=st.just(1.0) | share,
)


@st.composite
def full_rows(draw: st.DrawFn) -> Callable[[int], Row]:
    """A row with everything, once the size of the vocabulary is known."""
    row = draw(filtered_rows)
    seed, num_seen, num_biases = draw(st.tuples(st.integers(0, 2**32), *[st.integers(0, 40)] * 2))
    penalties = draw(
        st.fixed_dictionaries(
            {
                "repetition_penalty": st.sampled_from([1.0, 0.01, 0.7, 1.2, 10.0]),
                "presence_penalty": st.sampled_from([0.0, -2.0, 0.3]),
                "frequency_penalty": st.sampled_from([0.0, -0.2, 0.7]),
            }
        )
    )
    density = draw(st.sampled_from([None, None, 0.0, 0.001, 0.5, 0.99, 1.0]))
    values = draw(st.sampled_from([[-INF, -0.5, 2.0], [-INF], [-100.0, 100.0], [3e38, 0.0]]))

    def with_vocabulary(size: int) -> Row:
        rng = np.random.default_rng(seed)
        seen = rng.choice(size, min(num_seen, size), replace=False).tolist()
        biased = rng.choice(size, min(num_biases, size), replace=False).tolist()
        allowed = None if density is None else np.flatnonzero(rng.random(size) < density).tolist()
        return dataclasses.replace(
            row,
            seen={token: int(rng.integers(5)) for token in seen},
            bias={token: float(rng.choice(values)) for token in biased},
            allowed=allowed,
            **penalties,
        )

    return with_vocabulary


any_rows = st.lists(
    st.one_of(
        plain_rows.map(lambda row: lambda size: row),
        filtered_rows.map(lambda row: lambda size: row),
        full_rows(),
    ),
    min_size=1,
    max_size=6,
)
small_sizes = st.one_of(
    st.integers(1, 70),
    st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]),
    st.integers(1, 3000),
)


def logits_for(num_rows: int, size: int, seed: int) -> F32:
    """Rows of many kinds: smooth, tied, with holes, at the ends of float32, sorted, unusable."""
    rng = np.random.default_rng(seed)
    rows = np.empty((num_rows, size), np.float32)
    for row in rows:
        spread = rng.choice([0.01, 1, 3, 8])
        row[:] = rng.normal(0, spread, size)
        somewhere = rng.integers(size, size=2)
        kind = rng.integers(14)
        if kind == 0:
            np.round(row, out=row)
        elif kind == 1:
            row[rng.random(size) < 0.5] = -np.inf
        elif kind == 2:
            row[:] = np.clip(row / spread, -3, 3) * np.float32(1e38)
        elif kind == 3:
            row[:] = rng.choice([0.0, -0.0], size)
        elif kind == 4:
            row[somewhere[0]] = rng.choice([np.nan, np.inf, -np.nan])
        elif kind == 5:
            row[:] = -np.inf
            row[somewhere] = rng.choice([0.0, -np.inf, 5.0, np.nan], 2)
        elif kind == 6:
            row.sort()
        elif kind == 7:
            row[::-1].sort()
        elif kind == 8:  # neighbours in float32
            row[:] = 1 + rng.integers(0, 4, size) * 2.0**-23
        elif kind == 9:
            row[:] = rng.exponential(4, size)
        elif kind == 10:
            row[somewhere] = row.max()
        elif kind == 11:  # few that matter, as a trained model's
            row[somewhere] += 20
    return rows


def assert_same(actual: Result, expected: Result) -> None:
    assert actual[0].tolist() == expected[0].tolist()
    assert actual[2] == expected[2]
    for attribute in ("logprobs", "top_ids", "top_logprobs"):
        pairs = zip(getattr(actual[1], attribute), getattr(expected[1], attribute), strict=True)
        assert all(one.tobytes() == other.tobytes() for one, other in pairs), attribute


def assert_equals_twin(logits: F32, batch: SamplingBatch, seed: int) -> None:
    """Samples, and scores arbitrary targets, with every instruction set."""
    num_rows, size = logits.shape
    rng = np.random.default_rng(seed)
    targets = rng.integers(size, size=num_rows).astype(np.int32)
    wanted = rng.choice([0, 1, 20, size], num_rows).astype(np.int32)
    before = logits.tobytes()
    expected = twin.sample(logits, batch, KERNELS)
    expected_scores = (targets, *twin.score(logits, targets, wanted, KERNELS))
    for number, name in enumerate(_native.instruction_sets()):
        native = NativeSampler(POOLS[(seed + number) % len(POOLS)], size, name)
        assert_same(native.sample(logits, batch), expected)
        assert_same((targets, *native.score(logits, targets, wanted)), expected_scores)
    assert logits.tobytes() == before


@settings(max_examples=30)
@given(any_rows, small_sizes, st.integers(0, 2**32))
def test_any_rows_give_the_bits_of_the_twin(
    makers: list[Callable[[int], Row]], size: int, seed: int
) -> None:
    rows = [make(size) for make in makers]
    assert_equals_twin(logits_for(len(rows), size, seed), batch_of(rows, size), seed)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    any_rows,
    st.sampled_from([9_999, 32_000, 40_961, 50_257, 151_936, 200_000]),
    st.integers(0, 2**32),
)
def test_long_rows_give_the_bits_of_the_twin(
    makers: list[Callable[[int], Row]], size: int, seed: int
) -> None:
    rows = [make(size) for make in makers[:3]]
    assert_equals_twin(logits_for(len(rows), size, seed), batch_of(rows, size), seed)


@settings(max_examples=30)
@given(filtered_rows, small_sizes, st.integers(0, 2**32))
def test_many_draws_from_one_row_find_what_the_filters_keep(row: Row, size: int, seed: int) -> None:
    """One draw would seldom meet a token that is there or missing by mistake."""
    logits = np.repeat(logits_for(1, size, seed), 60, axis=0)
    temperature = max(row.temperature, 0.1)
    rows = [dataclasses.replace(row, seed=seed, temperature=temperature)] * 60
    batch = batch_of([dataclasses.replace(one, position=i) for i, one in enumerate(rows)], size)
    native = NativeSampler(POOLS[0], size)
    assert_same(native.sample(logits, batch), twin.sample(logits, batch, KERNELS))


@pytest.mark.parametrize("size", [12, 40, 700, 5000])
@pytest.mark.parametrize(
    "filters",
    [{"top_k": 7}, {"typical_p": 0.6}, *[{"top_p": top_p} for top_p in (0.3, 0.55, 0.8, 0.9)]],
)
def test_ties_at_a_border_keep_the_lower_ids(
    filters: dict[str, Any], size: int, instruction_set: str
) -> None:
    """Ten tokens are equal, and the border lies among them."""
    rng = np.random.default_rng(size)
    native = NativeSampler(POOLS[0], size, instruction_set)
    rows = [Row(position=position, **filters) for position in range(120)]
    batch = batch_of(rows, size)
    for _ in range(4):
        logits = rng.uniform(-40, -30, size).astype(np.float32)
        tied = rng.choice(size, 12, replace=False)
        logits[tied[:10]] = 0.0
        logits[tied[:10:3]] = -0.0
        logits[tied[10:]] = 0.25
        block = np.repeat(logits[None], len(rows), axis=0)
        assert_same(native.sample(block, batch), twin.sample(block, batch, KERNELS))


def test_a_draw_at_the_very_border_of_a_block(instruction_set: str) -> None:
    """The weights are made for one random number: the draw falls on the sum of the first block."""
    row = Row(seed=3)
    key = np.array([3], np.uint64), np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    number = int(random_u64(*key)[0])
    rest = -(-WEIGHT_ONE * 2**64 // number) - WEIGHT_ONE
    pool = np.linspace(-28, 0, 60_000, dtype=np.float32)
    weights = integer_weights(exponentials(pool, KERNELS))
    logits = np.full((1, 2 * BLOCK), -np.inf, np.float32)
    logits[0, 0] = 0.0
    token = BLOCK
    while rest > 0:
        heaviest = int(np.flatnonzero(weights <= rest)[-1])
        logits[0, token] = pool[heaviest]
        rest -= int(weights[heaviest])
        token += 1
    batch = batch_of([row], 2 * BLOCK)
    native = NativeSampler(POOLS[0], 2 * BLOCK, instruction_set)
    assert native.sample(logits, batch)[0].tolist() == [BLOCK]
    assert twin.sample(logits, batch, KERNELS)[0].tolist() == [BLOCK]


@pytest.mark.parametrize("lift", [0.3, -0.3])
@pytest.mark.parametrize(
    "filters", [{"top_k": 700}, {"top_k": 2000}, {"top_p": 0.2}, {"top_p": 0.6}, {"top_p": 0.95}]
)
def test_samples_that_mislead_change_nothing(
    filters: dict[str, Any], lift: float, instruction_set: str
) -> None:
    """Every fourth logit, just where samples are taken, is higher than the others, or lower."""
    size = 4096
    rng = np.random.default_rng(5)
    logits = rng.uniform(-0.1, 0.1, size).astype(np.float32)
    logits[::4] += np.float32(lift)
    rows = [Row(position=position, **filters) for position in range(150)]
    block, batch = np.repeat(logits[None], len(rows), axis=0), batch_of(rows, size)
    native = NativeSampler(POOLS[0], size, instruction_set)
    assert_same(native.sample(block, batch), twin.sample(block, batch, KERNELS))


@pytest.mark.parametrize("place", [0, 511, 512, 40_000])
@pytest.mark.parametrize("value", [-30.0, 30.0, math.nan, INF])
def test_a_single_long_row_is_shared_by_threads(place: int, value: float) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (1, 65_536)).astype(np.float32)
    logits[0, 65_535] = logits[0, 3] = 25.0  # a tie: the lower id
    logits[0, place] = value
    batch = batch_of([Row(temperature=0, num_logprobs=3)], 65_536)
    expected = twin.sample(logits, batch, KERNELS)
    for name in _native.instruction_sets():
        for pool in POOLS:
            assert_same(NativeSampler(pool, 65_536, name).sample(logits, batch), expected)


@pytest.mark.parametrize("size", [1, 7, 31, 33, BLOCK, BLOCK + 1, 2050])
def test_nothing_beyond_the_arrays_is_read(size: int, instruction_set: str) -> None:
    rng = np.random.default_rng(size)
    logits = at_end_of_page(rng.normal(0, 3, (1, size)).astype(np.float32))
    native = NativeSampler(POOLS[0], size, instruction_set)
    every_way = [
        Row(temperature=0),
        Row(num_logprobs=20),
        Row(top_k=1 + size // 2, temperature=0.7),
        Row(top_p=0.99, min_p=1e-4, typical_p=0.9),
        Row(seen={size - 1: 1}, bias={size - 1: 1.0}, allowed=range(size), top_p=0.999),
    ]
    for row in every_way:
        batch = batch_of([row], size)
        batch.masks = at_end_of_page(batch.masks.view(np.float32)).view(np.uint32)
        assert_same(native.sample(logits, batch), twin.sample(logits, batch, KERNELS))


def test_what_a_row_gets_does_not_depend_on_what_was_before(instruction_set: str) -> None:
    """Workspaces carry nothing from row to row."""
    size = 1500
    rows = [
        Row(temperature=0.7, top_k=40, num_logprobs=4),
        Row(bias={3: 50.0}, num_logprobs=4, top_p=0.8),
        Row(num_logprobs=4),
        Row(allowed=[5, 900], num_logprobs=4, typical_p=0.9),
        Row(top_p=0.9, num_logprobs=4),
    ]
    logits = logits_for(len(rows), size, 12)
    native = NativeSampler(POOLS[0], size, instruction_set)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 1, 0, 3, 2]):
        chosen = np.ascontiguousarray(logits[order])
        batch = batch_of([rows[i] for i in order], size)
        assert_same(native.sample(chosen, batch), twin.sample(chosen, batch, KERNELS))


def test_several_threads_may_call() -> None:
    size = 5000
    native = NativeSampler(POOLS[1], size)
    logits = logits_for(8, size, 3)
    batch = batch_of([Row(seed=i, top_p=0.9, num_logprobs=2) for i in range(8)], size)
    expected = twin.sample(logits, batch, KERNELS)
    failures: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(20):
                assert_same(native.sample(logits, batch), expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


class TestBoundary:
    SIZE = 40

    @pytest.fixture
    def native(self) -> NativeSampler:
        return NativeSampler(POOLS[0], self.SIZE)

    @pytest.fixture
    def batch(self) -> SamplingBatch:
        row = Row(seen={1: 1, 2: 2}, bias={3: 1.0}, allowed=[1, 2, 3])
        return batch_of([row, Row()], self.SIZE)

    @property
    def logits(self) -> F32:
        return np.zeros((2, self.SIZE), np.float32)

    @pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SamplingBatch)])
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda array: array.astype(np.float64),
            lambda array: np.concatenate([array, array[:1], array[:1]]),
            lambda array: array.tolist(),
            lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
            lambda array: np.zeros((*array.shape, 1), array.dtype),
        ],
        ids=["dtype", "longer", "list", "strided", "dimensions"],
    )
    def test_arrays_that_do_not_fit_are_refused(
        self,
        name: str,
        spoil: Callable[[Any], Any],
        native: NativeSampler,
        batch: SamplingBatch,
        request: pytest.FixtureRequest,
    ) -> None:
        if name == "masks" and "longer" in request.node.name:
            pytest.skip("more masks than rows use are fine")
        if name in ("bias_ids", "bias_values") and "strided" in request.node.name:
            pytest.skip("one element has no stride")
        if name == "num_logprobs" and "list" in request.node.name:
            pytest.skip("sizes the results before the boundary sees it")
        setattr(batch, name, spoil(getattr(batch, name)))
        partner = name.split("_")[0]  # seen_ids may show as seen_counts that do not fit
        with pytest.raises(TypeError, match=f"^({name}|{partner}_.*): "):
            native.sample(self.logits, batch)

    @pytest.mark.parametrize(
        "logits",
        [np.zeros((2, 39), np.float32), np.zeros((2, 40)), np.zeros(40, np.float32), None],
    )
    def test_logits_that_do_not_fit_are_refused(
        self, logits: Any, native: NativeSampler, batch: SamplingBatch
    ) -> None:
        with pytest.raises(TypeError):
            native.sample(logits, batch)

    @pytest.mark.parametrize("starts", [[0, 3, 3], [1, 0, 2], [-1, 0, 2], [0, 2, 1]])
    @pytest.mark.parametrize("name", ["seen_starts", "bias_starts"])
    def test_starts_outside_of_the_values_are_refused(
        self, name: str, starts: list[int], native: NativeSampler, batch: SamplingBatch
    ) -> None:
        setattr(batch, name, np.array(starts, np.int32))
        with pytest.raises(ValueError, match=f"^{name}: not ascending"):
            native.sample(self.logits, batch)

    def test_a_mask_that_is_not_there_is_refused(
        self, native: NativeSampler, batch: SamplingBatch
    ) -> None:
        batch.mask_of_row[1] = 1
        with pytest.raises(ValueError, match="only 1 masks"):
            native.sample(self.logits, batch)

    @pytest.mark.parametrize("target", [-1, 40])
    def test_targets_that_are_no_tokens_are_refused(
        self, target: int, native: NativeSampler
    ) -> None:
        with pytest.raises(ValueError, match=f"{target} is no token"):
            native.score(self.logits, np.array([0, target], np.int32), np.zeros(2, np.int32))

    @pytest.mark.parametrize("size", [0, -1, 2**23 + 1])
    def test_vocabularies_that_cannot_be_summed_are_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="vocab_size"):
            _native.NativeSampler(POOLS[0], size)

    def test_top_tokens_need_room(self, batch: SamplingBatch) -> None:
        native = _native.NativeSampler(POOLS[0], self.SIZE)
        batch.num_logprobs[1] = 3
        rows, room = [np.zeros(2, np.int32) for _ in range(3)], np.zeros((2, 2), np.int32)
        with pytest.raises(TypeError, match="no room for the 3 tokens that row 1"):
            native.sample(
                self.logits, batch, rows[0], rows[1], np.zeros(2, np.float32), rows[2], room,
                np.zeros((2, 2), np.float32),
            )  # fmt: skip
