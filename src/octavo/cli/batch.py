"""``octavo batch``: a file of requests, worked through once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from octavo.batch.lines import MAX_LINE_BYTES, Survey
from octavo.batch.local_server import LocalServer
from octavo.batch.output import OutputFile
from octavo.batch.work import BatchWork, Tally
from octavo.cli.exit_codes import ExitCode
from octavo.cli.hints import require_positive
from octavo.cli.loading import LoadedModel, load_model
from octavo.cli.output import print_json, show_warnings
from octavo.cli.serve import named_models
from octavo.cli.settings import EngineFlags, given
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError
from octavo.models.builtin import BUILTIN
from octavo.runtime.async_client import AsyncClient
from octavo.server.settings import SamplingDefaults

WINDOW = 4
"""Requests under way for each sequence that is computed at once: the engine never waits for more,
and finds equal beginnings among them."""


def batch(
    model: str | None = None,
    input: Path | None = None,  # noqa: A002 (the name is what the help shows)
    output: Path | None = None,
    /,
    *,
    ordered: Annotated[bool, Parameter(negative="")] = False,
    limit: int | None = None,
    in_flight: int | None = None,
    any_model: Annotated[bool, Parameter(negative="")] = False,
    sampling_defaults: SamplingDefaults = "model",
    progress: bool | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    tokenizer: str | None = None,
    engine: EngineFlags | None = None,
) -> int:
    """Work through a file of requests in the format of OpenAI's batches.

    Each line of the input is answered once, also when this command is stopped or killed and
    started again: lines that the output answers already are passed over. A line that is no valid
    request is answered with an error. The exit status is 0 when every line is answered.

    MODEL may be left out: two arguments are INPUT and OUTPUT, and the built-in model answers.

    Args:
        model: a model folder, or a model on the hub as owner/name; NAME=MODEL if requests call it
            by another name than its own; by default the built-in one.
        input: JSON lines: {"custom_id", "method": "POST", "url", "body"}; url is /v1/completions
            or /v1/chat/completions.
        output: JSON lines: {"id", "custom_id", "response", "error"}; made, or continued.
        ordered: write answers in the order of the input, not as they are completed.
        limit: only the first so many requests of the input.
        in_flight: requests under way at once; by default 4 for each of --max-num-seqs.
        any_model: answer requests whatever model they name.
        sampling_defaults: what holds for fields that a request leaves out: what the model's
            makers suggest in generation_config.json, or what the OpenAI API says.
        progress: a progress bar on stderr; by default on a terminal.
        json: a summary as one JSON object on stdout.
        tokenizer: a folder to take the tokeniser from, instead of the model's own.
    """
    if model is None or input is None:
        raise ConfigError(
            "the names of two files are needed",
            hint="octavo batch INPUT OUTPUT, or octavo batch MODEL INPUT OUTPUT",
        )
    if output is None:
        model, input, output = BUILTIN, Path(model), input  # noqa: A001
    require_positive(limit=limit, in_flight=in_flight)
    config = EngineConfig.from_options(given(engine))
    [(name, source)] = named_models([model]).items()
    show_warnings()
    survey = Survey.of(input)  # before the model: mistakes are known at once
    wanted = survey.num_requests if limit is None else min(limit, survey.num_requests)
    tally = Tally()
    with closing(OutputFile(output, survey)) as file:
        standing = _Standing(wanted, survey.num_answered(file.is_answered, wanted), tally)
        if file.num_repaired_bytes:
            _note(f"{output}: cut off {file.num_repaired_bytes} bytes of a line torn at the end")

        def make_work(client: AsyncClient) -> BatchWork:
            server = LocalServer(
                name,
                client,
                sampling_defaults=sampling_defaults,
                any_model=any_model,
                max_body_bytes=MAX_LINE_BYTES,
            )
            return BatchWork(
                server,
                survey,
                file,
                tally=tally,
                limit=limit,
                in_flight=in_flight or WINDOW * config.max_num_seqs,
                ordered=ordered,
                progress=advance,
            )

        started_s = time.monotonic()
        if standing.num_left:
            loaded = load_model(source, tokenizer, engine)
            if loaded.note is not None and not json:
                _note(loaded.note)
            started_s = time.monotonic()
            show = sys.stderr.isatty() if progress is None else progress
            # Ctrl-C is told below, when the progress bar is gone.
            with suppress(KeyboardInterrupt), _progress_bar(standing, show=show) as advance:
                asyncio.run(_work(loaded, make_work))
    seconds = time.monotonic() - started_s
    if json:
        print_json(standing.fields(seconds))
    else:
        _note(standing.text(seconds))
    if standing.num_left:
        _note("stopped; the same command goes on from here")
        return ExitCode.INTERRUPTED
    return ExitCode.OK


async def _work(loaded: LoadedModel, make_work: Callable[[AsyncClient], BatchWork]) -> None:
    async with AsyncClient(loaded.engine, loaded.text) as client:
        await make_work(client).run()


@dataclass(frozen=True, slots=True)
class _Standing:
    """How far a batch is."""

    wanted: int
    """Requests of the input, up to the limit."""
    before: int
    """Of these, answered by earlier runs."""
    tally: Tally

    @property
    def num_left(self) -> int:
        return self.wanted - self.before - self.tally.answered

    def text(self, seconds: float) -> str:
        tally = self.tally
        parts = [f"{self.before + tally.answered:,} of {self.wanted:,} lines are answered"]
        if self.before:
            parts.append(f"{self.before:,} were before")
        if tally.failed:
            parts.append(f"{tally.failed:,} with an error")
        if tally.completion_tokens:
            speed = tally.completion_tokens / seconds
            parts.append(f"{tally.completion_tokens:,} tokens in {seconds:.1f} s ({speed:,.0f}/s)")
        return ", ".join(parts)

    def fields(self, seconds: float) -> dict[str, Any]:
        return {
            "lines": self.wanted,
            "answered_before": self.before,
            "succeeded": self.tally.succeeded,
            "failed": self.tally.failed,
            "left": self.num_left,
            "prompt_tokens": self.tally.prompt_tokens,
            "cached_tokens": self.tally.cached_tokens,
            "completion_tokens": self.tally.completion_tokens,
            "seconds": round(seconds, 3),
        }


@contextmanager
def _progress_bar(standing: _Standing, *, show: bool) -> Iterator[Callable[[], None]]:
    """Gives a function to call after every answer."""
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    tally = standing.tally
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("lines", total=standing.wanted, completed=standing.before, rate="")

        def advance() -> None:
            elapsed_s = bar.tasks[task].elapsed or 0.0
            rate = f"{tally.completion_tokens / elapsed_s:,.0f} tokens/s" if elapsed_s else ""
            if tally.failed:
                rate += f", {tally.failed:,} with an error"
            bar.update(task, completed=standing.before + tally.answered, rate=rate)

        yield advance


def _note(text: str) -> None:
    print(text, file=sys.stderr)
