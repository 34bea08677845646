"""Greedy rows that want nothing but a token: it is found beside the product, to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo._native import instruction_sets
from octavo.backends.base import HEAD_BLOCK, Batch, Rows
from octavo.backends.native import NativeBackend
from octavo.program.fuse import Fusions
from tests.forward import TinyRun
from tests.tiny import write_tiny_model
from tests.unit.backends.sampling_rows import Row, assert_same, batch_of

VOCAB = 1100  # several blocks of columns for each thread, the last one not whole
READERS = [
    Row(temperature=0, num_logprobs=2),
    Row(temperature=0.7, top_k=20),
    Row(temperature=0, bias={5: 3.0}),
    Row(temperature=0, seen={3: 1}, presence_penalty=0.5),
    Row(temperature=0, allowed=[7, 9]),
]
"""What needs more of its logits than the highest."""
NUM_SEQS = HEAD_BLOCK + 7
GREEDY = Row(temperature=0)
FOUND, STORED = "head: product and highest", "head: product"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("highest")
    return write_tiny_model(folder, "llama", vocab_size=VOCAB, tie_word_embeddings=False)


def with_head(folder: Path, to: Path, head: np.ndarray) -> Path:
    """The same model with other weights of its head: (vocab, hidden)."""
    tensors = load_file(folder / "model.safetensors")
    assert tensors["lm_head.weight"].shape == head.shape
    to.mkdir()
    (to / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file({**tensors, "lm_head.weight": head.astype(np.float32)}, to / "model.safetensors")
    return to


def load(folder: Path, threads: int = 2, **options: object) -> TinyRun:
    backend = NativeBackend(threads, profile=True, **options)  # type: ignore[arg-type]
    return TinyRun(folder, num_pages=NUM_SEQS + 1, backend=backend)


def batch_with(run: TinyRun, rows: list[Row]) -> Batch:
    sequences = run.sequences()
    parts = [(sequences.add(), [1 + 3 * seq, seq]) for seq in range(len(rows))]
    batch = sequences.batch(parts)
    batch.sample_rows = batch.row_starts[1:] - 1
    batch.sampling = batch_of(rows, VOCAB)
    return batch


def answers(run: TinyRun, rows: list[Row]) -> Rows:
    return run.executable.run(batch_with(run, rows))


def heads_of(run: TinyRun) -> set[str]:
    return {kind for kind in run.executable.seconds() if kind in (FOUND, STORED)}


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize(
    ("weights", "num_rows", "threads"),
    [("f32", 1, 2), ("f32", 40, 1), ("bf16", 20, 2), ("w8", 12, 1), ("w8", NUM_SEQS, 2)],
)
def test_on_and_off_give_the_same_tokens(
    folder: Path, instruction_set: str, weights: str, num_rows: int, threads: int
) -> None:
    options = {"instruction_set": instruction_set, "weights": weights}
    on = load(folder, threads, **options)
    off = load(folder, threads, fusions=Fusions(highest=False), **options)
    rows = [GREEDY] * num_rows
    found = answers(on, rows)
    assert_same(found, answers(off, rows))
    tokens = found.token_ids.tolist()
    assert found.errors == {}
    assert len(set(tokens)) > num_rows / 4, "the rows are different"
    assert heads_of(on) == {FOUND}
    assert heads_of(off) == {STORED}
    assert tokens[0] == off.prompt_logits([1, 0])[-1].argmax()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_only_rows_that_read_their_logits_have_them_written(folder: Path, threads: int) -> None:
    """Neighbours of all kinds get what they get where all logits are written."""
    rows = [READERS[row // 2 % len(READERS)] if row % 2 else GREEDY for row in range(NUM_SEQS)]
    on = load(folder, threads)
    off = load(folder, threads, fusions=Fusions(highest=False))
    assert_same(answers(on, rows), answers(off, rows))
    assert heads_of(on) == {FOUND}
    reads = load(folder, threads)
    assert_same(answers(reads, READERS), answers(off, READERS))
    assert heads_of(reads) == {STORED}


def test_blocks_of_heads_and_steps_leave_each_other_nothing(folder: Path) -> None:
    """Where one block has readers only, and the other none; scores and logits after a step."""
    on, off = load(folder), load(folder, fusions=Fusions(highest=False))
    readers = [READERS[row % len(READERS)] for row in range(7)]
    greedy = [GREEDY] * HEAD_BLOCK
    for rows in (
        [*greedy, *readers],
        [*(readers * HEAD_BLOCK)[:HEAD_BLOCK], *greedy[:7]],
        readers,
        greedy,
    ):
        assert_same(answers(on, rows), answers(off, rows))
    batches = [batch_with(run, greedy) for run in (on, off)]
    for batch in batches:
        batch.score_rows = batch.row_starts[:-1].copy()
        batch.score_targets = batch.token_ids[batch.score_rows + 1]
        batch.score_num_top = np.full(len(greedy), 2, np.int32)
    found, expected = (
        run.executable.run(batch) for run, batch in zip((on, off), batches, strict=True)
    )
    assert_same(found, expected)
    assert len(found.prompt_scores.logprobs) == len(greedy)
    rows_of_logits = batches[0].sample_rows[:5]
    logits = [
        run.executable.logits(batch, rows_of_logits)
        for run, batch in zip((on, off), batches, strict=True)
    ]
    np.testing.assert_array_equal(*logits)
    assert logits[0].argmax(1).tolist() == found.token_ids[:5].tolist()


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_of_equal_logits_the_first_is_taken(
    folder: Path, tmp_path: Path, instruction_set: str
) -> None:
    """All below zero in some rows: what a panel is padded with would be above them."""
    hidden = load_file(folder / "model.safetensors")["lm_head.weight"].shape[1]
    head = np.tile(np.linspace(-1, 1, hidden), (VOCAB, 1))
    equal = load(with_head(folder, tmp_path / "equal", head), instruction_set=instruction_set)
    found = answers(equal, [GREEDY] * NUM_SEQS)
    assert set(found.token_ids.tolist()) == {0}
    assert found.errors == {}
    head[[700, 900]] *= -2  # where a row is below zero, these two are its highest
    two = load(with_head(folder, tmp_path / "two", head), instruction_set=instruction_set)
    found = answers(two, [GREEDY] * NUM_SEQS)
    assert set(found.token_ids.tolist()) == {0, 700}
    assert found.errors == {}


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("column", [5, VOCAB - 1])
def test_a_row_that_is_not_finite_is_an_error_as_before(
    folder: Path, tmp_path: Path, instruction_set: str, column: int
) -> None:
    head = load_file(folder / "model.safetensors")["lm_head.weight"].copy()
    head[column] = 3e38  # this logit is infinite, above or below zero, or not a number
    large = with_head(folder, tmp_path / "large", head)
    options = {"instruction_set": instruction_set, "weights": "f32"}
    runs = load(large, **options), load(large, fusions=Fusions(highest=False), **options)
    rows = [GREEDY] * NUM_SEQS
    found, expected = (answers(run, rows) for run in runs)
    assert_same(found, expected)
    assert found.errors
    poisoned = []
    for run in runs:
        batch = batch_with(run, rows)
        run.executable.run(batch)
        for seq in (1, HEAD_BLOCK + 1):
            run.executable.page(0, int(batch.page_tables[0][seq, 0]))[:] = 0xFF  # NaN
        batch.positions += 2
        batch.context_lens += 2
        poisoned.append(run.executable.run(batch))
    assert_same(*poisoned)
    assert {1, HEAD_BLOCK + 1} <= poisoned[0].errors.keys()
    assert len(set(map(str, poisoned[0].errors.values()))) == 2, "infinite, and not a number"
    assert heads_of(runs[0]) == {FOUND}
