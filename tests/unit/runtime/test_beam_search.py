"""Beam searches on an engine: whatever the machinery does, the same sequences to the bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, BeamOutput, SamplingParams
from octavo.core.errors import InvalidRequest, Overloaded, RequestFailed
from octavo.core.events import Failed, FinishReason, Token
from octavo.core.request import Priority, Request
from octavo.core.step import SlotEntry, TokenLogprobs
from octavo.execution.slots import SlotTable
from octavo.runtime.beam_search import BeamRun
from octavo.runtime.beams import BeamParams
from octavo.runtime.model_text import EncodedPrompt
from octavo.runtime.routes import Routes
from tests.exactness.workload import write_model
from tests.small_model import END, VOCAB, write_small_model

PROMPTS = [list(range(4, 60)), [7], list(range(4, 44))]  # the first and the last begin alike
SEARCH: dict[str, Any] = {
    "width": 4,
    "max_tokens": 40,
    "num_return": 4,
    "end_token_ids": (30, 50, 77, 91, 120, 133, 160, 188),
    "early_stopping": "never",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that see everything and two with a window."""
    return write_model(tmp_path_factory.mktemp("beams"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[BeamOutput]:
    """Each search on an engine of its own, without any cache."""
    outputs = []
    for prompt in PROMPTS:
        with LLM(folder, load_format="dummy", prefix_cache=False) as llm:
            outputs.extend(llm.beam_search(prompt, **SEARCH))
    return outputs


def test_the_searches_are_worth_comparing(alone: Sequence[BeamOutput]) -> None:
    found = [sequence for output in alone for sequence in output.sequences]
    assert {sequence.finish_reason for sequence in found} == set(FinishReason) - {"abort"}
    assert len({sequence.token_ids for sequence in found}) == 12


MACHINERY: dict[str, dict[str, Any]] = {
    "together": {},
    "no_prefix_cache": {"prefix_cache": False},
    "one_at_a_time": {"max_num_seqs": 1},
    "three_at_a_time": {"max_num_seqs": 3},
    "small_chunks": {"max_num_batched_tokens": 17, "max_num_seqs": 8},
    "whole_prompts": {"chunked_prefill": False},
    "two_steps_in_flight": {"steps_in_flight": 2},
    "scarce_pages": {"num_pages": 14},
    "no_kv_cache": {"kv_cache": False, "max_num_batched_tokens": 2000},
    "dynamic_batches": {"continuous_batching": False, "max_wait_ms": 0.0},
    "one_thread": {"num_threads": 1},
}


@pytest.mark.parametrize("name", MACHINERY)
def test_the_machinery_changes_nothing(folder: Path, alone: list[BeamOutput], name: str) -> None:
    with LLM(folder, load_format="dummy", **MACHINERY[name]) as llm:
        assert llm.beam_search(PROMPTS, **SEARCH) == alone
        stats = llm.stats().scheduler
    assert (stats.running, stats.waiting) == (0, 0)
    assert all(pool.held == 0 for pool in stats.pages), "everything was given back"
    if name == "scarce_pages":
        assert stats.evictions > 50
    if name == "together":
        assert stats.max_running == 12
        assert stats.hit_tokens > 500


def test_beside_other_requests(folder: Path, alone: list[BeamOutput]) -> None:
    params = SamplingParams(max_tokens=50, seed=3, ignore_eos=True, logprobs=2)
    with LLM(folder, load_format="dummy") as llm:
        expected = llm.generate([9, 8, 7], params)[0].choices[0]
        stream = llm.stream([9, 8, 7], params)
        deltas = [next(stream)]
        assert llm.beam_search(PROMPTS, **SEARCH) == alone
        deltas.extend(stream)
    assert tuple(token for delta in deltas for token in delta.token_ids) == expected.token_ids
    assert tuple(one for delta in deltas for one in delta.logprobs or ()) == expected.logprobs


def test_little_is_computed_twice(folder: Path) -> None:
    """Of a beam that leaves the most likely path, at most the last partial page."""
    prompt = list(range(4, 68))
    with LLM(folder, load_format="dummy") as llm:
        [output] = llm.beam_search(prompt, width=4, max_tokens=64, num_return=4, end_token_ids=())
        stats = llm.stats().scheduler
    assert all(len(sequence.token_ids) == 64 for sequence in output.sequences)
    least = len(prompt) + 4 * 63
    assert stats.computed_tokens < least + 16 * stats.requests
    assert stats.requests < 4 * 64, "most beams go on with the request that they have"


def test_a_beam_that_stays_on_its_way_computes_nothing_twice(folder: Path) -> None:
    """One request takes over from another where a page is full."""
    with LLM(folder, load_format="dummy") as llm:
        llm.beam_search(PROMPTS[0], width=1, max_tokens=60, end_token_ids=())
        stats = llm.stats().scheduler
    assert stats.computed_tokens == len(PROMPTS[0]) + 59
    assert stats.requests > 1


def test_no_request_runs_far_ahead_of_its_search(folder: Path) -> None:
    """There is room for one at a time, so that each beam waits for the others."""
    with LLM(folder, load_format="dummy", max_num_seqs=1) as llm:
        llm.beam_search([7], width=3, max_tokens=100, end_token_ids=())
        stats = llm.stats().scheduler
    assert stats.computed_tokens < stats.requests * 32
    assert stats.requests > 20


def test_when_one_beam_fails_the_others_of_its_search_are_aborted() -> None:
    submitted: list[Request] = []
    aborted: list[str] = []
    names = map(str, itertools.count())
    routes = Routes(submitted.append, lambda request_id, choice: aborted.append(request_id))
    run = BeamRun(
        BeamParams(width=2, max_tokens=4),
        routes=routes,
        new_request_id=lambda: next(names),
        max_model_len=100,
        priority=Priority.BATCH,
        tenant="somebody",
    )
    run.start(EncodedPrompt(None, (5, 6)))
    routes.dispatch([Token("0", 0, 0, 7, TokenLogprobs(-0.5, (7, 8), (-0.5, -1.0)))])
    assert [request.prompt_ids for request in submitted] == [(5, 6), (5, 6, 8)]
    assert {(request.tenant, request.priority) for request in submitted} == {
        ("somebody", Priority.BATCH)
    }
    assert aborted == []
    routes.dispatch([Failed("1", "request_failed", "out of luck")])
    assert aborted == ["0"]
    assert run.finished
    assert isinstance(run.refusal, RequestFailed)


def test_one_beam_goes_the_greedy_way(folder: Path) -> None:
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True, logprobs=0)
    with LLM(folder, load_format="dummy") as llm:
        [output] = llm.beam_search(PROMPTS[0], width=1, max_tokens=40, end_token_ids=())
        greedy = llm.generate(PROMPTS[0], params)[0].choices[0]
    [sequence] = output.sequences
    assert sequence.token_ids == greedy.token_ids
    assert sequence.finish_reason is FinishReason.LENGTH
    total = 0.0
    for scored in greedy.logprobs or ():
        total += scored.logprob
    assert sequence.cumulative_logprob == total
    assert sequence.score == total / 40


def test_the_context_is_the_longest_that_a_sequence_can_be(folder: Path) -> None:
    with LLM(folder, load_format="dummy", max_model_len=70) as llm:
        [output] = llm.beam_search(
            list(range(4, 60)), width=3, max_tokens=500, end_token_ids=(), num_return=3
        )
    assert [len(sequence.token_ids) for sequence in output.sequences] == [14, 14, 14]


def test_text_and_the_models_own_end_token(tmp_path: Path) -> None:
    with LLM(write_small_model(tmp_path)) as llm:
        [output] = llm.beam_search("Once", width=16, max_tokens=6, num_return=16)
        [of_ids] = llm.beam_search(output.prompt_token_ids, width=16, max_tokens=6, num_return=16)
        tokenizer = llm.text.tokenizer
        assert tokenizer is not None
        for sequence in output.sequences:
            assert END not in sequence.text
            assert sequence.text == tokenizer.decode(sequence.token_ids)
            assert VOCAB - 1 not in sequence.token_ids[:-1]
            is_end = sequence.token_ids[-1] == VOCAB - 1
            assert (sequence.finish_reason is FinishReason.STOP) == is_end
    assert (output.prompt, of_ids.prompt) == ("Once", None)
    assert of_ids.sequences == output.sequences


def test_a_prompt_that_is_refused_leaves_nothing_behind(folder: Path) -> None:
    with LLM(folder, load_format="dummy") as llm:
        with pytest.raises(InvalidRequest, match="prompt 1: prompt_ids: token id 5000 is outside"):
            llm.beam_search([[5], [5000], [6]], width=2, max_tokens=4)
        with pytest.raises(InvalidRequest, match="prompt 0: the prompt is empty"):
            llm.beam_search([[]], width=2, max_tokens=4)
        with pytest.raises(InvalidRequest, match="no room for an answer"):
            llm.beam_search([[5] * 640], width=2, max_tokens=4)
        with pytest.raises(InvalidRequest, match="token id 199 is outside of the vocabulary"):
            llm.beam_search([5], width=2, max_tokens=4, end_token_ids=[199])
        with pytest.raises(InvalidRequest, match="width must be"):
            llm.beam_search([5], width=0, max_tokens=4)
        stats = llm.stats().scheduler
    assert (stats.running, stats.waiting, stats.computed_tokens) == (0, 0, 0)


def test_a_search_that_fails_fails_alone(
    folder: Path, alone: list[BeamOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is met by whoever goes on from the second prompt and has more than six tokens."""
    enter = SlotTable.enter

    def buggy_enter(table: SlotTable, entry: SlotEntry) -> None:
        assert entry.token_ids[0] != 7 or len(entry.token_ids) < 7, "out of luck"
        enter(table, entry)

    monkeypatch.setattr(SlotTable, "enter", buggy_enter)
    with LLM(folder, load_format="dummy") as llm:
        first, second, third = llm.beam_search(PROMPTS, **SEARCH)
        stats = llm.stats().scheduler
    assert isinstance(second.error, RequestFailed)
    assert "out of luck" in str(second.error)
    assert second.sequences == ()
    assert [first, third] == [alone[0], alone[2]]
    assert (stats.running, stats.waiting) == (0, 0)


def test_a_full_queue_ends_the_search_with_a_reason(folder: Path) -> None:
    with LLM(folder, load_format="dummy", max_waiting_requests=1) as llm:
        [output] = llm.beam_search([5, 6, 7], width=4, max_tokens=8)
        stats = llm.stats().scheduler
    assert isinstance(output.error, Overloaded)
    assert (stats.running, stats.waiting) == (0, 0)
