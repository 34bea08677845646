"""One answer, whatever the machinery did: every variant against the plainest one.

The plain run computes one request at a time, with no cache shared. Each variant changes one thing
or a pair of things, must give equal tokens and equal logprobs, bit for bit, and must show by the
engine's counters that it went the way that it is meant to test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM
from tests.exactness.workload import MAX_MODEL_LEN, Answer, run, workload, write_model

Options = dict[str, Any]
PLAIN: Options = {"max_num_seqs": 1, "prefix_cache": False, "max_num_batched_tokens": MAX_MODEL_LEN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> list[Answer]:
    answers: list[Answer] = []
    for job in workload():  # an engine each: nothing at all can be shared
        with LLM(folder, load_format="dummy", **PLAIN) as llm:
            answers.extend(run(llm, [job]))
    return answers


def test_the_workload_is_worth_comparing(plain: list[Answer]) -> None:
    tokens = {token for answer in plain for choice in answer[1:] for token in choice[1]}
    assert len(tokens) > 40
    fork = plain[3]
    assert len({tuple(choice[1]) for choice in fork[1:]}) == 3, "choices must differ"


# name -> options, and what must have happened
AXES: dict[str, dict[str, Options]] = {
    "batch": {
        "batch2": {"max_num_seqs": 2},
        "batch8": {"max_num_seqs": 8},
        "batch17": {"max_num_seqs": 17},
    },
    "chunk": {
        "chunk17": {"max_num_batched_tokens": 17},
        "chunk64": {"max_num_batched_tokens": 64},
        "whole": {"max_num_batched_tokens": MAX_MODEL_LEN, "chunked_prefill": False},
    },
    "prefix": {"cold": {"prefix_cache": False}, "shared": {"prefix_cache": True}},
    "pages": {"plenty": {}, "scarce": {"num_pages": 22}},
    "overlap": {"one": {}, "two": {"steps_in_flight": 2}},
    "threads": {"thread1": {"num_threads": 1}, "thread2": {"num_threads": 2}},
    "backend": {"reference": {"backend": "reference"}, "native": {"backend": "native"}},
}


def pairs() -> Iterator[tuple[str, Options]]:
    """Every pair of settings of two different axes."""
    for (_, first), (_, second) in itertools.combinations(AXES.items(), 2):
        for (name1, options1), (name2, options2) in itertools.product(
            first.items(), second.items()
        ):
            options = {"max_num_seqs": 8, **options1, **options2}
            tokens = options.get("max_num_batched_tokens", 512)
            options["max_num_seqs"] = min(options["max_num_seqs"], tokens)
            yield f"{name1}-{name2}", options


@pytest.mark.parametrize(("name", "options"), [pytest.param(*pair, id=pair[0]) for pair in pairs()])
def test_pairs(folder: Path, plain: list[Answer], name: str, options: Options) -> None:
    with LLM(folder, load_format="dummy", **options) as llm:
        assert run(llm, workload()) == plain
        check_path(name, llm)


def check_path(name: str, llm: LLM) -> None:
    """The run went the way that its name promises."""
    stats = llm.stats()
    for promise, holds in PROMISES.items():
        if promise in name.split("-"):
            assert holds(stats), f"{promise}: {stats}"


PROMISES: dict[str, Callable[[Any], bool]] = {
    "scarce": lambda stats: stats.scheduler.preemptions > 0,
    "shared": lambda stats: stats.scheduler.hit_tokens > 0,
    "cold": lambda stats: stats.scheduler.hit_tokens == 0,
    "batch8": lambda stats: stats.scheduler.max_running > 2,
    "two": lambda stats: stats.max_steps_in_flight == 2,
    "one": lambda stats: stats.max_steps_in_flight == 1,
    "chunk17": lambda stats: stats.scheduler.max_step_tokens <= 17,
}


def test_a_warm_prefix_cache(folder: Path, plain: list[Answer]) -> None:
    with LLM(folder, load_format="dummy") as llm:
        run(llm, workload())
        before = llm.stats().scheduler.hit_tokens
        assert run(llm, workload()) == plain
        assert llm.stats().scheduler.hit_tokens - before > 400


CLOSED_BATCHES: dict[str, Options] = {
    "no_kv_cache": {"kv_cache": False, "max_num_batched_tokens": 8 * MAX_MODEL_LEN},
    "static": {"continuous_batching": False, "batching": "static", "max_batch_size": 3},
    "static_by_tokens": {
        "continuous_batching": False,
        "batching": "static",
        "max_batch_tokens": 200,
    },
    "dynamic": {"continuous_batching": False, "max_batch_size": 4, "max_wait_ms": 1.0},
    "padded": {"continuous_batching": False, "max_batch_size": 4, "max_wait_ms": 0.0, "pad": True},
    "length": {"policy": "length", "max_num_seqs": 2},
    "priority": {"policy": "priority", "max_num_seqs": 2},
}


@pytest.mark.parametrize("name", CLOSED_BATCHES)
def test_other_machinery(folder: Path, plain: list[Answer], name: str) -> None:
    with LLM(folder, load_format="dummy", **CLOSED_BATCHES[name]) as llm:
        assert run(llm, workload()) == plain


def test_every_instruction_set_gives_the_same_bits(
    folder: Path, plain: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from octavo import _native

    for name in _native.instruction_sets():
        monkeypatch.setenv("OCTAVO_CPU_ISA", name)
        with LLM(folder, load_format="dummy") as llm:
            assert run(llm, workload()) == plain, name
