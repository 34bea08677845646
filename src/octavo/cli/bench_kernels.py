"""``octavo bench kernels``: what the kernels take, against what the machine can do."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter

from octavo.bench.kernels import FORMATS, PARTS, ROWS, KernelRow, KernelsJob
from octavo.bench.machine import QUIET_SHARE
from octavo.bench.shapes import SHAPES
from octavo.bench.worker import run_in_worker
from octavo.cli.bench_tables import (
    ABOVE_ROOF,
    NOISE,
    is_above_roof,
    kernels_table,
    roofs_table,
)
from octavo.cli.exit_codes import ExitCode
from octavo.cli.hints import require_positive
from octavo.cli.output import console, print_json
from octavo.core.errors import ConfigError, did_you_mean
from octavo.weights.formats import find_format


def kernels(
    *,
    shape: str = "qwen2.5-0.5b",
    parts: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    formats: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    rows: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None,
    repeat: int = 5,
    num_threads: int | None = None,
    cpu_isa: str = "",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure products of packed weights, attention and the sampler against the machine's roofs.

    The roofs come first, with one thread and with all: memory read, and additions of products. Then
    each matrix of a layer, and the head; both roofs are probed again beside each run, and the share
    is of those. Attention and the sampler run on one thread: a unit of attention is some rows of a
    head against 256 tokens, from memory (decode) or in the cache (prefill); the sampler has one row
    of the shape's vocabulary, in the cache.

    Args:
        shape: whose matrices; the names are those of bench engine.
        parts: products, attention, sampler; by default all.
        formats: of weights: f32, bf16, w8, w4; by default all but f32.
        rows: multiplied together; by default 1, 8, 12, 16, 32 and 512.
        repeat: runs of each product; the median is printed.
        num_threads: by default one for each core.
        cpu_isa: the instruction set; by default what OCTAVO_CPU_ISA says, or the best.
        json: a JSON object a figure on stdout, one a line.
    """
    if shape not in SHAPES:
        hint = did_you_mean(shape, SHAPES) or f"shapes are {', '.join(SHAPES)}"
        raise ConfigError(f"unknown shape {shape!r}", hint=hint)
    names = tuple(find_format(name).name for name in formats or FORMATS)
    wanted = tuple(parts or PARTS)
    for name in wanted:
        if name not in PARTS:
            hint = did_you_mean(name, PARTS) or f"parts are {', '.join(PARTS)}"
            raise ConfigError(f"unknown part {name!r}", hint=hint)
    counts = tuple(rows or ROWS)
    require_positive(rows=min(counts), repeat=repeat, num_threads=num_threads)
    job = KernelsJob(
        shape=shape,
        parts=wanted,
        formats=names,
        rows=counts,
        repeat=repeat,
        num_threads=num_threads,
        instruction_set=cpu_isa,
    )
    roofs: list[KernelRow] = []
    measured: list[KernelRow] = []
    for row in run_in_worker(job, KernelRow):
        (roofs if row.roofs is not None else measured).append(row)
        if json:
            fields = msgspec.to_builtins(row)
            print_json({name: value for name, value in fields.items() if value is not None})
        elif sys.stderr.isatty():
            print(f"{row.format} {row.matrix} {row.rows}", file=sys.stderr)
    if not json:
        out = console()
        out.print(roofs_table(roofs))
        for part in wanted:
            found = [row for row in measured if row.part == part]
            threads = found[0].num_threads
            title = f"{shape}, {part}, {threads} thread{'s' if threads > 1 else ''}"
            out.print(kernels_table(title, found))
        if any(map(is_above_roof, measured)):
            out.print(ABOVE_ROOF, soft_wrap=True)
        if any(row.others > QUIET_SHARE for row in measured):
            out.print(NOISE)
    return ExitCode.OK
