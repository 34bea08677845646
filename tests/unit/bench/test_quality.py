"""Quality against what the engine itself says, and against computations of its own."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo import LLM, SamplingParams
from octavo.backends.base import HEAD_BLOCK, I32, Batch, Executable
from octavo.bench.quality import (
    BASELINE,
    DUMMY,
    Format,
    QualityJob,
    QualityRow,
    all_formats,
    measure_quality,
)
from octavo.bench.window_logits import blocks_of
from octavo.bench.windows import encode_document
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError, ModelError, RequestFailed
from octavo.engine.load import LoadedEngine, load_engine
from octavo.text.tokenizer import Tokenizer
from tests.forward import TinyRun
from tests.small_model import END, write_small_model
from tests.tiny import write_tiny_model

TEXT = "The dog ran. 犬がいる, and so does the cat! "
CANDIDATE = Format(DUMMY)
"""A name that EngineConfig takes; what it stands for, ``loading`` says."""
SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("quality"))


@pytest.fixture(scope="module")
def perturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with other numbers in one tensor."""
    other = write_small_model(tmp_path_factory.mktemp("perturbed"))
    tensors = load_file(other / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = np.float32(1.5) * tensors[name]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    return other


def job(folder: Path, path: Path, text: str = TEXT, **changes: Any) -> QualityJob:
    path.write_text(text, encoding="utf-8")
    fields: dict[str, Any] = {
        "folder": str(folder),
        "model": "small",
        "text": str(path),
        "separator": None,
        "context": None,
        "limit_tokens": None,
        "formats": (),
        "options": {"num_threads": 1},
    }
    return QualityJob(**{**fields, **changes})


def loading(folder: Path) -> Callable[[Path, EngineConfig], LoadedEngine]:
    """Loads this model where the candidate is asked for."""

    def load(own: Path, config: EngineConfig) -> LoadedEngine:
        if config.weights == DUMMY:
            return load_engine(folder, replace(config, weights="f32"))
        return load_engine(own, config)

    return load


def rows_of(job: QualityJob, load: Any = load_engine) -> list[QualityRow]:
    states = list(measure_quality(job, load))
    done = [state.done for state in states]
    assert done == sorted(done)
    assert {state.total for state in states} == {done[-1]}
    return [state.row for state in states if state.row is not None]


def engine_losses(folder: Path, windows: list[list[int]]) -> list[float]:
    """-logprob of every token but the first, as the engine gives it to users."""
    with LLM(folder, num_threads=1) as llm:
        outputs = llm.generate(windows, SamplingParams(max_tokens=1, prompt_logprobs=0))
    found: list[float] = []
    for output in outputs:
        assert output.prompt_logprobs is not None
        found += [-score.logprob for score in output.prompt_logprobs[1:] if score is not None]
    return found


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("gpt2", {}), ("mistral", {"sliding_window": 32})],
)
def test_perplexity_and_bits_are_those_of_the_engines_logprobs(
    tmp_path: Path, family: str, options: dict[str, int]
) -> None:
    model = write_small_model(tmp_path / "model", family, **options)
    text = TEXT * 5
    [row] = rows_of(job(model, tmp_path / "text", text))
    lost = engine_losses(model, [encoded(model, text)])
    assert row.tokens == len(lost) == len(text.encode()) - 1 > 3 * HEAD_BLOCK
    assert (row.documents, row.windows, row.context) == (1, 1, 512)
    assert row.characters == len(text) - 1  # without a BOS the first is not predicted
    assert row.perplexity == pytest.approx(math.exp(math.fsum(lost) / len(lost)), rel=1e-6)
    bits = math.fsum(lost) / math.log(2) / row.characters
    assert row.bits_per_character == pytest.approx(bits, rel=1e-6)
    assert (row.agreement, row.kl_mean, row.kl_p99, row.kl_max) == (None,) * 4


def encoded(folder: Path, text: str) -> list[int]:
    return list(encode_document(text, Tokenizer.load(folder)).token_ids)


