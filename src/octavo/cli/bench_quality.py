"""``octavo bench quality``: what formats cost in quality, on a real text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from octavo.bench.quality import (
    BASELINE,
    DEFAULT_FORMATS,
    LIMIT_TOKENS,
    Format,
    QualityJob,
    QualityRow,
    QualityState,
)
from octavo.bench.windows import read_text, split_documents
from octavo.bench.worker import run_in_worker
from octavo.cli.bench_tables import quality_notes, quality_table
from octavo.cli.exit_codes import ExitCode
from octavo.cli.output import console, print_json
from octavo.core.config import BackendName, EngineConfig
from octavo.core.errors import ConfigError
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve


def quality(
    *models: str,
    text: Path,
    formats: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    separator: str | None = None,
    context: int | None = None,
    limit_tokens: int = LIMIT_TOKENS,
    backend: BackendName | None = None,
    num_threads: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure what weight and KV formats cost: perplexity, agreement and KL against f32, memory.

    A row for each model and format, named weights/KV; the first is f32/f32, which the others are
    compared with. Perplexity is that of a token; bits per character also compare
    models with different tokenisers. Agreement is how often the likeliest token is that of f32,
    and KL (in nats, of f32 from the format) how far the whole distributions are apart.

    Args:
        models: model folders, or owner/name on the hub; by default the built-in one.
        text: a file in UTF-8.
        formats: besides f32/f32, as in --formats w4 w8/int8 (weights, or weights and KV); by
            default f32/bf16, bf16/bf16, w8/bf16, w8/int8 and w4/bf16.
        separator: between documents; by default the file is one. Each document is read from its
            own beginning.
        context: tokens that are read together at the most; longer documents are cut into windows.
            By default 1024, or what the model can.
        limit_tokens: tokens to score, from the beginning of the text; 0 for all.
        backend: what computes, f32 too; by default the engine's.
        num_threads: of the engine; by default one for each core.
        json: a JSON object a row on stdout, one a line.
    """
    if limit_tokens < 0:
        raise ConfigError(
            f"limit_tokens must be at least 0, got {limit_tokens}", hint="0 scores all"
        )
    options: dict[str, Any] = {} if backend is None else {"backend": backend}
    options["num_threads"] = num_threads
    wanted = _formats(formats, options)
    split_documents(read_text(text), separator)  # mistakes are told before a model is loaded
    models = models or (BUILTIN,)
    folders = [resolve(model) for model in models]
    names = [
        folder.name if Path(model).exists() else model
        for model, folder in zip(models, folders, strict=True)
    ]
    if len(set(names)) < len(names):
        names = list(models)
    rows: list[QualityRow] = []
    for name, folder in zip(names, folders, strict=True):
        job = QualityJob(
            folder=str(folder),
            model=name,
            text=str(text),
            separator=separator,
            context=context,
            limit_tokens=limit_tokens or None,
            formats=wanted,
            options=options,
        )
        found = _measure(job)
        rows += found
        for row in found if json else ():
            print_json(msgspec.to_builtins(row))
    if not json:
        out = console()
        out.print(quality_table(text.name, rows))
        for note in quality_notes(rows):
            out.print(note, soft_wrap=True, markup=False)
    return ExitCode.OK


def _measure(job: QualityJob) -> list[QualityRow]:
    """The rows of one model."""
    rows = []
    with _progress(job.model) as show:
        for state in run_in_worker(job, QualityState):
            show(state)
            if state.row is not None:
                rows.append(state.row)
    return rows


def _formats(names: Sequence[str] | None, options: dict[str, Any]) -> tuple[Format, ...]:
    """What the user named, or those formats of the usual ones that the backend has."""
    EngineConfig.from_options(BASELINE.options(options))
    if names is not None:
        formats = tuple(dict.fromkeys(map(Format.parse, names)))
        for one in formats:
            EngineConfig.from_options(one.options(options))
        return formats
    return tuple(one for one in DEFAULT_FORMATS if _fits(one, options))


def _fits(one: Format, options: dict[str, Any]) -> bool:
    """Whether a backend has a format."""
    try:
        EngineConfig.from_options(one.options(options))
    except ConfigError:
        return False
    return True


@contextmanager
def _progress(name: str) -> Iterator[Callable[[QualityState], None]]:
    """A bar on stderr, for whoever looks; gives a function to call with every state."""
    if not sys.stderr.isatty():
        yield lambda state: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(name, total=None)
        yield lambda state: progress.update(task, completed=state.done, total=state.total)
