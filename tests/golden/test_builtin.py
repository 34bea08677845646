"""The built-in model writes what transformers writes with it, and does not go round in circles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.models.builtin import builtin_folder

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "builtin.json").read_text())["cases"]
BEGINNINGS = (HERE / "beginnings.txt").read_text().splitlines()
MAX_TOKENS = 200
TIMES, LOOP_TOKENS = 3, 24


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as opened:
        yield opened


@pytest.mark.parametrize("number", range(len(CASES)))
def test_greedy_tokens_equal(llm: LLM, number: int) -> None:
    case = CASES[number]
    params = SamplingParams(max_tokens=len(case["ids"]), temperature=0.0)
    if "messages" in case:
        [output] = llm.chat(case["messages"], params)
    else:
        [output] = llm.generate(case["prompt"], params)
    assert list(output.prompt_token_ids) == case["prompt_ids"]
    assert list(output.choices[0].token_ids) == case["ids"]
    assert output.text == case["text"]


def test_there_are_three_beginnings_and_a_chat() -> None:
    assert ["messages" in case for case in CASES] == [False, False, False, True]
    assert all(len(case["ids"]) >= 40 for case in CASES)


def test_the_card_shows_these_stories() -> None:
    card = (builtin_folder() / "README.md").read_text(encoding="utf-8")
    shown = " ".join(line.lstrip("> ") for line in card.splitlines() if line.startswith(">"))
    shown = " ".join(shown.split())
    for case in CASES[:3]:
        continuation = " ".join(case["text"].split())
        space = " " if case["text"][0].isspace() else ""
        assert f"**{case['prompt']}**{space}{continuation}" in shown


def loop_in(ids: Sequence[int]) -> list[int] | None:
    """A block of tokens that stands TIMES times in a row and then covers LOOP_TOKENS or more.

    "very, very, very happy" is none: it is too short. A block repeated as often as it takes to
    reach LOOP_TOKENS is one, however short.
    """
    for length in range(1, len(ids) // TIMES + 1):
        span = max(TIMES * length, LOOP_TOKENS)
        equal = 0  # tokens in a row that equal the one a block before
        for position in range(length, len(ids)):
            equal = equal + 1 if ids[position] == ids[position - length] else 0
            if equal + length >= span:
                return list(ids[position - length + 1 : position + 1])
    return None


@pytest.mark.parametrize(
    ("ids", "is_loop"),
    [
        ([7] * 24, True),
        ([7] * 23, False),
        ([1, *[5, 6] * 12, 9], True),
        ([*range(10), *range(10), *range(10)], True),
        ([*range(10), *range(10), *range(9)], False),
        ([*range(100), *range(100)], False),
        (list(range(200)), False),
    ],
)
def test_what_a_loop_is(ids: list[int], is_loop: bool) -> None:
    assert (loop_in(ids) is not None) is is_loop


@pytest.mark.slow
def test_greedy_answers_do_not_loop(llm: LLM) -> None:
    assert len(BEGINNINGS) == 20
    outputs = llm.generate(BEGINNINGS, SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0))
    loops = {}
    for beginning, output in zip(BEGINNINGS, outputs, strict=True):
        assert output.usage.completion_tokens >= 20, beginning
        block = loop_in(output.choices[0].token_ids)
        if block is not None:
            assert llm.text.tokenizer is not None
            loops[beginning] = llm.text.tokenizer.decode(block)
    assert not loops
