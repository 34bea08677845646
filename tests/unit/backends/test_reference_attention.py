"""Paged attention: right against a plain formula, and the same bits however it is reached.

Every token number has random queries, keys and values of its own, so that a sequence is any list
of token numbers. All pages are full of NaN before anything is computed: whatever is read without
having been written shows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo import _native
from octavo.backends.base import Limits
from octavo.backends.reference import ReferenceExecutable
from octavo.program.builder import ProgramBuilder
from octavo.program.ir import Program, Value, Weight
from tests.forward import Sequences
from tests.hand_written import MAX_LEN, compile_by_hand, random_array

F32 = NDArray[np.float32]
NUM_TOKENS = 97
SCALE = 0.35
WINDOWS: list[int | None] = [None, 1, 2, 15, 16, 17, 100, 256, 257, 300]


@dataclasses.dataclass(frozen=True)
class Attention:
    """Layers of attention over the same queries, keys and values; their sum goes out."""

    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 3
    windows: tuple[int | None, ...] = (None,)

    @property
    def arrays(self) -> dict[str, F32]:
        widths = {"q": self.num_heads, "k": self.num_kv_heads, "v": self.num_kv_heads}
        arrays = {
            name: random_array(seed, NUM_TOKENS, heads * self.head_dim, scale=3.0)
            for seed, (name, heads) in enumerate(widths.items())
        }
        return arrays | {"identity": np.eye(self.num_heads * self.head_dim, dtype=np.float32)}

    def program(self) -> Program:
        builder = ProgramBuilder(MAX_LEN)
        q, k, v = (
            builder.embed_tokens(Weight(name, self.arrays[name].shape)) for name in ("q", "k", "v")
        )
        outputs = [
            builder.attend(
                q,
                k,
                v,
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                scale=SCALE,
                window=window,
            )
            for window in self.windows
        ]
        total: Value = outputs[0]
        for output in outputs[1:]:
            total = builder.add(total, output)
        return builder.finish(builder.take(total), Weight("identity", (total.features,) * 2))

    def sequences(
        self,
        *,
        num_pages: int = 200,
        instruction_set: str = "",
        arrays: dict[str, F32] | None = None,
    ) -> Sequences:
        """All pages hold NaN."""
        executable, limits = compile_by_hand(
            self.program(),
            arrays or self.arrays,
            num_pages=num_pages,
            instruction_set=instruction_set,
        )
        poison(executable, limits, range(num_pages))
        return Sequences(executable, limits)

    def alone(self, token_ids: list[int], **options: object) -> F32:
        """Every row of one sequence, computed at once with nothing beside it."""
        sequences = self.sequences(**options)  # type: ignore[arg-type]
        return sequences.logits([(sequences.add(), token_ids)])[0]

    def formula(self, token_ids: list[int]) -> NDArray[np.float64]:
        """In float64, without pages or chunks."""
        arrays = {name: array.astype(np.float64) for name, array in self.arrays.items()}
        count = len(token_ids)
        q = arrays["q"][token_ids].reshape(count, self.num_heads, self.head_dim)
        k, v = (
            np.repeat(
                arrays[name][token_ids].reshape(count, self.num_kv_heads, self.head_dim),
                self.num_heads // self.num_kv_heads,
                axis=1,
            )
            for name in ("k", "v")
        )
        total = np.zeros((count, self.num_heads * self.head_dim))
        for window in self.windows:
            for row in range(count):
                first = 0 if window is None else max(0, row - window + 1)
                scores = np.einsum("hd,thd->ht", q[row], k[first : row + 1]) * SCALE
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                weights /= weights.sum(axis=1, keepdims=True)
                total[row] += np.einsum("ht,thd->hd", weights, v[first : row + 1]).ravel()
        return total


def poison(executable: ReferenceExecutable, limits: Limits, pages: range | list[int]) -> None:
    """Fill pages of every group with NaN."""
    for group in range(len(executable.kv_groups)):
        for page in pages:
            executable.page(group, page)[:] = 0xFF


def tokens(seed: int, count: int) -> list[int]:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, NUM_TOKENS, count).tolist()


SHAPES = st.sampled_from([(1, 1, 4), (3, 1, 2), (4, 4, 5), (6, 2, 3), (2, 2, 17)])


@given(
    shape=SHAPES,
    windows=st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=3),
    count=st.integers(1, 600),
    seed=st.integers(0, 2**32),
)
def test_agrees_with_the_formula(
    shape: tuple[int, int, int], windows: list[int | None], count: int, seed: int
) -> None:
    attention = Attention(*shape, tuple(windows))
    token_ids = tokens(seed, count)
    actual = attention.alone(token_ids)
    np.testing.assert_allclose(actual, attention.formula(token_ids), rtol=0, atol=2e-5)


@st.composite
def schedules(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Steps; in each, pairs of (sequence, number of its tokens), in any order."""
    num_seqs = draw(st.integers(1, 5))
    left = [
        draw(st.sampled_from([1, 5, 16, 17, 33, 255, 256, 257, 280, 530])) for _ in range(num_seqs)
    ]
    steps = []
    while any(left) and len(steps) < 12:
        members = draw(st.permutations([seq for seq in range(num_seqs) if left[seq]]))
        members = members[: draw(st.integers(1, len(members)))]
        step = []
        for seq in members:
            count = min(left[seq], draw(st.sampled_from([1, 1, 2, 16, 31, 100, 256, 600])))
            left[seq] -= count
            step.append((seq, count))
        steps.append(step)
    return steps


