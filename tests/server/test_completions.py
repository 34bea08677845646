"""Completions: the engine's answer, whole and streamed, in the words of the OpenAI API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from tests.server.serving import COMPLETIONS, Serving, joined
from tests.small_model import VOCAB

pytestmark = pytest.mark.anyio

BODIES: list[dict[str, Any]] = [
    {"prompt": "Once upon a time", "max_tokens": 12, "seed": 1},
    {"prompt": "Once", "temperature": 0, "max_tokens": 9, "logprobs": 3},
    {"prompt": "Once", "n": 3, "seed": 7, "logprobs": 0},
    {"prompt": [79, 110, 99, 101], "seed": 2, "top_p": 0.8, "top_k": 20, "logprobs": 1},
    {"prompt": ["Once", "Twice", "Thrice"], "n": 2, "seed": 3, "logprobs": 2},
    {"prompt": [[1, 2, 3], [4, 5]], "seed": 4, "echo": True, "logprobs": 2},
    {"prompt": ["Caf\u00e9 \U0001f600", "b"], "seed": 5, "echo": True},
    {"prompt": "Once", "seed": 5, "stop": ["a", "e", "\ufffd"], "max_tokens": 40, "logprobs": 1},
    {"prompt": "Once", "seed": 6, "ignore_eos": True, "min_tokens": 5, "min_p": 0.01},
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_a_stream_adds_up_to_the_whole_answer(served: Serving, body: dict[str, Any]) -> None:
    body = {**body, "return_token_ids": True}
    whole = await served.ask(COMPLETIONS, **body)
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = await served.stream(COMPLETIONS, **body, **options)
    assert last["choices"] == []
    assert without_cached(last["usage"]) == without_cached(whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    assert {chunk["object"] for chunk in [*chunks, whole]} == {"text_completion"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(one["text"] for one in mine) == choice["text"]
        assert joined(one["token_ids"] for one in mine) == choice["token_ids"]
        assert [one["finish_reason"] for one in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        if "logprobs" in body:
            for name, values in choice["logprobs"].items():
                assert joined(one["logprobs"][name] for one in mine) == values
        else:
            assert choice["logprobs"] is None
            assert all(one["logprobs"] is None for one in mine)


def without_cached(usage: dict[str, Any]) -> dict[str, Any]:
    """The second of two equal requests finds what the first one left."""
    return {name: count for name, count in usage.items() if name != "prompt_tokens_details"}


async def test_the_answer_is_that_of_llm(served: Serving, folder: Path) -> None:
    params = SamplingParams(max_tokens=10, seed=3, n=2, logprobs=2, top_p=0.9)
    with LLM(folder) as llm:
        expected = llm.generate("Once", params)[0]
    fields = {"max_tokens": 10, "seed": 3, "n": 2, "logprobs": 2, "top_p": 0.9}
    answer = await served.ask(COMPLETIONS, prompt="Once", return_token_ids=True, **fields)
    for choice, known in zip(answer["choices"], expected.choices, strict=True):
        assert choice["text"] == known.text
        assert choice["token_ids"] == list(known.token_ids)
        assert known.logprobs is not None
        logprobs = [one.logprob for one in known.logprobs]
        assert choice["logprobs"]["token_logprobs"] == logprobs
        assert choice["finish_reason"] == known.finish_reason
    assert answer["usage"]["completion_tokens"] == expected.usage.completion_tokens
    assert answer["usage"]["total_tokens"] == 4 + expected.usage.completion_tokens


async def test_choices_are_those_of_prompts_in_order(served: Serving) -> None:
    prompts = ["Once", "Twice"]
    fields = {"seed": 9, "n": 2, "max_tokens": 6}
    together = await served.ask(COMPLETIONS, prompt=prompts, **fields)
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2, 3]
    for index, prompt in enumerate(prompts):
        alone = await served.ask(COMPLETIONS, prompt=prompt, **fields)
        texts = [choice["text"] for choice in alone["choices"]]
        mine = together["choices"][2 * index : 2 * index + 2]
        assert [choice["text"] for choice in mine] == texts


async def test_sixteen_tokens_by_default(served: Serving) -> None:
    answer = await served.ask(COMPLETIONS, prompt="Once", ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_echo_puts_the_prompt_and_its_logprobs_in_front(served: Serving) -> None:
    fields = {"prompt": "Once", "temperature": 0, "max_tokens": 3, "logprobs": 1}
    plain = (await served.ask(COMPLETIONS, **fields))["choices"][0]
    echoed = (await served.ask(COMPLETIONS, **fields, echo=True))["choices"][0]
    assert echoed["text"] == "Once" + plain["text"]
    logprobs = echoed["logprobs"]
    assert logprobs["tokens"][:4] == list("Once")
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    assert logprobs["token_logprobs"][4:] == plain["logprobs"]["token_logprobs"]
    assert logprobs["text_offset"][:5] == [0, 1, 2, 3, 4]
    assert len(set(map(len, logprobs.values()))) == 1


async def test_the_most_likely_token_is_among_the_top(served: Serving) -> None:
    fields = {"prompt": "Once", "temperature": 0, "max_tokens": 4}
    logprobs = (await served.ask(COMPLETIONS, **fields, logprobs=2))["choices"][0]["logprobs"]
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == logprob == max(top.values())


async def test_a_stop_string_ends_the_answer(served: Serving) -> None:
    fields = {"prompt": "Once", "seed": 8, "max_tokens": 50, "ignore_eos": True}
    text = (await served.ask(COMPLETIONS, **fields))["choices"][0]["text"]
    stop = text[20:22]
    answer = (await served.ask(COMPLETIONS, **fields, stop=stop))["choices"][0]
    assert answer["text"] == text[: text.index(stop)]
    assert answer["finish_reason"] == "stop"
    kept = (await served.ask(COMPLETIONS, **fields, stop=[stop], include_stop=True))["choices"][0]
    assert kept["text"] == answer["text"] + stop


async def test_bias_and_bans_reach_the_sampler(served: Serving) -> None:
    one = {"prompt": "Once", "max_tokens": 4, "return_token_ids": True}
    for fields in (
        {"logit_bias": {"65": 100.0}, "temperature": 0},
        {"allowed_token_ids": [65]},
        {"bad_words": [[i] for i in range(64)], "allowed_token_ids": [5, 65]},
    ):
        answer = await served.ask(COMPLETIONS, **one, **fields)
        assert answer["choices"][0]["token_ids"] == [65] * 4
    answer = await served.ask(COMPLETIONS, **one, logit_bias={"65": 100}, stop_token_ids=[65])
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_seeds_of_either_sign(served: Serving) -> None:
    for seed in (0, -1, -(2**63), 2**63 - 1):
        answers = [await served.ask(COMPLETIONS, prompt="Once", seed=seed) for _ in range(2)]
        assert answers[0]["choices"] == answers[1]["choices"]


async def test_cached_tokens_are_told(served: Serving) -> None:
    prompt = [VOCAB - 7] * 100
    told = []
    for _ in range(2):
        usage = (await served.ask(COMPLETIONS, prompt=prompt, max_tokens=2))["usage"]
        told.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert usage["prompt_tokens"] == 100
    assert told == [0, 96]


async def test_a_stream_without_usage_has_no_field_for_it(served: Serving) -> None:
    chunks = await served.stream(COMPLETIONS, prompt="Once")
    assert all("usage" not in chunk for chunk in chunks)
    assert all(chunk["choices"] for chunk in chunks)


async def test_nothing_is_left_behind(served: Serving) -> None:
    await served.stream(COMPLETIONS, prompt="Once", n=2, stop=["e"])
    assert served.client.num_live == 0
    assert await served.held_pages() == 0
