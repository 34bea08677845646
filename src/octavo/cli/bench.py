"""``octavo bench``: ladder, engine and overhead, as tables or JSON; quality, kernels beside it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from octavo.bench.engine import (
    EngineJob,
    Sample,
    check_metrics,
    length_for,
    missing_metrics,
    probes_memory,
)
from octavo.bench.ladder import climb
from octavo.bench.machine import QUIET_SHARE, wait_until_quiet
from octavo.bench.overhead import OverheadJob, OverheadResult
from octavo.bench.rung import RungJob, RungResult
from octavo.bench.shapes import SHAPES, write_shape
from octavo.bench.worker import run_in_worker
from octavo.bench.workload import FULL, QUICK
from octavo.cli.bench_kernels import kernels
from octavo.cli.bench_quality import quality
from octavo.cli.bench_tables import (
    NOISE,
    PARTS_NOTE,
    engine_table,
    ladder_notes,
    ladder_table,
    parts_table,
    roof_lines,
    run_table,
)
from octavo.cli.exit_codes import ExitCode
from octavo.cli.hints import require_positive
from octavo.cli.output import console, formats_text, print_error, print_json
from octavo.cli.settings import EngineFlags, given
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve
from octavo.models.spec import ModelSpec

bench = App(name="bench")
bench.command(quality)
bench.command(kernels)


@bench.command
def ladder(
    model: str = BUILTIN,
    /,
    *,
    quick: Annotated[bool, Parameter(negative="")] = False,
    repeat: int | None = None,
    quiet_wait_s: float = 0.0,
    num_threads: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure what each optimisation is worth: the same work, one switch after the other.

    No KV cache, KV cache, static batch, dynamic batch, continuous batch, prefix cache. Every rung
    must give the same answers, tokens and logprobs, to the bit; exit status 1 if one does not.

    Args:
        model: a model folder, owner/name on the hub, or builtin.
        quick: less work, and each rung once: under a minute for a small model.
        repeat: runs of each rung, by default 3, with --quick 1; the median is printed, of those
            that other processes did not disturb.
        quiet_wait_s: wait so long for other processes to be quiet, before each run.
        num_threads: of the engine; by default one for each core.
        json: one JSON object on stdout.
    """
    require_positive(repeat=repeat)
    runs = repeat or (1 if quick else 3)
    workload = QUICK if quick else FULL

    def measure(name: str, job: RungJob) -> RungResult:
        if quiet_wait_s:
            wait_until_quiet(quiet_wait_s)
        [result] = run_in_worker(job, RungResult)
        _note(f"{name}: {result.tokens_per_s:.0f} tokens/s")
        return result

    with _subject(model, None) as subject:
        options = {"load_format": subject.load_format, "num_threads": num_threads}
        config = EngineConfig.from_options(options)
        steps = climb(str(subject.folder), workload, measure=measure, options=options, repeat=runs)
    equal = all(step.is_equal for step in steps)
    if json:
        print_json(
            {
                "model": subject.name,
                "weights": config.weight_format,
                "kv": config.kv_format,
                "workload": msgspec.to_builtins(workload),
                "repeat": runs,
                "equal": equal,
                "rungs": [step.fields() for step in steps],
            }
        )
    else:
        out = console()
        formats = formats_text(config.weight_format, config.kv_format)
        out.print(ladder_table(subject.name, formats, steps))
        for note in ladder_notes(steps):
            out.print(note, soft_wrap=True)
    if not equal:
        different = ", ".join(step.rung.name for step in steps if not step.is_equal)
        print_error(
            f"answers differ from those of the first rung: {different}",
            "this is a bug of octavo's; please report it with the output of octavo info",
        )
        return ExitCode.FAILURE
    return ExitCode.OK


