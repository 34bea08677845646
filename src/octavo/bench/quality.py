"""What weight and KV formats cost in quality: each beside f32/f32, on the tokens of a real text.

The baseline has f32 weights and f32 keys and values. Formats take turns beside it, so that two
executables are in memory at once at the most, and the baseline computes the text again for each of
them: its logits would take 0.6 MB a token at a vocabulary of 150,000, and all formats at once the
memory of all of them, on machines where f32 may hardly fit. The price is that most of the time goes
into f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from octavo.backends.base import F32, HEAD_BLOCK, I32
from octavo.bench.divergence import F64, Comparison, compare, losses
from octavo.bench.window_logits import WindowReader, blocks_of
from octavo.bench.windows import Reading, plan_reading, read_text, split_documents
from octavo.core.config import EngineConfig, KvName, WeightsName
from octavo.core.errors import ConfigError, ModelError, RequestFailed
from octavo.core.kv_layout import PAGE_SIZE, pages_for
from octavo.engine.load import LoadedEngine, load_engine
from octavo.models.spec import ModelSpec
from octavo.runtime.model_text import ModelText

CONTEXT = 1024
"""Tokens of a window at the most, unless the model's own length is shorter or the user's other."""
LIMIT_TOKENS = 20_000
"""Tokens that are scored, unless the user wants more: in f32, with 135 million weights on two
cores, a minute."""


class Format(msgspec.Struct, frozen=True):
    """How weights, and keys and values, are kept, as EngineConfig names it."""

    weights: WeightsName
    kv: KvName

    @classmethod
    def parse(cls, text: str) -> Format:
        """From what a user wrote: ``w8/int8``, or ``w8`` with the pages that go with it.

        Raises:
            ConfigError: it is not of that form, or there is no such format.
        """
        weights, slash, kv = text.partition("/")
        if not weights or (slash and not kv):
            raise ConfigError(
                f"not a format: {text!r}",
                hint="name a weight format, or a weight and a KV format as in w8/int8",
            )
        try:
            config = EngineConfig.from_options({"weights": weights, "kv": kv or None})
        except ConfigError as error:
            forms = f"{', '.join(get_args(WeightsName))} / {', '.join(get_args(KvName))}"
            hint = error.hint or f"formats of weights / of keys and values: {forms}"
            raise ConfigError(f"not a format: {text!r}: {error.message}", hint=hint) from None
        return cls(config.weight_format, config.kv_format)

    @property
    def name(self) -> str:
        return f"{self.weights}/{self.kv}"

    def options(self, others: dict[str, Any]) -> dict[str, Any]:
        """Of EngineConfig."""
        return {**others, "weights": self.weights, "kv": self.kv}


BASELINE = Format("f32", "f32")
DEFAULT_FORMATS = (
    BASELINE,
    Format("f32", "bf16"),  # what the pages cost alone
    Format("bf16", "bf16"),
    Format("w8", "bf16"),
    Format("w8", "int8"),
    Format("w4", "bf16"),
)
"""Every weight format with the pages that are the default, and the default with smaller ones."""


class QualityJob(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What to measure."""

    folder: str
    model: str
    """What rows call the model."""
    text: str
    """A file."""
    separator: str | None
    """Between documents; None: the file is one."""
    context: int | None
    """Tokens of a window at the most; None: CONTEXT, or the model's own length if shorter."""
    limit_tokens: int | None
    """Tokens to score at the most."""
    formats: tuple[Format, ...]
    """Beside the baseline, which is always measured."""
    options: dict[str, Any]
    """Of EngineConfig, the same for all formats."""


class QualityRow(msgspec.Struct, frozen=True):
    """A model in one format on a text. KL is in nats, of f32 from the format, over all tokens."""

    model: str
    format: str
    context: int
    documents: int
    windows: int
    tokens: int
    """That were scored."""
    characters: int
    """That these tokens decode to."""
    perplexity: float
    """A token."""
    bits_per_character: float | None
    """None where the tokens decode to nothing."""
    agreement: float | None
    """The share of tokens at which the likeliest one is that of f32; None for f32 itself, as KL."""
    kl_mean: float | None
    kl_p99: float | None
    """The least that 99 % of the tokens do not exceed."""
    kl_max: float | None
    weight_bytes: int
    """In memory."""
    kv_bytes_a_token: int


class QualityState(msgspec.Struct, frozen=True, tag=True):
    """How far the work is, and a row when it is done."""

    done: int
    total: int
    """Tokens, counted again for each format."""
    row: QualityRow | None = None


Load = Callable[[Path, EngineConfig], LoadedEngine]


