"""A step of the native backend is one native call, and its blocks of rows are rows like others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import _native
from octavo.backends.base import HEAD_BLOCK, NO_SCORES, Batch
from octavo.backends.native import NativeBackend
from octavo.backends.sampler import rows_between
from octavo.program.fuse import Fusions
from tests.forward import TinyRun, no_sampling
from tests.tiny import write_tiny_model
from tests.unit.backends.sampling_rows import Row, assert_same, batch_of, bits

NUM_SEQS = 2 * HEAD_BLOCK + 3
VOCAB = 250  # not in 32s: the rows of logits do not touch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("steps"), "llama", vocab_size=VOCAB)


def load(folder: Path, **options: Any) -> TinyRun:
    return TinyRun(folder, num_pages=NUM_SEQS + 1, backend=NativeBackend(2, **options))


def every_way(row: int) -> Row:
    """Rows of all kinds, none like its neighbour."""
    ways = (
        Row(temperature=0),
        Row(num_logprobs=row % 4),
        Row(temperature=0.7, top_k=20, num_logprobs=2),
        Row(top_p=0.8, min_p=0.01),
        Row(seen={row % VOCAB: 2, 7: 1}, presence_penalty=0.5, bias={row: 3.0}, num_logprobs=0),
        Row(temperature=0, allowed=[row % VOCAB, 9], typical_p=0.9),
        Row(allowed=[5], bias={5: float("-inf")}),  # fails
    )
    return ways[row % len(ways)]


def large_batch(run: TinyRun) -> Batch:
    """Two tokens of many sequences: the second rows are drawn from, the first ones scored."""
    sequences = run.sequences()
    parts = [(sequences.add(), [seq % VOCAB, seq * 7 % VOCAB]) for seq in range(NUM_SEQS)]
    batch = sequences.batch(parts)
    batch.sample_rows = batch.row_starts[1:] - 1
    batch.sampling = batch_of([every_way(row) for row in range(NUM_SEQS)], VOCAB)
    batch.score_rows = batch.row_starts[:-1].copy()
    batch.score_targets = batch.token_ids[batch.score_rows + 1]
    batch.score_num_top = np.arange(NUM_SEQS, dtype=np.int32) % 3
    return batch


def test_blocks_of_rows_give_the_bits_of_the_reference(folder: Path) -> None:
    native, reference = load(folder), TinyRun(folder, num_pages=NUM_SEQS + 1)
    batch = large_batch(native)
    expected = reference.executable.run(batch)
    assert len(expected.errors) == NUM_SEQS // 7
    assert_same(native.executable.run(batch), expected)
    for run in (native, reference):  # a row of each block becomes NaN, in the next step
        for seq in (1, HEAD_BLOCK + 1, NUM_SEQS - 1):
            run.executable.page(0, int(batch.page_tables[0][seq, 0]))[:] = 0xFF
    batch.positions += 2
    batch.context_lens += 2
    expected = reference.executable.run(batch)
    assert sorted(expected.prompt_errors) == [1, HEAD_BLOCK + 1, NUM_SEQS - 1]
    assert_same(native.executable.run(batch), expected)


@pytest.mark.parametrize("wanted", [-1, 2])
def test_blocks_of_rows_give_what_each_row_gives_alone(folder: Path, wanted: int) -> None:
    """Without logprobs, too, when there is no room for scores."""
    run = load(folder, weights="w8", kv="int8")
    batch = large_batch(run)
    batch.score_rows = batch.score_rows[:0]
    batch.sampling.num_logprobs[:] = wanted
    whole, sample_rows, sampling = run.executable.run(batch), batch.sample_rows, batch.sampling
    assert len(whole.scores.logprobs) == (0 if wanted < 0 else NUM_SEQS)
    for row in range(0, NUM_SEQS, 5):
        batch.sample_rows = sample_rows[row : row + 1]
        batch.sampling = rows_between(sampling, row, row + 1)
        alone = run.executable.run(batch)
        assert alone.token_ids[0] == whole.token_ids[row]
        assert alone.errors.get(0) == whole.errors.get(row)
        if wanted >= 0:
            assert bits(alone.scores)[0] == bits(whole.scores)[row]


class Recorder:
    """Stands in front of a native object and writes down what is called."""

    def __init__(self, native: object) -> None:
        self._native = native
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        self.calls.append(name)
        function: Callable[..., object] = getattr(self._native, name)
        return function


def test_a_step_is_one_native_call(folder: Path) -> None:
    run = load(folder)
    executable: Any = run.executable
    forward = Recorder(executable._held.forward)
    executable._held = replace(executable._held, forward=forward)
    batch = large_batch(run)
    rows = executable.run(batch)
    assert forward.calls == ["run", "score"]  # score_rows are rare, and a second call
    batch.score_rows = batch.score_rows[:0]
    forward.calls.clear()
    assert executable.run(batch).token_ids.tolist() == rows.token_ids.tolist()
    assert forward.calls == ["run"]
    assert isinstance(executable._held.sampler, _native.NativeSampler)  # handed over, not called


def test_the_usual_rows_have_no_scores(folder: Path) -> None:
    run = load(folder)
    batch = large_batch(run)
    batch.sampling = no_sampling(NUM_SEQS, VOCAB)
    batch.score_rows = batch.score_rows[:0]
    rows = run.executable.run(batch)
    assert rows.scores is rows.prompt_scores is NO_SCORES
    assert (rows.errors, rows.prompt_errors) == ({}, {})


def test_what_all_share_who_have_no_scores_cannot_be_changed() -> None:
    assert (NO_SCORES.top_ids, NO_SCORES.top_logprobs) == ((), ())
    assert NO_SCORES.logprobs.size == 0
    with pytest.raises(ValueError, match="does not own its data"):
        NO_SCORES.logprobs.resize(1)
    with pytest.raises(FrozenInstanceError):
        NO_SCORES.top_ids = []  # type: ignore[misc]


@pytest.mark.parametrize("row", [Row(temperature=0), Row(seed=1), Row(top_k=9, num_logprobs=3)])
def test_threads_share_the_logits_of_a_row_that_is_alone(row: Row, tmp_path: Path) -> None:
    size = 50_000
    folder = write_tiny_model(tmp_path, "llama", vocab_size=size, hidden_size=32)
    found = []
    for threads, fusions in ((1, Fusions()), (3, Fusions()), (3, Fusions(highest=False))):
        run = TinyRun(folder, backend=NativeBackend(threads, fusions=fusions))
        sequences = run.sequences()
        batch = sequences.batch([(sequences.add(), [5, 6, 7])])
        batch.sample_rows = np.array([2], np.int32)
        batch.sampling = batch_of([row], size)
        found.append(run.executable.run(batch))
    for rows in found[1:]:
        assert_same(rows, found[0])


def test_profiles_tell_sampling_from_the_head(folder: Path) -> None:
    run = load(folder, profile=True)
    batch = large_batch(run)
    run.executable.run(batch)
    seconds = run.executable.seconds()
    assert {"sampling", "scoring", "head: product"} < set(seconds)
    assert all(value > 0 for value in seconds.values())


@pytest.mark.parametrize("rows", [[0, 6], [-1, 2]])
def test_rows_that_are_not_there_are_not_drawn_from(folder: Path, rows: list[int]) -> None:
    run = load(folder)
    sequences = run.sequences()
    batch = sequences.batch([(sequences.add(), [1, 2, 3]), (sequences.add(), [4, 5, 6])])
    batch.sample_rows = np.array(rows, np.int32)
    batch.sampling = no_sampling(2, VOCAB)
    before = run.executable.page(0, 1).tobytes()
    with pytest.raises(ValueError, match="head_rows: not a row of the step"):
        run.executable.run(batch)
    assert run.executable.page(0, 1).tobytes() == before  # nothing was computed


@pytest.mark.parametrize("row", [2 * NUM_SEQS, -1])
def test_rows_that_are_not_there_are_not_scored(folder: Path, row: int) -> None:
    run = load(folder)
    batch = large_batch(run)
    expected = run.executable.run(batch)
    rows = batch.score_rows
    batch.score_rows = np.where(np.arange(NUM_SEQS) == 1, row, rows).astype(np.int32)
    with pytest.raises(ValueError, match="head_rows: not a row of the step"):
        run.executable.run(batch)
    batch.score_rows = rows  # whoever comes next has the turn
    assert_same(run.executable.run(batch), expected)


def test_a_row_past_its_own_table_is_refused(folder: Path) -> None:
    """Its page would be the next sequence's."""
    run = load(folder)
    sequences = run.sequences()
    batch = sequences.batch([(sequences.add(), [1, 2]), (sequences.add(), [4, 5])])
    batch.sample_rows = np.array([1, 3], np.int32)
    batch.sampling = no_sampling(2, VOCAB)
    assert batch.page_tables[0].shape == (2, 1)
    batch.positions = np.array([20, 0, 0, 1], np.int32)
    other = int(batch.page_tables[0][1, 0])
    before = run.executable.page(0, other).tobytes()
    with pytest.raises(ValueError, match="positions: not ascending"):
        run.executable.run(batch)
    assert run.executable.page(0, other).tobytes() == before


def test_a_sampler_for_something_else_is_refused(folder: Path) -> None:
    run = load(folder)
    executable: Any = run.executable
    batch = large_batch(run)
    for sampler in (
        _native.NativeSampler(_native.ThreadPool(2), VOCAB),
        _native.NativeSampler(_native.ThreadPool(2), VOCAB + 1),
    ):
        executable._held = replace(executable._held, sampler=sampler)
        with pytest.raises(ValueError, match="sampler: made for another vocabulary or another"):
            executable.run(batch)


def test_logprobs_need_room(folder: Path) -> None:
    executable: Any = load(folder).executable
    held = executable._held
    batch = large_batch(load(folder))
    arrays = np.zeros(NUM_SEQS, np.int32), np.zeros(NUM_SEQS, np.int32)
    with pytest.raises(TypeError, match="logprobs: no room for those of row 1"):
        held.forward.run(batch, held.sampler, *arrays, None, None, None, None)
