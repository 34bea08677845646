"""EngineConfig: what is accepted, and what is said about what is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"max_seqs": 3}, r"unknown option 'max_seqs' \(did you mean 'max_num_seqs'\?\)"),
    "unknown, unlike any": ({"zzzz": 3}, r"unknown option 'zzzz'$"),
    "policy": ({"policy": "fcsf"}, r"one of .*'fcfs'.* got 'fcsf' \(did you mean 'fcfs'\?\)"),
    "batching": ({"batching": "continuous"}, r"batching must be one of 'dynamic', 'static'"),
    "no slots": ({"max_num_seqs": 0}, r"max_num_seqs must be an integer in .1, [0-9]+., got 0"),
    "no integer": (
        {"max_num_seqs": 2.5},
        r"max_num_seqs must be an integer in .1, [0-9]+., got 2.5",
    ),
    "boolean": (
        {"max_num_seqs": True},
        r"max_num_seqs must be an integer in .1, [0-9]+., got True",
    ),
    "no tokens": ({"max_num_batched_tokens": 0}, "max_num_batched_tokens must be"),
    "no batch": ({"max_batch_size": 0}, "max_batch_size must be an integer"),
    "no batch tokens": ({"max_batch_tokens": 0}, "max_batch_tokens must be an integer"),
    "no threads": ({"num_threads": 0}, "num_threads must be an integer"),
    "no context": ({"max_model_len": 0}, "max_model_len must be an integer"),
    "no pages": ({"num_pages": -1}, "num_pages must be an integer"),
    "no queue": ({"max_waiting_requests": 0}, "max_waiting_requests must be an integer"),
    "no queue tokens": ({"max_waiting_tokens": 0}, "max_waiting_tokens must be an integer"),
    "wait": ({"max_wait_ms": -1.0}, "max_wait_ms must be a number in .0, [0-9]+., got -1.0"),
    "wait for a word": (
        {"max_wait_ms": "soon"},
        "max_wait_ms must be a number in .0, [0-9]+., got 'soon'",
    ),
    "wait for nothing": (
        {"max_wait_ms": float("nan")},
        "max_wait_ms must be a number in .0, [0-9]+., got nan",
    ),
    "steps": ({"steps_in_flight": 3}, "steps_in_flight must be an integer in .1, 2., got 3"),
    "starving": (
        {"max_num_seqs": 32, "max_num_batched_tokens": 31},
        r"max_num_batched_tokens=31 is below max_num_seqs=32.*\(raise",
    ),
    "padding what is not closed": ({"pad": True}, r"pad=True .*continuous_batching=False"),
    "closing what is not closed": ({"batching": "static"}, "batching='static' is a setting of"),
    "waiting for nobody": ({"max_wait_ms": 3}, "max_wait_ms=3 is a setting of closed batches"),
    "flag as a word": ({"kv_cache": "no"}, "kv_cache must be True or False, got 'no'"),
    "flag as nothing": ({"prefix_cache": None}, "prefix_cache must be True or False, got None"),
    "no number of steps": ({"steps_in_flight": True}, "steps_in_flight must be an integer"),
    "too many slots": ({"max_num_seqs": 10**400}, "max_num_seqs must be .* got a huge integer"),
    "wait for ever": ({"max_wait_ms": float("inf")}, "max_wait_ms must be a number"),
    "not a name": ({"backend": ["reference"]}, "backend must be one of"),
    "everything again, twice": (
        {"kv_cache": False, "steps_in_flight": 2},
        "kv_cache=False needs steps_in_flight=1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_options(options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_seqs": 1, "max_num_batched_tokens": 1},
        {"kv_cache": False, "prefix_cache": False, "chunked_prefill": False},
        {"continuous_batching": False, "batching": "static", "max_batch_tokens": 100, "pad": True},
        {"continuous_batching": False, "max_wait_ms": 0},
        {"policy": "length", "steps_in_flight": 2, "num_pages": 10, "num_threads": 2},
    ],
)
def test_accepted(options: dict[str, Any]) -> None:
    config = EngineConfig.from_options(options)
    assert {name: getattr(config, name) for name in options} == options


def test_it_is_frozen_and_deriving_checks_again() -> None:
    config = EngineConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_num_seqs = 3  # type: ignore[misc]
    assert dataclasses.replace(config, max_num_seqs=3).max_num_seqs == 3
    with pytest.raises(ConfigError):
        dataclasses.replace(config, max_num_seqs=0)