def test_documents_with_a_bos_in_windows(folder: Path, tmp_path: Path) -> None:
    other = write_small_model(tmp_path / "bos")
    (other / "tokenizer_config.json").write_text(json.dumps({"bos_token": END}))
    text = "abcdefg--hi--\n"
    [row] = rows_of(job(other, tmp_path / "text", text, context=4, separator="--"))
    bos, *tokens = encoded(other, "abcdefghi")
    windows = [
        [bos, *tokens[0:3]],
        [bos, *tokens[3:6]],
        [bos, tokens[6]],
        [bos, *tokens[7:9]],
    ]
    lost = engine_losses(other, windows)
    assert (row.documents, row.windows, row.tokens, row.characters) == (2, 4, 9, 9)
    assert row.perplexity == pytest.approx(math.exp(math.fsum(lost) / 9), rel=1e-6)


def test_a_model_beside_itself(folder: Path, tmp_path: Path) -> None:
    asked = job(folder, tmp_path / "text", TEXT * 3, formats=(CANDIDATE,), context=50)
    baseline, same = rows_of(asked, loading(folder))
    assert (baseline.format, same.format) == ("f32", "dummy")
    assert (same.agreement, same.kl_mean, same.kl_p99, same.kl_max) == (1, 0, 0, 0)
    assert same.perplexity == baseline.perplexity
    assert [baseline] == rows_of(job(folder, tmp_path / "text", TEXT * 3, context=50))


def test_a_perturbed_model_is_as_far_as_its_own_logits_say(
    folder: Path, perturbed: Path, tmp_path: Path
) -> None:
    asked = job(folder, tmp_path / "text", TEXT * 3, formats=(CANDIDATE,))
    baseline, other = rows_of(asked, loading(perturbed))
    token_ids = encoded(folder, TEXT * 3)
    p, q = (distributions(TinyRun(one), token_ids) for one in (folder, perturbed))
    kl = sorted((p * np.log(p / q)).sum(axis=1).tolist())
    assert len(kl) == other.tokens == len(token_ids) - 1
    assert other.kl_mean == pytest.approx(math.fsum(kl) / len(kl), rel=1e-9)
    assert other.kl_max == pytest.approx(kl[-1], rel=1e-9)
    assert other.kl_p99 == pytest.approx(kl[math.ceil(0.99 * len(kl)) - 1], rel=1e-9)
    assert 0 < other.kl_mean < other.kl_p99 < other.kl_max
    assert other.agreement == (p.argmax(axis=1) == q.argmax(axis=1)).mean() < 1
    next_ids = np.array(token_ids[1:])
    for row, model in ((baseline, p), (other, q)):
        mean = -np.log(model[np.arange(len(next_ids)), next_ids]).mean()
        assert row.perplexity == pytest.approx(math.exp(mean), rel=1e-9)


def distributions(run: TinyRun, token_ids: list[int]) -> np.ndarray:
    weights = np.exp(run.prompt_logits(token_ids)[:-1].astype(np.float64))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def test_random_weights_know_nothing(folder: Path, tmp_path: Path) -> None:
    """The path of a second format through the engine's own loader."""
    _, random = rows_of(job(folder, tmp_path / "text", formats=(CANDIDATE,)))
    assert random.kl_mean is not None
    assert random.kl_mean > 0.01
    assert random.agreement is not None
    assert random.agreement < 0.5


def test_memory_is_that_of_the_arrays(folder: Path, tmp_path: Path) -> None:
    [row] = rows_of(job(folder, tmp_path / "text"))
    tensors = load_file(folder / "model.safetensors")
    assert row.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())  # nothing tied
    config = json.loads((folder / "config.json").read_text())
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    values = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
    assert row.kv_bytes_a_token == 4 * values


class CountingExecutable:
    """Remembers how many rows of logits it gave at once."""

    def __init__(self, inner: Executable, rows: list[int]) -> None:
        self.kv_groups, self.weight_bytes = inner.kv_groups, inner.weight_bytes
        self._inner, self._rows = inner, rows

    def page(self, group: int, page: int) -> np.ndarray:
        return self._inner.page(group, page)

    def logits(self, batch: Batch, rows: I32) -> np.ndarray:
        self._rows.append(len(rows))
        return self._inner.logits(batch, rows)


