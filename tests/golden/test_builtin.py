"""The built-in model writes what transformers writes with it, and does not go round in circles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo._native import instruction_sets
from octavo.models.builtin import builtin_folder
from repetition import loop_in
from tests.golden.builtin_formats import CASES, FORMATS, TARGET, answers, family_of

HERE = Path(__file__).parent
BEGINNINGS = (HERE / "beginnings.txt").read_text().splitlines()
MAX_TOKENS = 200


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(weights="f32") as opened:
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


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_writes_what_it_wrote(
    name: str, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTAVO_CPU_ISA", instruction_set)
    family = family_of(FORMATS[name], instruction_set)
    known = {(each["format"], each["family"]): each["ids"] for each in kept()}
    assert answers(FORMATS[name]) == known[name, family]


def kept() -> list[dict[str, Any]]:
    """The answers in each format, found by ``make_builtin_formats``."""
    rows: list[dict[str, Any]] = json.loads(TARGET.read_text())
    return rows


def test_in_f32_that_is_what_transformers_writes_and_in_w4_it_is_not() -> None:
    expected = [case["ids"] for case in CASES[:3]]
    ids = {each["format"]: each["ids"] for each in kept()}
    assert ids.keys() == FORMATS.keys()
    assert ids["f32"] == expected
    assert ids["w4"] != expected, "the formats would not be told apart"


def test_the_card_shows_these_stories() -> None:
    card = (builtin_folder() / "README.md").read_text(encoding="utf-8")
    shown = " ".join(line.lstrip("> ") for line in card.splitlines() if line.startswith(">"))
    shown = " ".join(shown.split())
    for case in CASES[:3]:
        continuation = " ".join(case["text"].split())
        space = " " if case["text"][0].isspace() else ""
        assert f"**{case['prompt']}**{space}{continuation}" in shown


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
@pytest.mark.parametrize("name", ["default", "f32", "w8"])
def test_greedy_answers_do_not_loop(name: str) -> None:
    assert len(BEGINNINGS) == 20
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0)
    with LLM(**FORMATS[name]) as llm:
        outputs = llm.generate(BEGINNINGS, params)
        assert llm.text.tokenizer is not None
        loops = {}
        for beginning, output in zip(BEGINNINGS, outputs, strict=True):
            assert output.usage.completion_tokens >= 20, beginning
            block = loop_in(output.choices[0].token_ids)
            if block is not None:
                loops[beginning] = llm.text.tokenizer.decode(block)
    assert not loops