@bench.command
def engine(
    *,
    shape: str | None = None,
    model: str | None = None,
    metrics: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    repeat: int = 3,
    quiet_wait_s: float = 0.0,
    json: Annotated[bool, Parameter(negative="")] = False,
    engine: EngineFlags | None = None,
) -> int:
    """Measure the engine's speed on random prompts, without the prefix cache.

    Either on random weights in the shape of a real model, or on a model. The metrics are decode
    (tokens/s of one sequence), decode4096 (after so long a prompt), prefill512 and prefill2048
    (prompt tokens/s), batch8, batch16 and batch32 (new tokens/s of so many sequences), rss_mb and
    startup_s.

    With --profile, the engine measures its kernels; where the time of a step goes, in the last
    sample of each metric, is printed too, and how near decoding comes to the memory's bandwidth.
    rss_mb is left out then where decoding is measured, as probing takes 256 MiB.

    Args:
        shape: the name of a shape: qwen2.5-0.5b, tinyllama-1.1b, smollm2-135m, stories15m, tiny,
            nothing (which shows what all but the model costs).
        model: a model folder, or owner/name on the hub; by default, without a shape, the built-in
            one.
        metrics: which; by default all but decode4096.
        repeat: samples of each metric; the table shows the median of those that other processes
            did not disturb.
        quiet_wait_s: wait so long for other processes to be quiet, before each sample.
        json: a JSON object a sample on stdout, one a line.
    """
    if shape is not None and model is not None:
        raise ConfigError(
            "name either a shape or a model",
            hint=f"--shape takes {', '.join(SHAPES)}; --model takes a folder",
        )
    if shape is None and model is None:
        model = BUILTIN
    wanted = check_metrics(tuple(metrics or ()))
    require_positive(repeat=repeat)
    samples: list[Sample] = []
    with _subject(model, shape) as subject:
        options = _engine_options(subject, length_for(wanted), given(engine))
        profile = EngineConfig.from_options(options).profile
        for name in missing_metrics(wanted, options["max_model_len"]):
            _note(f"{name} is left out: the context is {options['max_model_len']} tokens")
        if "rss_mb" in wanted and probes_memory(wanted, profile=profile):
            _note("rss_mb is left out: what --profile takes to probe the memory would count")
        job = EngineJob(
            folder=str(subject.folder),
            shape=subject.name,
            options=options,
            metrics=wanted,
            repeat=repeat,
            quiet_wait_s=quiet_wait_s,
            profile=profile,
            started_s=time.monotonic(),
        )
        for sample in run_in_worker(job, Sample):
            samples.append(sample)
            if json:
                print_json(sample.row())
            else:
                _note(f"{sample.metric}: {sample.value:g}")
    if not json:
        out = console()
        out.print(engine_table(subject.name, samples))
        if any(sample.others > QUIET_SHARE for sample in samples):
            out.print(NOISE)
        if profile:
            profiles = {one.metric: one.profile for one in samples if one.profile is not None}
            out.print(parts_table("metric", profiles))
            if any(parts.kernels for parts in profiles.values()):
                out.print(run_table(profiles))
            out.print(PARTS_NOTE, soft_wrap=True)
            for line in roof_lines(samples):
                out.print(line, soft_wrap=True)
    return ExitCode.OK


@bench.command
def overhead(
    *,
    rows: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None,
    repeat: int = 5,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure the Python around the model: microseconds a step outside the forward pass.

    Args:
        rows: sequences decoded together, one figure each; by default 1 and 32.
        repeat: runs of each; the median run is printed.
        json: one JSON object on stdout.
    """
    counts = tuple(rows or (1, 32))
    require_positive(rows=min(counts), repeat=repeat)
    with _subject(None, "nothing") as subject:
        job = OverheadJob(folder=str(subject.folder), rows=counts, repeat=repeat)
        results = list(run_in_worker(job, OverheadResult))
    if json:
        print_json({str(one.rows): one.parts.fields() for one in results})
    else:
        out = console()
        out.print(parts_table("rows", {str(one.rows): one.parts for one in results}))
        out.print(PARTS_NOTE, soft_wrap=True)
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is measured."""

    name: str
    folder: Path
    load_format: str


@contextmanager
def _subject(model: str | None, shape: str | None) -> Iterator[_Subject]:
    """A model as it is, or a shape with random weights."""
    if model is not None:
        folder = resolve(model)
        yield _Subject(folder.name if Path(model).exists() else model, folder, "checkpoint")
        return
    assert shape is not None
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name:
        yield _Subject(shape, write_shape(shape, Path(name)), "dummy")


def _engine_options(subject: _Subject, length: int, flags: dict[str, Any]) -> dict[str, Any]:
    longest = ModelSpec.read(subject.folder).default_len
    options = {
        "max_model_len": min(longest, length),
        "load_format": subject.load_format,
        **flags,
    }
    EngineConfig.from_options(options)
    return options


def _note(text: str) -> None:
    """Progress, for whoever looks."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