def test_two_executables_and_few_logits_exist_at_once(folder: Path, tmp_path: Path) -> None:
    loads: list[weakref.ref[Executable]] = []
    rows: list[int] = []

    def load(own: Path, config: EngineConfig) -> LoadedEngine:
        assert sum(one() is not None for one in loads) == min(1, len(loads))  # the baseline
        loaded = loading(folder)(own, config)
        loads.append(weakref.ref(loaded.executable))
        return replace(loaded, executable=CountingExecutable(loaded.executable, rows))

    gc.disable()  # memory must not have to wait for a collection
    try:
        asked = job(folder, tmp_path / "text", TEXT * 5, formats=(CANDIDATE,) * 3)
        assert len(rows_of(asked, load)) == 4
    finally:
        gc.enable()
    assert len(loads) == 4
    assert max(rows) == HEAD_BLOCK
    assert sum(rows) == 2 * 3 * (len(encoded(folder, TEXT * 5)) - 1)


@pytest.mark.parametrize("length", [2, 3, HEAD_BLOCK, HEAD_BLOCK + 1, HEAD_BLOCK + 2, 200])
def test_blocks_are_all_positions_but_the_last(length: int) -> None:
    blocks = list(blocks_of(tuple(range(length))))
    assert [n for block in blocks for n in range(length)[block]] == list(range(length - 1))
    assert all(0 < block.stop - block.start <= HEAD_BLOCK for block in blocks)


def test_logits_that_are_not_finite_are_told(folder: Path, tmp_path: Path) -> None:
    broken = write_small_model(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    asked = job(folder, tmp_path / "text", formats=(CANDIDATE,))
    with pytest.raises(RequestFailed, match="format dummy: the logits are not finite") as caught:
        rows_of(asked, loading(broken))
    assert caught.value.hint


def test_formats_are_read_as_they_are_shown() -> None:
    for name, expected in (("w8", Format("w8")), ("w8/int8", Format("w8", "int8"))):
        assert Format.parse(name) == expected
        assert expected.name == name
    assert Format("w8", "int8").options({"num_threads": 1}) == {
        "num_threads": 1,
        "weights": "w8",
        "kv": "int8",
    }
    assert "kv" not in Format("w8").options({})
    for name in ("", "/int8", "w8/", "dummy"):
        with pytest.raises(ConfigError) as caught:
            Format.parse(name)
        assert caught.value.hint


def test_all_formats_are_each_weight_and_each_kv_format() -> None:
    assert all_formats(("f32", "dummy"), ()) == (BASELINE,)
    names = [one.name for one in all_formats(("f32", "dummy", "w8", "w4"), ("f32", "bf16", "int8"))]
    assert names == ["f32", "w8", "w4", "f32/bf16", "f32/int8"]


def test_what_cannot_be_measured_is_told(folder: Path, tmp_path: Path) -> None:
    bare = write_tiny_model(tmp_path / "bare")
    for asked, error, message in (
        (job(bare, tmp_path / "text"), ModelError, "no tokeniser"),
        (job(folder, tmp_path / "text", context=1), ConfigError, "context of 1"),
        (job(folder, tmp_path / "text", context=513), ConfigError, r"\[1, 512\]"),
        (job(folder, tmp_path / "one", "a"), ConfigError, "fewer than two tokens"),
    ):
        with pytest.raises(error, match=message) as caught:
            rows_of(asked)
        assert caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stories260K", "story-656k"])
def test_a_trained_model_on_real_text(name: str, tmp_path: Path) -> None:
    """Stories are what it was trained on; the figures are those of the engine's logprobs."""
    model, text = SHARED / "models" / name, SHARED / "text" / "tinystories_2M.txt"
    if not (model.is_dir() and text.is_file()):
        pytest.skip(f"the model {name} and its stories are not beside the repository")
    separator = "<|endoftext|>"
    stories = text.read_text(encoding="utf-8").split(separator)[-6:-1]
    asked = job(model, tmp_path / "text", separator.join(stories), separator=separator, context=500)
    [row] = rows_of(asked)
    bos, *_ = encoded(model, "")
    windows = []
    for story in stories:
        token_ids = encoded(model, story.strip())[1:]
        windows += [[bos, *token_ids[at : at + 499]] for at in range(0, len(token_ids), 499)]
    lost = engine_losses(model, windows)
    assert (row.documents, row.tokens) == (5, len(lost))
    assert row.perplexity == pytest.approx(math.exp(math.fsum(lost) / len(lost)), rel=1e-6)
    assert row.characters == sum(len(story.strip()) for story in stories)
    assert row.bits_per_character is not None
    assert 0.8 < row.bits_per_character < 1.3
