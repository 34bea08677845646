"""``octavo bench``: tables and JSON of the same figures, under the same names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from octavo.bench.engine import EngineJob, Sample
from octavo.bench.kernels import KernelRow, Roofs
from octavo.bench.overhead import OverheadResult
from octavo.bench.parts import PARTS, StepParts
from octavo.cli import bench, bench_kernels
from octavo.cli.bench_tables import ABOVE_ROOF, NOISE
from tests.command_line import CommandLine

STEP = StepParts(
    steps=7, plan=1, batch=2, run=100, result=4, apply=5, rest=6, kernels={"attention": 60}
)


def names_of_table(out: str, first: str) -> list[str]:
    """The words of the line that names the columns."""
    [line] = [line for line in out.splitlines() if line.split()[:1] == [first]]
    return line.split()


def test_overhead_has_the_same_names_in_both_forms(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [OverheadResult(1, STEP), OverheadResult(32, STEP)]
    monkeypatch.setattr(bench, "run_in_worker", lambda *_: results)
    told = json.loads(octavo("bench", "overhead", "--json").out)
    assert list(told) == ["1", "32"]
    assert list(told["1"]) == ["steps", *PARTS, "kernels"]
    assert (told["1"]["outside"], told["1"]["total"]) == (18, 118)
    shown = octavo("bench", "overhead")
    assert names_of_table(shown.out, "rows") == ["rows", "steps", *PARTS]
    assert "outside: everything but the model" in shown.out


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_profile_is_the_setting_of_the_engine(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    jobs: list[EngineJob] = []

    def run(job: EngineJob, _: object) -> Iterator[Sample]:
        jobs.append(job)
        yield Sample("octavo", "nothing", "w8/bf16", "batch8", 9.0, 0.0, 1.0, STEP)

    monkeypatch.setattr(bench, "run_in_worker", run)
    words = ("bench", "engine", "--shape", "nothing", "--metrics", "batch8")
    variables: dict[str, Any] = {"OCTAVO_PROFILE": "on"} if way == "variable" else {}
    words = (*words, "--profile") if way == "flag" else words
    shown = octavo(*words, **variables)
    assert ["attention", "60"] in [line.split() for line in shown.out.splitlines()]
    told = json.loads(octavo(*words, "--json", **variables).out)
    assert list(told["profile"]) == ["steps", *PARTS, "kernels"]
    assert [(job.profile, job.options["profile"]) for job in jobs] == [(True, True)] * 2
    octavo("bench", "engine", "--shape", "nothing", "--metrics", "batch8")
    assert not jobs[-1].profile


def test_a_share_above_its_roof_is_marked_and_explained(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*shares: tuple[float, float]) -> list[KernelRow]:
        roofs = KernelRow(format="roofs", roofs=Roofs(read=1, int8=1, bf16=1, f32=1), num_threads=1)
        kernels = (
            KernelRow(
                part="products",
                format="w8",
                matrix=f"m{number}",
                roof="read",
                share=share,
                others=others,
                num_threads=1,
            )
            for number, (share, others) in enumerate(shares)
        )
        return [roofs, *kernels]

    words = ("bench", "kernels", "--shape", "nothing", "--parts", "products")
    found = rows((1.03, 0.0), (1.03, 0.5), (1.004, 0.0), (0.4, 0.0))
    monkeypatch.setattr(bench_kernels, "run_in_worker", lambda *_: found)
    out = octavo(*words).out
    shares = [line.split()[-1] for line in out.splitlines() if line.startswith("w8 m")]
    assert shares == ["103%+", "103%+*", "100%", "40%"]
    assert ABOVE_ROOF in out
    assert NOISE in out
    monkeypatch.setattr(bench_kernels, "run_in_worker", lambda *_: rows((1.0, 0.0)))
    assert ABOVE_ROOF not in octavo(*words).out