@given(
    schedule=schedules(),
    windows=st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=2),
    shape=SHAPES,
)
def test_neighbours_and_cuts_change_no_bit(
    schedule: list[list[tuple[int, int]]], windows: list[int | None], shape: tuple[int, int, int]
) -> None:
    """A row in any company, its sequence computed in any parts, equals the row computed alone.

    Pages that every layer's window has passed are poisoned after each step.
    """
    attention = Attention(*shape, tuple(windows))
    sequences = attention.sequences()
    num_seqs = 1 + max(seq for step in schedule for seq, _ in step)
    token_ids = [tokens(seed, 600) for seed in range(num_seqs)]
    for _ in range(num_seqs):
        sequences.add()
    rows: list[list[F32]] = [[] for _ in range(num_seqs)]
    for step in schedule:
        parts = [(seq, token_ids[seq][sequences.lengths[seq] :][:count]) for seq, count in step]
        for (seq, _), logits in zip(parts, sequences.logits(parts), strict=True):
            rows[seq].append(logits)
        poison_what_windows_passed(sequences)
    for seq in range(num_seqs):
        if rows[seq]:
            alone = attention.alone(token_ids[seq][: sequences.lengths[seq]])
            np.testing.assert_array_equal(np.concatenate(rows[seq]), alone, strict=True)


