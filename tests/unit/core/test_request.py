"""SamplingParams and Request: ranges, bounds, normal forms, and the way over the wire."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.core.errors import InvalidRequest
from octavo.core.request import (
    NUM_SEEDS,
    ChoiceSoFar,
    Priority,
    Request,
    SamplingParams,
)

# field -> (values that are accepted, values that are refused)
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "max_tokens": ([1, 2**31 - 1], [0, -1, 1.5, True, None, "3", 2**31]),
    "min_tokens": ([0, 16], [-1, 17, 0.5]),
    "temperature": ([0, 0.0, 1.5, 100], [-0.1, 100.1, math.nan, math.inf, "hot", True]),
    "top_k": ([0, 50], [-1, 1.5, None]),
    "top_p": ([1, 0.01], [0, 0.0, 1.01, -1, math.nan]),
    "min_p": ([0, 0.0, 1], [-0.1, 1.1, math.nan]),
    "typical_p": ([1.0, 0.2], [0.0, 1.1]),
    "repetition_penalty": ([0.1, 1, 10], [0.0, 1e-46, 10.1, -1, math.inf]),
    "presence_penalty": ([-2, 2.0], [-2.1, 2.1]),
    "frequency_penalty": ([-2, 2.0], [-2.1, 2.1]),
    "n": ([1, 8], [0, 9, 1.0]),
    "seed": ([None, 0, NUM_SEEDS - 1], [-1, NUM_SEEDS, 0.5, True]),
    "logprobs": ([None, 0, 20], [-1, 21, True]),
    "prompt_logprobs": ([None, 0, 20], [-1, 21]),
    "logit_bias": (
        [{}, {5: -100}, {5: 100.0}, dict.fromkeys(range(300), 0.0)],
        [{5: 100.1}, {5: math.nan}, {"5": 1.0}, {True: 1.0}, dict.fromkeys(range(301), 0.0), [5]],
    ),
    "stop": (
        [(), "end", ["a", "b"], ["x" * 256], ["x"] * 16],
        [[""], ["x" * 257], ["x"] * 17, [5], 5],
    ),
    "stop_token_ids": (
        [[1, 2], list(range(64))],
        [["1"], [True], 5, list(range(65)), [-1], [2**31]],
    ),
    "bad_words": (
        [[[1]], [[1, 2], [3]], [[1] * 32], [[1]] * 64],
        [[[]], [[1] * 33], [[1]] * 65, [["no"]], [5], 5],
    ),
    "allowed_token_ids": ([None, [3]], [[], ["3"], 5, [2**70]]),
    "include_stop": ([True, False], [None, 1, "no"]),
    "ignore_eos": ([True, False], [None, 1, "no"]),
}
CASES = [(name, good, True) for name, (values, _) in RANGES.items() for good in values]
CASES += [(name, bad, False) for name, (_, values) in RANGES.items() for bad in values]


@pytest.mark.parametrize(("name", "value", "accepted"), CASES, ids=repr)
def test_ranges(name: str, value: Any, accepted: bool) -> None:
    if accepted:
        SamplingParams(**{name: value})
        return
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


def test_every_parameter_is_in_the_table() -> None:
    assert set(SamplingParams.__struct_fields__) == set(RANGES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_p": 0}, "top_p must be a number in (0.0, 1.0], got 0"),
        ({"top_k": -1}, "top_k must be an integer in [0, 2147483647], got -1"),
        ({"min_tokens": 17}, "min_tokens must be an integer in [0, max_tokens=16], got 17"),
        ({"logit_bias": {7: 101}}, "logit_bias[7] must be a number in [-100.0, 100.0], got 101"),
        ({"stop": ["x"] * 17}, "stop takes at most 16 entries, got 17"),
        ({"stop": [5]}, "stop must be a string, got 5"),
        ({"stop_token_ids": 5}, "stop_token_ids must be a list, got 5"),
        ({"allowed_token_ids": []}, "allowed_token_ids must not be empty (leave it out"),
        ({"allowed_token_ids": [5], "bad_words": [[5]]}, "bad_words bans every token of"),
        ({"bad_words": [" was"]}, "bad_words takes lists of token ids, got the text ' was'"),
        ({"stop": ["\ud800"]}, "stop has half of a surrogate pair"),
        ({"max_tokens": 10**400}, "max_tokens must be an integer in [1, 2147483647], got a huge"),
        ({"temperature": -(10**400)}, "temperature must be a number in [0.0, 100.0], got a huge"),
    ],
)
def test_messages_give_the_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**fields)
    assert str(caught.value).startswith(message)


def test_unknown_parameters_get_a_hint() -> None:
    wrong: dict[str, Any] = {"temprature": 1.0}
    with pytest.raises(InvalidRequest, match="parameter 'temprature'") as caught:
        SamplingParams(**wrong)
    assert caught.value.hint == "did you mean 'temperature'?"
    with pytest.raises(InvalidRequest, match="keyword arguments only"):
        SamplingParams(5)  # type: ignore[misc]


def test_what_travels_is_plain() -> None:
    """NumPy's scalars and subclasses of int and str are taken, and cannot be told afterwards."""

    class Text(str):
        pass

    loose: dict[str, Any] = {
        "temperature": np.float32(0.5),
        "max_tokens": np.int64(3),
        "logit_bias": {np.int32(5): np.float64(1.5), Priority.BATCH: 1},
        "stop": [Text("x")],
        "stop_token_ids": np.array([1, 2]),
        "seed": np.uint32(7),
    }
    params = SamplingParams(**loose)
    wire = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(wire, type=SamplingParams) == params
    assert type(params.stop[0]) is str
    assert [type(token) for token in params.logit_bias] == [int, int]


