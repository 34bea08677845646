"""The tables of ``octavo bench``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from octavo.bench.engine import Sample
from octavo.bench.kernels import KernelRow
from octavo.bench.ladder import Step
from octavo.bench.machine import QUIET_SHARE, quiet_ones
from octavo.bench.parts import PARTS, StepParts
from octavo.bench.quality import QualityRow
from octavo.cli.output import visible


def ladder_table(name: str, formats: str, steps: Sequence[Step]) -> Table:
    """A row a rung; ``formats`` says what all of them compute with."""
    first = steps[0].result
    work = f"{len(first.answers)} requests, {first.new_tokens} new tokens"
    table = _table(f"{name}: {work}\n{formats}", "\nrung")
    for column in (
        "\ntokens/s",
        "over\nbefore",
        "over\nfirst",
        "TTFT s\nmedian",
        "\np95",
        "total s\nmedian",
        "\np95",
        "peak\nMiB",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for step in steps:
        result = step.result
        noise = "*" if result.others > QUIET_SHARE else ""
        table.add_row(
            step.rung.name + ("" if step.is_equal else " (DIFFERS)"),
            f"{result.tokens_per_s:,.0f}{noise}",
            f"{step.over_before:.2f}x",
            f"{step.over_first:.1f}x",
            f"{result.ttft_median_s:.2f}",
            f"{result.ttft_p95_s:.2f}",
            f"{result.latency_median_s:.2f}",
            f"{result.latency_p95_s:.2f}",
            str(result.peak_rss_mib),
        )
    return table


def ladder_notes(steps: Sequence[Step]) -> list[str]:
    """What the rungs are, and what was found out about the answers."""
    notes = [f"  {step.rung.name}: {step.rung.meaning}" for step in steps]
    if all(step.is_equal for step in steps):
        notes.append("All rungs gave equal answers: every token and every logprob, to the bit.")
    if any(step.result.others > QUIET_SHARE for step in steps):
        notes.append(NOISE)
    return notes


NOISE = f"* other processes used more than {QUIET_SHARE:.0%} of the machine: take it as noise."


def engine_table(name: str, samples: Sequence[Sample]) -> Table:
    """A row a metric."""
    table = _table(name, "metric")
    for column in ("median", "lowest", "highest", "counted", "others used"):
        table.add_column(column, justify="right")
    by_metric: dict[str, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    for metric, taken in by_metric.items():
        values = [sample.value for sample in taken]
        counted = quiet_ones(taken)
        others = statistics.median(sample.others for sample in counted)
        median = statistics.median(sample.value for sample in counted)
        table.add_row(
            f"{metric} ({unit(metric)})",
            figure(median) + ("*" if others > QUIET_SHARE else ""),
            figure(min(values)),
            figure(max(values)),
            f"{len(counted)} of {len(taken)}",
            f"{others:.0%}",
        )
    return table


def figure(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def unit(metric: str) -> str:
    """Of a metric's figures."""
    return {"rss_mb": "MiB", "startup_s": "s"}.get(metric, "tokens/s")


def parts_table(label: str, profiles: Mapping[str, StepParts]) -> Table:
    """A row for each profile."""
    table = _table("Microseconds a step", label)
    table.add_column("steps", justify="right")
    for name in PARTS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, parts in profiles.items():
        figures = [f"{getattr(parts, part):,.0f}" for part in PARTS]
        table.add_row(name, str(parts.steps), *figures)
    return table


def run_table(profiles: Mapping[str, StepParts]) -> Table:
    """A column for each profile: microseconds a step by kind of kernel, longest first."""
    table = _table("Microseconds a step in the model", "kind")
    kinds = {kind: 0.0 for parts in profiles.values() for kind in parts.kernels}
    for name, parts in profiles.items():
        table.add_column(name, justify="right", no_wrap=True)
        for kind, spent in parts.kernels.items():
            kinds[kind] += spent / max(parts.run, 1.0)
    for kind in sorted(kinds, key=kinds.__getitem__, reverse=True):
        spent_by = (parts.kernels.get(kind, 0.0) for parts in profiles.values())
        table.add_row(kind, *(f"{spent:,.0f}" for spent in spent_by))
    return table