def measure_quality(job: QualityJob, load: Load = load_engine) -> Iterator[QualityState]:
    """Score the text in f32 and then in each format; a state after every window.

    Args:
        job: what to measure.
        load: makes an engine, whose executable alone is used.

    Raises:
        OctavoError: the text, the model or a format cannot be used.
    """
    reading, context = _plan(job)
    candidates = [one for one in job.formats if one != BASELINE]
    total = reading.num_scored * max(1, len(candidates))
    done = 0
    baseline = _Measured.load(job, BASELINE, context, load)
    if not candidates:
        parts: list[F64] = []
        for window in reading.windows:
            parts += _window_losses(window, baseline)
            done += len(window) - 1
            yield QualityState(done, total)
        yield QualityState(done, total, baseline.row(job, reading, np.concatenate(parts)))
    for number, candidate_format in enumerate(candidates):
        candidate = _Measured.load(job, candidate_format, context, load)
        compared: list[Comparison] = []
        for window in reading.windows:
            compared += _compare_window(window, baseline, candidate)
            done += len(window) - 1
            yield QualityState(done, total)
        together = Comparison.of(compared)
        if number == 0:
            row = baseline.row(job, reading, together.baseline_losses)
            yield QualityState(done, total, row)
        row = candidate.row(job, reading, together.losses, together)
        yield QualityState(done, total, row)
        del candidate  # before the next one is loaded


def _plan(job: QualityJob) -> tuple[Reading, int]:
    """What is read, and the length of the longest window."""
    texts = split_documents(read_text(Path(job.text)), job.separator)
    folder = Path(job.folder)
    spec = ModelSpec.read(folder)
    context = min(CONTEXT, spec.default_len) if job.context is None else job.context
    if context < 2:
        raise ConfigError(
            f"a context of {context} tokens has none to predict", hint="give at least 2"
        )
    spec.resolve_max_model_len(context)
    tokenizer = ModelText(folder).tokenizer
    if tokenizer is None:
        raise ModelError(
            f"{folder}: the model has no tokeniser", hint="a tokenizer.json belongs to its folder"
        )
    return plan_reading(texts, tokenizer, context=context, limit=job.limit_tokens), context


@dataclass(frozen=True, slots=True)
class _Measured:
    """A model that was loaded in one format."""

    format: Format
    context: int
    loaded: LoadedEngine
    reader: WindowReader

    @classmethod
    def load(cls, job: QualityJob, format_: Format, context: int, load: Load) -> _Measured:
        options = {
            **format_.options(job.options),
            "max_model_len": context,
            "max_num_seqs": 1,
            "max_num_batched_tokens": HEAD_BLOCK,
            "num_pages": 1 + pages_for(context),
            "prefix_cache": False,
        }
        loaded = load(Path(job.folder), EngineConfig.from_options(options))
        return cls(format_, context, loaded, WindowReader(loaded.executable, context))

    def logits(self, window: tuple[int, ...], block: slice) -> F32:
        """Finite logits. Raises RequestFailed where they are not."""
        logits = self.reader.logits(window, block)
        if not np.isfinite(logits).all():
            raise RequestFailed(
                f"format {self.format.name}: the logits are not finite",
                hint="weights or activations are beyond what the format can hold",
            )
        return logits

    def row(
        self,
        job: QualityJob,
        reading: Reading,
        lost: F64,
        comparison: Comparison | None = None,
    ) -> QualityRow:
        executable, characters = self.loaded.executable, reading.num_characters
        page_bytes = sum(executable.page(g, 0).nbytes for g in range(len(executable.kv_groups)))
        bits = float(lost.sum()) / math.log(2)
        kl = None if comparison is None else comparison.divergences
        return QualityRow(
            model=job.model,
            format=self.format.name,
            context=self.context,
            documents=reading.num_documents,
            windows=len(reading.windows),
            tokens=reading.num_scored,
            characters=characters,
            perplexity=math.exp(lost.mean()),
            bits_per_character=bits / characters if characters else None,
            agreement=None if comparison is None else float(comparison.agreements.mean()),
            kl_mean=None if kl is None else float(kl.mean()),
            kl_p99=None if kl is None else float(np.percentile(kl, 99, method="inverted_cdf")),
            kl_max=None if kl is None else float(kl.max()),
            weight_bytes=executable.weight_bytes,
            kv_bytes_a_token=-(-page_bytes // PAGE_SIZE),
        )


def _window_losses(window: tuple[int, ...], baseline: _Measured) -> Iterator[F64]:
    for block in blocks_of(window):
        yield losses(baseline.logits(window, block), _next(window, block))


def _compare_window(
    window: tuple[int, ...], baseline: _Measured, candidate: _Measured
) -> Iterator[Comparison]:
    for block in blocks_of(window):
        yield compare(
            baseline.logits(window, block), candidate.logits(window, block), _next(window, block)
        )


def _next(window: tuple[int, ...], block: slice) -> I32:
    """The tokens that follow these positions."""
    return np.array(window[block.start + 1 : block.stop + 1], np.int32)