def poison_what_windows_passed(sequences: Sequences) -> None:
    executable = sequences.executable
    for index, group in enumerate(executable.kv_groups):
        for seq, length in enumerate(sequences.lengths):
            for page in sequences.tables[seq][: group.first_needed(length) // 16]:
                executable.page(index, page)[:] = 0xFF


def test_groups_are_by_window_and_have_pools_of_their_own() -> None:
    attention = Attention(windows=(None, 20, None, 20, 5))
    executable = attention.sequences().executable
    assert [(group.window, group.layers) for group in executable.kv_groups] == [
        (None, (0, 2)),
        (20, (1, 3)),
        (5, (4,)),
    ]
    sizes = [executable.page(group, 0).nbytes for group in range(3)]
    one_layer = 2 * 2 * 16 * 3 * 4
    assert sizes == [2 * one_layer, 2 * one_layer, one_layer]


def test_a_page_is_a_writable_view_of_what_was_stored() -> None:
    """[layers, K | V, kv heads, tokens, head_dim], in float32."""
    attention = Attention()
    sequences = attention.sequences()
    seq = sequences.add()
    token_ids = tokens(1, 20)
    sequences.logits([(seq, token_ids)])
    page = sequences.executable.page(0, sequences.tables[seq][1])
    content = page.view(np.float32).reshape(1, 2, 2, 16, 3)
    for index, name in enumerate(("k", "v")):
        expected = attention.arrays[name][token_ids[16:]].reshape(4, 2, 3)
        np.testing.assert_array_equal(content[0, index, :, :4], expected.transpose(1, 0, 2))
    assert np.isnan(content[0, :, :, 4:]).all()
    page[:] = 0
    assert not content.any()


def test_copied_pages_continue_as_the_original() -> None:
    attention = Attention(windows=(None, 10))
    token_ids = tokens(1, 25)
    expected = attention.alone(token_ids)[20:]
    sequences = attention.sequences()
    first, fork = sequences.add(), sequences.add()
    sequences.logits([(first, token_ids[:20])])
    batch = sequences.batch([(fork, token_ids[20:])])
    # The fork shares the full page and has a copy of the partial one.
    shared, partial = sequences.tables[first]
    own = sequences.tables[fork][0]
    copies = [(group, partial, own) for group in range(2)]
    batch.page_copies = np.array(copies, np.int32)
    batch.positions += 20
    batch.context_lens += 20
    batch.page_tables = [np.array([[shared, own]], np.int32)] * 2
    actual = sequences.executable.logits(batch, np.arange(5, dtype=np.int32))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_bad_token_fails_only_those_that_see_it(name: str, bad: float) -> None:
    """Also where a row is computed in one step with bad tokens that come after it."""
    attention = Attention(windows=(12,))
    arrays = attention.arrays
    token_ids = [*tokens(1, 300)]
    place = 260
    token_ids = [token if token != 5 else 6 for token in token_ids]
    token_ids[place] = 5
    expected = attention.alone(token_ids)
    arrays[name][5] = bad
    actual = attention.alone(token_ids, arrays=arrays)
    sees_it = np.zeros(300, bool)
    sees_it[place : place + 1 if name == "q" else place + 12] = True
    np.testing.assert_array_equal(actual[~sees_it], expected[~sees_it])
    assert not np.isfinite(actual[place]).all()

    sequences = attention.sequences(arrays=arrays)
    seq = sequences.add()
    one_by_one = [sequences.logits([(seq, [token])])[0] for token in token_ids]
    np.testing.assert_array_equal(np.concatenate(one_by_one), actual)


def test_pages_that_no_row_sees_are_not_looked_up() -> None:
    attention = Attention(windows=(5,))
    token_ids = tokens(1, 41)
    sequences = attention.sequences()
    seq = sequences.add()
    sequences.logits([(seq, token_ids[:40])])
    batch = sequences.batch([(seq, token_ids[40:])])
    batch.page_tables[0][0, :2] = 1_000_000
    actual = sequences.executable.logits(batch, np.zeros(1, np.int32))
    np.testing.assert_array_equal(actual, attention.alone(token_ids)[40:])


def test_zeros_have_one_sign() -> None:
    """Outputs that underflow to zero look the same however many unseen tokens are computed.

    The head would hide the sign, so the outputs become the values of a second layer, whose pages
    are looked at. Row 257 ends in -0 * exp(...) + -0, the last -0 from its own chunk.
    """
    arrays = Attention(1, 1, 2).arrays
    arrays["q"][:], arrays["k"][:] = 1.0, 1.0
    arrays["v"][:] = -1e-44  # times a small weight: -0
    arrays["k"][7] = 30.0  # takes nearly all of the weight
    arrays["v"][7] = -0.0
    builder = ProgramBuilder(MAX_LEN)
    q, k, v = (builder.embed_tokens(Weight(name, (NUM_TOKENS, 2))) for name in ("q", "k", "v"))
    first = builder.attend(q, k, v, num_heads=1, num_kv_heads=1, scale=1.0)
    second = builder.attend(q, k, first, num_heads=1, num_kv_heads=1, scale=1.0)
    program = builder.finish(builder.take(second), Weight("identity", (2, 2)))
    token_ids = [1] * 257 + [7] + [1] * 14  # the last page is full: all of it counts

    def outputs_of_first(parts: list[list[int]]) -> NDArray[np.uint32]:
        executable, limits = compile_by_hand(program, arrays, num_pages=20)
        sequences = Sequences(executable, limits)
        seq = sequences.add()
        for part in parts:
            sequences.logits([(seq, part)])
        content = executable.page(0, sequences.tables[seq][16]).view(np.float32)
        values = content.reshape(2, 2, 16, 2)[1, 1, :4]
        assert (values[1] == 0).all()
        return values.view(np.uint32)

    whole = outputs_of_first([token_ids])
    np.testing.assert_array_equal(outputs_of_first([[token] for token in token_ids]), whole)


def test_instruction_sets_and_threads_change_no_bit() -> None:
    attention = Attention(6, 2, 17, windows=(None, 40))
    token_ids = tokens(1, 300)
    first, *others = (
        attention.alone(token_ids, instruction_set=name) for name in _native.instruction_sets()
    )
    for other in others:
        np.testing.assert_array_equal(other, first)
