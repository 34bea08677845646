"""Admission: what is refused, with which words, and that nothing changes then."""

from __future__ import annotations

import re
from typing import Any

import pytest

from octavo.core.errors import InvalidRequest, Overloaded
from octavo.core.request import ChoiceSoFar, Request, SamplingParams
from tests.scheduling_world import VOCAB, World


def refuse(world: World, *args: Any, **options: Any) -> InvalidRequest:
    """The request is refused, and leaves no trace."""
    before = world.stats()
    with pytest.raises(InvalidRequest) as caught:
        world.add(*args, **options)
    assert world.stats() == before
    assert not world.scheduler.has_work or before.waiting
    world.look()
    return caught.value


BAD_REQUESTS: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "empty": ([], {}, "prompt_ids", "the prompt is empty"),
    "id_too_large": ([1, VOCAB], {}, "prompt_ids", r"token id 50 is outside .* \[0, 50\)"),
    "id_negative": ([1, -1], {}, "prompt_ids", "token id -1 is outside"),
    "id_no_integer": ([1, 2.0], {}, "prompt_ids", "must be integers"),
    "id_boolean": ([1, True], {}, "prompt_ids", "must be integers"),
    "adapter": ([1], {"adapter": "mine"}, "adapter", "unknown adapter 'mine'"),
    "stop_id": ([1], {"stop_token_ids": [VOCAB]}, "stop_token_ids", "token id 50"),
    "bias_id": ([1], {"logit_bias": {60: 1.0}}, "logit_bias", "token id 60"),
    "allowed_id": ([1], {"allowed_token_ids": [0, 99]}, "allowed_token_ids", "token id 99"),
    "bad_word": ([1], {"bad_words": [[0, 70]]}, "bad_words", "token id 70"),
    "no_seed": ([1], {"seed": None}, "seed", "no seed"),
    "resume_choice": (
        [1],
        {"resume": (ChoiceSoFar(1, (1,)),)},
        "resume",
        r"names choices \[1\]; they must be different, in \[0, 1\)",
    ),
    "resume_twice": (
        [1],
        {"n": 2, "resume": (ChoiceSoFar(0, (1,)), ChoiceSoFar(0, (1,)))},
        "resume",
        "must be different",
    ),
    "resume_id": ([1], {"resume": (ChoiceSoFar(0, (50,)),)}, "resume", "token id 50"),
    "resume_finished": (
        [1],
        {"resume": (ChoiceSoFar(0, (1,), finished=True),)},
        "resume",
        "nothing to resume",
    ),
    "resume_too_long": (
        [1],
        {"max_tokens": 2, "resume": (ChoiceSoFar(0, (1, 2, 3)),)},
        "resume",
        "resumes with 3 tokens, more than max_tokens=2",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_ill_formed(name: str) -> None:
    prompt, options, param, message = BAD_REQUESTS[name]
    error = refuse(World(), "r", prompt, **options)
    assert error.param == param
    assert re.search(message, error.message), error.message


def test_an_id_that_is_being_served() -> None:
    world = World()
    world.add("r", 5)
    assert refuse(world, "r", 5).param == "request_id"
    world.drain()
    world.add("r", 5)  # the first one is gone


class TestTooLong:
    """What can never be computed is refused at once, with the numbers."""

    def test_no_room_for_an_answer(self) -> None:
        world = World(max_model_len=20)
        error = refuse(world, "r", 20)
        assert "20 tokens and the context is 20" in error.message
        world.add("r", 19, max_tokens=100)
        world.drain()
        assert len(world.outputs("r")[0]) == 1, "generation ends at max_model_len"

    def test_a_resumed_answer_may_fill_the_context(self) -> None:
        world = World(max_model_len=20)
        refuse(world, "r", 19, max_tokens=5, resume=(ChoiceSoFar(0, (1, 2)),))
        world.add("r", 18, max_tokens=5, resume=(ChoiceSoFar(0, (1, 2)),))

    def test_larger_than_all_pages(self) -> None:
        world = World(num_pages=4, prefix_cache=False)
        error = refuse(world, "r", 40, max_tokens=10)
        assert "49 tokens must be stored and the KV cache holds 48" in error.message
        assert error.hint is not None
        assert "num_pages" in error.hint
        world.add("r", 40, max_tokens=9, ignore_eos=True)
        world.drain()
        world.check_answers()

    def test_windows_need_no_more_than_a_window(self) -> None:
        world = World(windows=(20,), num_pages=5)
        world.add("r", 100, max_tokens=100, ignore_eos=True)
        world.drain()
        world.check_answers()

    def test_a_prompt_longer_than_a_step_without_chunks(self) -> None:
        world = World(chunked_prefill=False, max_num_batched_tokens=30)
        error = refuse(world, "r", 31)
        assert "31 tokens and a step computes at most 30" in error.message
        world.add("r", 30)

    def test_a_sequence_longer_than_a_step_without_kv_cache(self) -> None:
        world = World(kv_cache=False, max_num_batched_tokens=30)
        error = refuse(world, "r", 20, max_tokens=12)
        assert "up to 31 tokens" in error.message
        world.add("r", 20, max_tokens=11, ignore_eos=True)
        world.drain()
        world.check_answers()


class TestTooMuch:
    """The queue is bounded in requests and in tokens."""

    def test_requests(self) -> None:
        world = World(max_waiting_requests=2)
        world.add("a", 5, n=3)
        world.add("b", 5)
        with pytest.raises(Overloaded, match="2 requests with 10 tokens wait already") as caught:
            world.add("c", 5)
        assert caught.value.hint is not None
        assert "at most 2 requests" in caught.value.hint
        world.look()
        world.step()  # a runs, b runs
        world.add("c", 5)

    def test_tokens(self) -> None:
        world = World(max_waiting_tokens=12)
        world.add("a", 7)
        with pytest.raises(Overloaded):
            world.add("b", 6)
        world.add("c", 5)
        world.abort("a")
        world.add("b", 6)
        world.drain()
        world.check_answers()

    def test_the_preempted_do_not_count(self) -> None:
        world = World(max_waiting_requests=1, num_pages=5, max_num_seqs=2)
        world.add("a", 17, max_tokens=40, ignore_eos=True)
        world.step()
        world.add("b", 1, max_tokens=40, ignore_eos=True)
        while not world.stats().preemptions:
            world.step()
        assert world.stats().waiting == 1
        world.add("c", 5)
        world.drain()
        world.check_answers()


def test_invalid_comes_before_overloaded() -> None:
    """Who could never be served must not be told to come again later."""
    world = World(max_waiting_requests=1)
    world.add("a", 5)
    refuse(world, "b", [VOCAB])


def test_a_request_is_checked_by_the_scheduler_itself() -> None:
    world = World()
    request = Request(request_id="r", prompt_ids=(1,), params=SamplingParams())
    with pytest.raises(InvalidRequest, match="seed"):
        world.scheduler.add(request)
