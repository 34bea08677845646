"""The ladder: rungs are switches, factors are right, and a rung that answers otherwise is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from octavo.bench.ladder import LADDER, ROWS, Step, climb, switches
from octavo.bench.rung import RungJob, RungResult, measure_rung, percentile
from octavo.bench.shapes import write_shape
from octavo.bench.workload import FULL, QUICK, Workload, fit
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError

SMALL = Workload(groups=2, requests=20, prefix=40, tail=(1, 12), answer=(2, 20))


def test_every_rung_is_a_change_of_switches_and_nothing_else() -> None:
    assert [rung.name for rung in LADDER] == [
        "no KV cache",
        "KV cache",
        "static batch",
        "dynamic batch",
        "continuous batch",
        "prefix cache",
    ]
    configs = [EngineConfig.from_options(switches(number)) for number in range(len(LADDER))]
    for before, after, rung in zip(configs, configs[1:], LADDER[1:], strict=False):
        changed = {
            field.name
            for field in dataclasses.fields(EngineConfig)
            if getattr(before, field.name) != getattr(after, field.name)
        }
        assert changed == set(rung.changes)
    top = configs[-1]
    assert top == dataclasses.replace(
        EngineConfig(), max_num_seqs=ROWS, max_batch_size=ROWS, batching=top.batching
    )


def scripted(
    rates: list[float], answers: list[tuple[str, ...]], others: list[float]
) -> Iterator[RungResult]:
    for rate, given, share in zip(rates, answers, others, strict=True):
        yield RungResult(
            tokens_per_s=rate,
            wall_s=100 / rate,
            new_tokens=100,
            computed_tokens=1,
            cached_tokens=0,
            ttft_median_s=0.1,
            ttft_p95_s=0.2,
            latency_median_s=0.3,
            latency_p95_s=0.4,
            peak_rss_mib=50,
            others=share,
            answers=given,
        )


def climb_scripted(
    rates: list[float],
    answers: list[tuple[str, ...]],
    repeat: int = 1,
    others: list[float] | None = None,
) -> list[Step]:
    results = scripted(rates, answers, others or [0.0] * len(rates))
    return climb(
        "folder",
        SMALL,
        measure=lambda name, job: next(results),
        options={},
        repeat=repeat,
    )


def test_factors_are_over_the_rung_before_and_over_the_first() -> None:
    steps = climb_scripted([10, 20, 40, 30, 60, 120], [("a", "b")] * 6)
    assert [step.over_before for step in steps] == [1, 2, 2, 0.75, 2, 2]
    assert [step.over_first for step in steps] == [1, 2, 4, 3, 6, 12]
    assert all(step.is_equal for step in steps)
    fields = steps[3].fields()
    assert fields["factor_over_before"] == 0.75
    assert "answers" not in fields
    assert fields["options"] == switches(3)


def test_one_different_answer_is_told() -> None:
    answers = [("a", "b")] * 6
    answers[4] = ("a", "c")
    steps = climb_scripted([10] * 6, answers)
    assert [step.is_equal for step in steps] == [True, True, True, True, False, True]


def test_the_median_run_counts_and_every_run_must_be_equal() -> None:
    rates = [10.0, *[5.0] * 5, 30.0, *[5.0] * 5, 20.0, *[5.0] * 5]  # rungs take turns
    answers = [("a",)] * 18
    answers[11] = ("b",)
    steps = climb_scripted(rates, answers, repeat=3)
    assert steps[0].result.tokens_per_s == 20
    assert steps[1].over_before == 0.25
    assert [step.is_equal for step in steps] == [True] * 5 + [False]


def test_runs_that_others_disturbed_count_only_if_there_are_no_others() -> None:
    rates = [10.0, *[5.0] * 5, 30.0, *[7.0] * 5, 20.0, *[6.0] * 5]
    others = [0.5, *[0.9] * 5, 0.01, *[0.9] * 5, 0.5, *[0.9] * 5]
    steps = climb_scripted(rates, [("a",)] * 18, repeat=3, others=others)
    assert [step.result.tokens_per_s for step in steps] == [30, 6, 6, 6, 6, 6]


def test_real_rungs_take_their_paths_and_give_equal_answers(tmp_path: Path) -> None:
    folder = str(write_shape("nothing", tmp_path))

    def measure(name: str, job: RungJob) -> RungResult:
        [result] = measure_rung(job)
        return result

    options = {"load_format": "dummy", "num_threads": 1, "num_pages": 100}
    steps = climb(folder, SMALL, measure=measure, options=options)
    assert all(step.is_equal for step in steps)
    assert len(set(steps[0].result.answers)) == SMALL.requests
    results = [step.result for step in steps]
    assert len({result.new_tokens for result in results}) == 1
    without, cached, static, dynamic, continuous, prefix = results
    assert without.computed_tokens > 3 * cached.computed_tokens
    assert cached.computed_tokens == static.computed_tokens
    assert dynamic.computed_tokens == continuous.computed_tokens
    assert [result.cached_tokens > 0 for result in results] == [False] * 5 + [True]
    assert prefix.computed_tokens < continuous.computed_tokens
    for result in results:
        assert 0 < result.ttft_median_s <= result.ttft_p95_s <= result.wall_s
        assert result.ttft_median_s <= result.latency_median_s <= result.latency_p95_s


def test_a_workload_is_the_same_for_the_same_numbers() -> None:
    requests = QUICK.requests_for(500)
    assert requests == QUICK.requests_for(500)
    assert requests != msgspec.structs.replace(QUICK, seed=2).requests_for(500)
    beginnings = {tuple(prompt[: QUICK.prefix]) for prompt, _ in requests}
    assert len(beginnings) == QUICK.groups
    assert len({tuple(prompt) for prompt, _ in requests}) == QUICK.requests
    for prompt, params in requests:
        assert all(0 <= token < 500 for token in prompt)
        assert QUICK.answer[0] <= params.max_tokens <= QUICK.answer[1]
        assert QUICK.prefix + QUICK.tail[0] <= len(prompt) <= QUICK.prefix + QUICK.tail[1]
    assert {params.temperature for _, params in requests} == {0.0, 0.8}


@pytest.mark.parametrize("workload", [QUICK, FULL])
def test_a_workload_is_made_to_fit_the_context(workload: Workload) -> None:
    assert fit(workload, workload.longest) == workload
    for length in (64, 100, 300):
        small = fit(workload, length)
        assert small.longest <= length
        for prompt, params in small.requests_for(50):
            assert len(prompt) + params.max_tokens <= length
    with pytest.raises(ConfigError, match="context of 64"):
        fit(workload, 63)


def test_percentiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert (percentile(values, 50), percentile(values, 95), percentile([7.0], 50)) == (3, 5, 7)
    assert percentile([float(n) for n in range(1, 101)], 95) == 95