def test_none_is_nothing() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("stop", "logit_bias", "bad_words", "stop_token_ids"))
    assert SamplingParams(**nothing) == SamplingParams()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_id", ""),
        ("request_id", 5),
        ("request_id", "x" * 257),
        ("tenant", 5),
        ("tenant", "\ud800"),
        ("tenant", "x" * 10**6),
        ("priority", 9),
        ("priority", "high"),
        ("priority", None),
        ("deadline_s", math.nan),
        ("deadline_s", "soon"),
        ("adapter", None),
    ],
)
def test_a_request_that_nobody_could_serve_is_not_made(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"request_id": "r", "prompt_ids": (1,), "params": SamplingParams()}
    with pytest.raises(InvalidRequest) as caught:
        Request(**{**fields, field: value})
    assert caught.value.param == field


def test_normal_forms() -> None:
    loose: dict[str, Any] = {
        "stop": "end",
        "stop_token_ids": [1, 2],
        "bad_words": [[3], (4, 5)],
        "allowed_token_ids": [6],
    }
    params = SamplingParams(**loose)
    assert params.stop == ("end",)
    assert params.stop_token_ids == (1, 2)
    assert params.bad_words == ((3,), (4, 5))
    assert params.allowed_token_ids == (6,)
    assert params == SamplingParams(
        stop=("end",), stop_token_ids=(1, 2), bad_words=((3,), (4, 5)), allowed_token_ids=(6,)
    )


def test_every_token_id_that_is_named() -> None:
    params = SamplingParams(
        logit_bias={1: 0.0}, stop_token_ids=(2,), bad_words=((3, 4),), allowed_token_ids=(5,)
    )
    assert params.token_ids() == {
        "logit_bias": [1],
        "stop_token_ids": [2],
        "bad_words": [3, 4],
        "allowed_token_ids": [5],
    }
    assert not any(SamplingParams().token_ids().values())


def test_a_request_over_the_wire() -> None:
    request = Request(
        request_id="r",
        prompt_ids=(1, 2, 3),
        params=SamplingParams(seed=7, stop=("x",), logit_bias={5: 1.0}, n=2),
        tenant="t",
        priority=Priority.BATCH,
        deadline_s=3.0,
        resume=(ChoiceSoFar(1, (4, 5)),),
    )
    wire = msgspec.msgpack.encode(request)
    assert msgspec.msgpack.decode(wire, type=Request) == request
    assert request.seed == 7


def test_a_request_without_a_seed_is_a_bug_by_then() -> None:
    request = Request(request_id="r", prompt_ids=(1,), params=SamplingParams())
    with pytest.raises(AssertionError, match="seed"):
        _ = request.seed


@pytest.mark.parametrize(
    "fields", [{"top_p": 0.0}, {"nonsense": 1}, {"temperature": "hot"}, {"n": 1.5}]
)
def test_the_wire_is_checked_too(fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, msgspec.ValidationError)):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=SamplingParams)


@given(
    st.dictionaries(
        st.sampled_from(SamplingParams.__struct_fields__),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
        | st.lists(st.integers() | st.text(max_size=2), max_size=3),
        max_size=3,
    )
)  # fmt: skip
def test_whatever_comes_it_is_accepted_or_refused(fields: dict[str, Any]) -> None:
    """Never another exception, and what was accepted survives the wire."""
    try:
        params = SamplingParams(**fields)
    except InvalidRequest:
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
