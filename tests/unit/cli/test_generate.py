"""``octavo generate`` gives what ``LLM`` gives, as text or as JSON."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.models.generation import GenerationConfig
from tests.command_line import CommandLine

FLAGS = ("--max-tokens", 5, "--seed", 7)
PARAMS = SamplingParams(max_tokens=5, seed=7)


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return LLM(model)


def line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def test_one_prompt(octavo: CommandLine, model: Path, llm: LLM) -> None:
    expected = line(llm.generate("Once", PARAMS)[0].text)
    assert octavo("generate", model, "Once", *FLAGS).out == expected
    assert octavo("generate", model, "Once", *FLAGS, "--stream").out == expected


def test_several_answers_have_a_line_before_each(
    octavo: CommandLine, model: Path, llm: LLM
) -> None:
    path = octavo.folder / "prompt.txt"
    path.write_text("Twice\n")
    ended = octavo("generate", model, "Once", "--file", path, "--n", 2, *FLAGS)
    params = SamplingParams(max_tokens=5, seed=7, n=2)
    expected = "".join(
        f"==> prompt {number}, answer {choice.index} <==\n{line(choice.text)}"
        for number, output in enumerate(llm.generate(["Once", "Twice\n"], params))
        for choice in output.choices
    )
    assert ended.out == expected


def test_a_prompt_that_is_refused_has_the_number_that_its_answer_would_have(
    octavo: CommandLine, model: Path
) -> None:
    ended = octavo("generate", model, "Once", "a" * 2000, *FLAGS)
    assert ended.status == 2
    assert "prompt 1: " in ended.err


def test_a_prompt_from_the_standard_input(
    octavo: CommandLine, model: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once\n")))
    expected = line(llm.generate("Once", PARAMS)[0].text)
    assert octavo("generate", model, "-", *FLAGS).out == expected


def test_chat(octavo: CommandLine, model: Path, llm: LLM) -> None:
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]
    words = ("generate", model, "Hi", "--chat", "--system", "Short.", *FLAGS)
    expected = line(llm.chat(messages, PARAMS)[0].text)
    assert octavo(*words).out == expected
    assert octavo(*words, "--stream").out == expected


def test_json_tells_everything(octavo: CommandLine, model: Path, llm: LLM) -> None:
    words = ("--json", "--logprobs", 2, "--prompt-logprobs", 0)
    told = json.loads(octavo("generate", model, "Once", *words, *FLAGS).out)
    params = SamplingParams(max_tokens=5, seed=7, logprobs=2, prompt_logprobs=0)
    output = llm.generate("Once", params)[0]
    [choice], [answer] = told["choices"], output.choices
    assert (choice["text"], choice["finish_reason"]) == (answer.text, "length")
    assert choice["token_ids"] == list(answer.token_ids)
    assert answer.logprobs is not None
    assert [one["logprob"] for one in choice["logprobs"]] == [
        one.logprob for one in answer.logprobs
    ]
    assert [[top["token_id"] for top in one["top"]] for one in choice["logprobs"]] == [
        list(one.top_ids) for one in answer.logprobs
    ]
    assert [one and one["token"] for one in told["prompt_logprobs"]] == [None, "n", "c", "e"]
    assert told["usage"]["completion_tokens"] == 5
    assert told["error"] is None


def test_logprobs_as_lines(octavo: CommandLine, model: Path, llm: LLM) -> None:
    out = octavo("generate", model, "Once", "--logprobs", 1, *FLAGS).out
    answer = llm.generate("Once", SamplingParams(max_tokens=5, seed=7, logprobs=1))[0].choices[0]
    assert answer.logprobs is not None
    lines = out.splitlines()[-5:]
    assert [float(one.split()[0]) for one in lines] == pytest.approx(
        [one.logprob for one in answer.logprobs], abs=1e-4
    )


@pytest.mark.parametrize(
    ("suggested", "given", "temperature"),
    [
        ({}, {}, 1.0),
        ({"temperature": 0.6}, {}, 0.6),
        ({"temperature": 0.6}, {"temperature": 0.2}, 0.2),
    ],
)
def test_the_models_suggestions_stand_below_the_users_wishes(
    suggested: dict[str, float], given: dict[str, float], temperature: float
) -> None:
    generation = GenerationConfig((), None, suggested)
    params = generation.params(**given, max_tokens=3)
    assert (params.temperature, params.max_tokens) == (temperature, 3)


def test_a_model_that_is_not_to_be_sampled_is_greedy() -> None:
    generation = GenerationConfig((), False, {"temperature": 0.6})
    assert generation.params(max_tokens=3).temperature == 0.0
    assert generation.params(temperature=0.5, max_tokens=3).temperature == 0.5
