"""The reference executable as a whole: sampling, scoring, and rows that are alone in any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo import _native
from octavo.backends.base import HEAD_BLOCK, NO_SCORES, Batch, Limits
from octavo.backends.reference import ReferenceBackend
from octavo.core.errors import ModelError
from octavo.core.hashing import numerics_id
from octavo.models.registry import build
from octavo.models.spec import ModelSpec
from octavo.weights.dummy import DummyWeights
from tests.forward import Sequences, TinyRun, no_sampling
from tests.hand_written import ArrayWeights
from tests.tiny import write_tiny_model

QWEN_WITH_WINDOWS = {
    "num_hidden_layers": 3,
    "use_sliding_window": True,
    "sliding_window": 20,
    "max_window_layers": 1,
}
MODELS = {
    "qwen3": ("qwen3", QWEN_WITH_WINDOWS),
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {"num_key_value_heads": 1, "attention_bias": True}),
}


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    family, options = MODELS[request.param]
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), family, **options)
    return TinyRun(folder, num_pages=200)


def tokens(seed: int, count: int) -> list[int]:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, count).tolist()


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_rows_equal_whatever_stands_beside_them(
    run: TinyRun, counts: list[int], cuts: list[int]
) -> None:
    """All sequences of a batch advance by the same cuts; each equals its own single run."""
    sequences = run.sequences()
    prompts = [tokens(seed, count) for seed, count in enumerate(counts)]
    members = [sequences.add() for _ in prompts]
    rows: list[list[np.ndarray]] = [[] for _ in prompts]
    step = 0
    while any(sequences.lengths[seq] < counts[seq] for seq in members):
        cut = cuts[step % len(cuts)]
        step += 1
        due = [
            (seq, prompts[seq][sequences.lengths[seq] :][:cut])
            for seq in members
            if sequences.lengths[seq] < counts[seq]
        ]
        for (seq, _), logits in zip(due, sequences.logits(due), strict=True):
            rows[seq].append(logits)
    for seq, prompt in enumerate(prompts):
        alone = run.prompt_logits(prompt)
        np.testing.assert_array_equal(np.concatenate(rows[seq]), alone, strict=True)


def test_threads_and_instruction_sets_change_no_bit(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "qwen3", **QWEN_WITH_WINDOWS)
    prompt = tokens(1, 40)
    expected = TinyRun(folder).prompt_logits(prompt)
    for name in _native.instruction_sets():
        for num_threads in (1, 2):
            other = TinyRun(folder, num_threads=num_threads, instruction_set=name)
            np.testing.assert_array_equal(other.prompt_logits(prompt), expected)


def sampled_batch(sequences: Sequences, num_seqs: int) -> Batch:
    """Two tokens for each sequence; the second rows are sampled greedily, with logprobs."""
    parts = [(sequences.add(), tokens(seq, 2)) for seq in range(num_seqs)]
    batch = sequences.batch(parts)
    batch.sample_rows = batch.row_starts[1:] - 1
    batch.sampling = no_sampling(num_seqs, 256)
    batch.sampling.num_logprobs[:] = 2
    return batch


def test_more_rows_than_a_block_of_heads(run: TinyRun) -> None:
    num_seqs = 2 * HEAD_BLOCK + 3
    batch = sampled_batch(run.sequences(), num_seqs)
    batch.score_rows = batch.row_starts[:-1]
    batch.score_targets = batch.token_ids[batch.score_rows + 1]
    batch.score_num_top = np.full(num_seqs, 1, np.int32)
    rows = run.executable.run(batch)
    assert (rows.errors, rows.prompt_errors) == ({}, {})

    logits = run.executable.logits(batch, np.arange(2 * num_seqs, dtype=np.int32))
    log_weights = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    sampled, scored = log_weights[1::2], log_weights[::2]
    np.testing.assert_array_equal(rows.token_ids, sampled.argmax(1))
    np.testing.assert_allclose(rows.scores.logprobs, sampled.max(1), atol=1e-5)
    expected = scored[np.arange(num_seqs), batch.score_targets]
    np.testing.assert_allclose(rows.prompt_scores.logprobs, expected, atol=1e-5)
    assert [ids.tolist() for ids in rows.prompt_scores.top_ids] == scored.argmax(1)[
        :, None
    ].tolist()
    assert [len(ids) for ids in rows.scores.top_ids] == [2] * num_seqs
    assert len(rows.prompt_scores.top_logprobs) == num_seqs


def test_a_step_that_samples_nothing(run: TinyRun) -> None:
    sequences = run.sequences()
    rows = run.executable.run(sequences.batch([(sequences.add(), tokens(1, 5))]))
    assert len(rows.token_ids) == 0
    assert rows.scores is rows.prompt_scores is NO_SCORES


def test_failed_rows_are_named_across_blocks(run: TinyRun) -> None:
    """NaN in the pages of two sequences fails these two, in whichever block they are."""
    num_seqs = HEAD_BLOCK + 6
    batch = sampled_batch(run.sequences(), num_seqs)
    broken = [3, HEAD_BLOCK + 4]
    run.executable.run(batch)
    batch.positions += 2
    batch.context_lens += 2
    expected = run.executable.run(batch)
    for row in broken:
        run.executable.page(0, int(batch.page_tables[0][row, 0]))[:] = 0xFF
    rows = run.executable.run(batch)
    assert sorted(rows.errors) == broken
    assert all("NaN" in message for message in rows.errors.values())
    assert rows.token_ids[broken].tolist() == [-1, -1]
    others = [row for row in range(num_seqs) if row not in broken]
    np.testing.assert_array_equal(rows.token_ids[others], expected.token_ids[others])
    np.testing.assert_array_equal(rows.scores.logprobs[others], expected.scores.logprobs[others])
    assert expected.errors == {}


def numerics_of(folder: Path, *, seed: int = 0, max_model_len: int | None = None) -> bytes:
    spec = ModelSpec.read(folder)
    length = spec.resolve_max_model_len(max_model_len)
    limits = Limits(1, 16, length, 4)
    executable = ReferenceBackend(1).compile(build(spec, length), DummyWeights(seed), limits)
    return numerics_id(executable.numerics())


def test_numerics_cover_weights_program_and_length(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "one")
    other = write_tiny_model(tmp_path / "two", rope_theta=9999.0)
    ids = {
        numerics_of(folder),
        numerics_of(folder, seed=1),
        numerics_of(folder, max_model_len=511),
        numerics_of(other),
    }
    assert len(ids) == 4
    assert numerics_of(folder) in ids


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tied_embedding_may_be_stored_as_the_head(family: str, tmp_path: Path) -> None:
    def rename(name: str) -> str:
        return "lm_head.weight" if name.endswith(("embed_tokens.weight", "wte.weight")) else name

    options = {"tie_word_embeddings": True}
    usual = TinyRun(write_tiny_model(tmp_path / "usual", family, **options))
    other = TinyRun(write_tiny_model(tmp_path / "other", family, rename=rename, **options))
    prompt = tokens(1, 10)
    np.testing.assert_array_equal(other.prompt_logits(prompt), usual.prompt_logits(prompt))


def test_a_missing_weight_is_an_error(tmp_path: Path) -> None:
    class Empty(ArrayWeights):
        def load(self, weight: object) -> np.ndarray:
            raise ModelError("the checkpoint has no such tensor")

    spec = ModelSpec.read(write_tiny_model(tmp_path))
    with pytest.raises(ModelError, match="no such tensor"):
        ReferenceBackend(1).compile(build(spec, 64), Empty({}), Limits(1, 16, 64, 4))
