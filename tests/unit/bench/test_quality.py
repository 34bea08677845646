"""Quality against what the engine itself says, and against computations of its own."""

from __future__ import annotations

import gc
import itertools
import json
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo import LLM, SamplingParams
from octavo.backends.base import HEAD_BLOCK, I32, Batch, Executable
from octavo.backends.native import NativeBackend
from octavo.bench.quality import (
    BASELINE,
    DEFAULT_FORMATS,
    Format,
    QualityJob,
    QualityRow,
    measure_quality,
)
from octavo.bench.window_logits import blocks_of
from octavo.bench.windows import encode_document
from octavo.core.config import EngineConfig, KvName, WeightsName
from octavo.core.errors import ConfigError, ModelError, RequestFailed
from octavo.engine.load import LoadedEngine, load_engine
from octavo.text.tokenizer import Tokenizer
from tests.forward import TinyRun
from tests.small_model import END, write_small_model
from tests.tiny import write_tiny_model

TEXT = "The dog ran. 犬がいる, and so does the cat! "
CANDIDATE = Format("w8", "f32")
"""What ``loading`` loads for it, a test says."""
SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("quality"))


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
    """Loads this model, in f32, where the candidate is asked for."""

    def load(own: Path, config: EngineConfig) -> LoadedEngine:
        if config.weights == CANDIDATE.weights:
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
    with LLM(folder, num_threads=1, weights="f32") as llm:
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
    assert (baseline.format, same.format) == ("f32/f32", "w8/f32")
    assert (same.agreement, same.kl_mean, same.kl_p99, same.kl_max) == (1, 0, 0, 0)
    assert same.perplexity == baseline.perplexity
    assert [baseline] == rows_of(job(folder, tmp_path / "text", TEXT * 3, context=50))


@pytest.mark.parametrize("one", DEFAULT_FORMATS[1:], ids=lambda one: one.name)
def test_a_format_is_as_far_as_its_own_logits_say(
    folder: Path, one: Format, tmp_path: Path
) -> None:
    baseline, other = rows_of(job(folder, tmp_path / "text", TEXT * 3, formats=(one,)))
    assert (baseline.format, other.format) == ("f32/f32", one.name)
    token_ids = encoded(folder, TEXT * 3)
    backend = NativeBackend(1, weights=one.weights, kv=one.kv)
    runs = TinyRun(folder), TinyRun(folder, backend=backend)
    p, q = (distributions(run, token_ids) for run in runs)
    kl = sorted((p * np.log(p / q)).sum(axis=1).tolist())
    assert len(kl) == other.tokens == len(token_ids) - 1
    assert other.kl_mean == pytest.approx(math.fsum(kl) / len(kl), rel=1e-9)
    assert other.kl_max == pytest.approx(kl[-1], rel=1e-9)
    assert other.kl_p99 == pytest.approx(kl[math.ceil(0.99 * len(kl)) - 1], rel=1e-9)
    assert 0 < other.kl_mean < other.kl_p99 < other.kl_max
    assert other.agreement == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    next_ids = np.array(token_ids[1:])
    for row, model in ((baseline, p), (other, q)):
        mean = -np.log(model[np.arange(len(next_ids)), next_ids]).mean()
        assert row.perplexity == pytest.approx(math.exp(mean), rel=1e-9)


def distributions(run: TinyRun, token_ids: list[int]) -> np.ndarray:
    weights = np.exp(run.prompt_logits(token_ids)[:-1].astype(np.float64))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def test_fewer_bits_are_farther_and_take_less_memory(tmp_path: Path) -> None:
    """No width of this model is padded."""
    folder = write_small_model(tmp_path / "model", hidden_size=128, intermediate_size=256)
    rows = rows_of(job(folder, tmp_path / "text", TEXT * 3, formats=DEFAULT_FORMATS))
    assert [row.format for row in rows] == [one.name for one in DEFAULT_FORMATS]
    of = {row.format: row for row in rows}
    order = [of[name] for name in ("f32/f32", "bf16/bf16", "w8/bf16", "w4/bf16")]
    for wide, narrow in itertools.pairwise(order):
        assert wide.weight_bytes > narrow.weight_bytes
        assert (wide.kl_mean or 0.0) < narrow.kl_mean
    assert of["w8/int8"].weight_bytes == of["w8/bf16"].weight_bytes
    config = json.loads((folder / "config.json").read_text())
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    vectors = 2 * config["num_hidden_layers"] * config["num_key_value_heads"]
    for row in rows:
        kv = row.format.partition("/")[2]
        bytes_of_vector = {"f32": 4 * head_dim, "bf16": 2 * head_dim, "int8": head_dim + 4}
        assert row.kv_bytes_a_token == vectors * bytes_of_vector[kv]


def test_memory_is_that_of_the_arrays(folder: Path, tmp_path: Path) -> None:
    """The reference backend keeps weights as they are; panels are padded."""
    options = {"backend": "reference"}
    [plain] = rows_of(job(folder, tmp_path / "text", options=options))
    tensors = load_file(folder / "model.safetensors")
    assert plain.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())  # nothing tied
    [row] = rows_of(job(folder, tmp_path / "text"))
    assert plain.weight_bytes < row.weight_bytes < 1.2 * plain.weight_bytes
    assert (plain.perplexity, plain.format) == (row.perplexity, row.format)


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
    text = tmp_path / "text"
    for asked, load, name in (
        (job(folder, text, formats=(CANDIDATE,)), loading(broken), "w8/f32"),
        (job(broken, text), load_engine, "f32/f32"),
    ):
        with pytest.raises(RequestFailed, match=f"format {name}: the logits are not") as caught:
            rows_of(asked, load)
        assert caught.value.hint


def test_weights_that_a_format_cannot_hold_are_told(folder: Path, tmp_path: Path) -> None:
    broken = write_small_model(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = np.inf
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="up_proj"):
        rows_of(job(broken, tmp_path / "text", formats=(Format("w8", "bf16"),)))


def test_formats_are_read_as_they_are_shown() -> None:
    for name, expected in (
        ("w8", Format("w8", "bf16")),
        ("w8/int8", Format("w8", "int8")),
        ("f32", BASELINE),
        ("f32/bf16", Format("f32", "bf16")),
    ):
        assert Format.parse(name) == Format.parse(expected.name) == expected
    assert Format("w8", "int8").options({"num_threads": 1}) == {
        "num_threads": 1,
        "weights": "w8",
        "kv": "int8",
    }
    for name in ("", "/int8", "w8/", "w9", "w8/int9", "w8/int8/"):
        with pytest.raises(ConfigError) as caught:
            Format.parse(name)
        assert caught.value.hint or "must be one of" in caught.value.message


def test_the_default_formats_have_each_weight_and_each_kv_format() -> None:
    assert DEFAULT_FORMATS[0] == BASELINE
    assert {one.weights for one in DEFAULT_FORMATS} == set(get_args(WeightsName))
    assert {one.kv for one in DEFAULT_FORMATS} == set(get_args(KvName))
    config = EngineConfig()
    assert Format(config.weight_format, config.kv_format) in DEFAULT_FORMATS


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