def roof_lines(samples: Sequence[Sample]) -> list[str]:
    """A line for each sample of decoding that was profiled."""
    return [
        f"{sample.metric}: {sample.roof.bytes_a_token / 1e6:,.1f} MB a token,"
        f" {sample.roof.share:.0%} of the {sample.roof.read_gb_per_s:.3g} GB/s read beside it"
        for sample in samples
        if sample.roof is not None
    ]


PARTS_NOTE = (
    "plan: the scheduler; batch: arrays; run: the model; result and apply: what came of it;"
    " rest: messages, text, the caller; outside: everything but the model."
)


def quality_table(name: str, rows: Sequence[QualityRow]) -> Table:
    """A row for each model and format; f32 has nothing to be compared with."""
    table = _table(escape(visible(name)), "\nmodel")
    table.padding = 0  # ten columns in eighty characters
    table.columns[0].no_wrap = False
    table.columns[0].overflow = "fold"
    table.add_column("\nformat", no_wrap=True)
    for column in (
        "ppl a\ntoken",
        "bits a\nchar",
        "top-1\nas f32",
        "KL\nmean",
        "\np99",
        "\nmax",
        "weights\nMiB",
        "KV KiB\na token",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(visible(row.model)),
            row.format,
            figure(row.perplexity),
            "" if row.bits_per_character is None else f"{row.bits_per_character:.4f}",
            "" if row.agreement is None else f"{row.agreement:.1%}",
            *("" if kl is None else _kl(kl) for kl in (row.kl_mean, row.kl_p99, row.kl_max)),
            figure(row.weight_bytes / 2**20),
            figure(row.kv_bytes_a_token / 2**10),
        )
    return table


def _kl(nats: float) -> str:
    """Two digits in six characters."""
    return f"{nats:.2g}" if nats >= 0.001 or nats == 0 else f"{nats:.0e}"


def quality_notes(rows: Sequence[QualityRow]) -> list[str]:
    """What was read; the same for all formats of a model."""
    of_models = {row.model: row for row in rows}
    notes = [
        f"{visible(row.model)}: {row.tokens:,} tokens scored, {row.characters:,} characters;"
        f" documents: {row.documents:,}, windows of at most {row.context:,} tokens:"
        f" {row.windows:,}."
        for row in of_models.values()
    ]
    counts = [row.characters for row in of_models.values()]
    if max(counts) > (1 + SAME_TEXT) * min(counts):
        notes.append(
            "The models did not score the same stretch of text: for bits per character that can be"
            " compared, set --limit-tokens 0."
        )
    return notes


SAME_TEXT = 0.02
"""Tokenisers that drop a character here and there still read the same text."""


def roofs_table(rows: Sequence[KernelRow]) -> Table:
    """A row for each number of threads."""
    table = _table(f"Roofs, {rows[0].instruction_set}", "threads")
    for column in ("read GB/s", "int8 GMAC/s", "bf16 GMAC/s", "f32 GMAC/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        assert row.roofs is not None
        roofs = row.roofs
        figures = (roofs.read, roofs.int8, roofs.bf16, roofs.f32)
        table.add_row(str(row.num_threads), *[f"{figure:,.1f}" for figure in figures])
    return table


def kernels_table(title: str, rows: Sequence[KernelRow]) -> Table:
    """A row a kernel."""
    table = _table(title, "kernel")
    for column in ("rows", "ms", "GB/s", "GMAC/s", "roof", "of it"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        noise = "*" if row.others > QUIET_SHARE else ""
        above = "+" if is_above_roof(row) else ""
        table.add_row(
            f"{row.format} {row.matrix}{_size(row)}",
            str(row.rows),
            f"{row.ms:.3f}",
            f"{row.read_gb_per_s:.1f}",
            f"{row.gmac_per_s:,.0f}" if row.gmac_per_s else "",
            row.roof,
            f"{row.share:.0%}{above}{noise}" if row.share else noise,
        )
    return table


def is_above_roof(row: KernelRow) -> bool:
    """Whether the table shows more than all of it."""
    return round(100 * row.share) > 100


ABOVE_ROOF = (
    "+ above its roof: that was probed just before, in a slower moment, or some of what the kernel"
    " read was in a cache. Take it as 100%, give or take the scatter of the probe."
)


def _size(row: KernelRow) -> str:
    return f" {row.columns} x {row.depth}" if row.depth else ""


def _table(title: str, first_column: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    table.add_column(first_column, no_wrap=True)
    return table
