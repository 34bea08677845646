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
from octavo._native import instruction_sets
from tests.exactness.workload import MAX_MODEL_LEN, Answer, run, workload, write_model

Options = dict[str, Any]
PLAIN: Options = {"max_num_seqs": 1, "prefix_cache": False, "max_num_batched_tokens": MAX_MODEL_LEN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> list[Answer]:
    return plain_answers(folder, {})


def plain_answers(folder: Path, options: Options) -> list[Answer]:
    answers: list[Answer] = []
    for job in workload():  # an engine each: nothing at all can be shared
        with LLM(folder, load_format="dummy", **PLAIN, **options) as llm:
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


def test_every_instruction_set_gives_the_same_bits_in_f32(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain_answers(folder, {"weights": "f32"})
    for name in instruction_sets():
        monkeypatch.setenv("OCTAVO_CPU_ISA", name)
        with LLM(folder, load_format="dummy", weights="f32") as llm:
            assert run(llm, workload()) == expected, name


FORMATS: dict[str, Options] = {
    "reference": {"backend": "reference"},
    "f32": {"weights": "f32"},
    "f32_bf16": {"weights": "f32", "kv": "bf16"},
    "f32_int8": {"weights": "f32", "kv": "int8"},
    "bf16": {"weights": "bf16"},
    "bf16_int8": {"weights": "bf16", "kv": "int8"},
    "w8_f32": {"weights": "w8", "kv": "f32"},
    "w8_int8": {"weights": "w8", "kv": "int8"},
    "w4": {"weights": "w4"},
    "w4_int8": {"weights": "w4", "kv": "int8"},
}
"""w8 with bf16 pages, the default, is what the rest of this file runs."""
VARIANTS: dict[str, Options] = {
    "batch17-chunk64-two-thread2": {
        "max_num_seqs": 17,
        "max_num_batched_tokens": 64,
        "steps_in_flight": 2,
        "num_threads": 2,
    },
    "batch8-chunk17-scarce-cold": {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 17,
        "num_pages": 22,
        "prefix_cache": False,
    },
    "batch8-shared-thread1": {"max_num_seqs": 8, "num_threads": 1},
    "no_kv_cache": CLOSED_BATCHES["no_kv_cache"],
    "padded": CLOSED_BATCHES["padded"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format(folder: Path, name: str) -> None:
    expected = plain_answers(folder, FORMATS[name])
    for variant, options in VARIANTS.items():
        with LLM(folder, load_format="dummy", **options, **FORMATS[name]) as llm:
            assert run(llm, workload()) == expected, variant
            check_path(variant, llm)


def test_the_native_backend_in_f32_gives_the_bits_of_the_reference(folder: Path) -> None:
    options: Options = {"load_format": "dummy", "weights": "f32"}
    with LLM(folder, backend="native", **options) as llm:
        native = run(llm, workload())
    with LLM(folder, backend="reference", **options) as llm:
        assert run(llm, workload()) == native


@pytest.mark.parametrize(
    ("weights", "kv"),
    [("w8", "int8"), ("w4", "int8"), ("w8", "f32"), ("w4", "f32"), ("f32", "int8")],
)
def test_formats_without_bf16_have_one_answer_on_every_instruction_set(
    folder: Path, weights: str, kv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {}
    for name in instruction_sets():
        monkeypatch.setenv("OCTAVO_CPU_ISA", name)
        with LLM(folder, load_format="dummy", weights=weights, kv=kv) as llm:
            answers[name] = run(llm, workload())
    assert all(answer == answers["scalar"] for answer in answers.values())
