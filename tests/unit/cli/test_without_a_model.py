"""Commands that are given no model take the built-in one."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.cli.loading import SYSTEM_IS_DROPPED
from octavo.cli.serve import named_models
from octavo.models.builtin import BUILTIN, builtin_folder
from tests.command_line import CommandLine

FLAGS = ("--max-tokens", 5, "--seed", 7)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What the built-in model makes of two prompts, as its makers suggest."""
    params = SamplingParams(max_tokens=5, seed=7, temperature=0.5, top_p=0.9)
    with LLM() as llm:
        return [output.text for output in llm.generate(["Once upon", "One day"], params)]


def test_a_prompt_alone(octavo: CommandLine, expected: list[str]) -> None:
    for words in (("Once upon",), (BUILTIN, "Once upon")):
        ended = octavo("generate", *words, *FLAGS)
        assert (ended.status, ended.err, ended.out) == (0, "", f"{expected[0]}\n")


def test_several_prompts_need_its_name(octavo: CommandLine, expected: list[str]) -> None:
    out = octavo("generate", BUILTIN, "Once upon", "One day", *FLAGS).out
    assert [line for line in out.splitlines() if not line.startswith("==>")] == expected
    ended = octavo("generate", "Once upon", "One day", *FLAGS)
    assert ended.status == 3
    assert "error: Once upon: no such folder" in ended.err
    assert "'builtin' for the built-in model" in ended.err
    assert "as a prompt: octavo generate builtin PROMPT PROMPT" in ended.err
    assert "as a prompt" not in octavo("generate", "./nowhere", "One day", *FLAGS).err


def test_a_prompt_from_a_file_or_from_the_standard_input(
    octavo: CommandLine, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = octavo.folder / "prompt.txt"
    path.write_text("One day")
    assert octavo("generate", "--file", path, *FLAGS).out == f"{expected[1]}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once upon\n")))
    assert octavo("generate", "-", *FLAGS).out == f"{expected[0]}\n"


@pytest.mark.parametrize("word", ["MODEL", BUILTIN, "owner/name", "./missing"])
def test_a_model_alone_is_no_prompt(octavo: CommandLine, model: Path, word: str) -> None:
    word = word.replace("MODEL", str(model))
    ended = octavo("generate", word)
    assert (ended.status, ended.out) == (2, "")
    assert f"error: no prompt is given for the model {word}\n" in ended.err
    assert f"octavo generate builtin {word}" in ended.err


def test_a_long_prompt_is_no_path(octavo: CommandLine) -> None:
    ended = octavo("generate", "very " * 5000, *FLAGS)
    assert ended.status == 2
    assert "prompt 0" in ended.err


def test_a_batch_of_two_files(octavo: CommandLine) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/completions"}
    body = {"model": BUILTIN, "prompt": "Once upon a", "max_tokens": 4, "temperature": 0}
    (octavo.folder / "in.jsonl").write_text(json.dumps({**line, "body": body}) + "\n")
    ended = octavo("batch", "in.jsonl", "out.jsonl")
    assert ended.status == 0, ended.err
    answer = json.loads((octavo.folder / "out.jsonl").read_text())["response"]["body"]
    assert answer["model"] == BUILTIN
    assert answer["choices"][0]["text"].startswith(" time")


def test_a_batch_that_lacks_a_file_changes_none(octavo: CommandLine, model: Path) -> None:
    path = octavo.folder / "in.jsonl"
    path.write_text("{}\n")
    ended = octavo("batch", model, path)
    assert ended.status != 0
    assert path.read_text() == "{}\n"
    assert octavo("batch", path).status == 2


def test_info_and_plan(octavo: CommandLine) -> None:
    facts = json.loads(octavo("info", "--json").out)["model"]
    assert facts["folder"] == str(builtin_folder())
    assert facts["has_chat_template"]
    assert facts["suggested_sampling"] == {"temperature": 0.5, "top_p": 0.9}
    assert json.loads(octavo("info", BUILTIN, "--json").out)["model"] == facts
    assert "model" not in json.loads(octavo("info", "--settings", "--json").out)
    plan = json.loads(octavo("plan", "--json").out)
    assert plan["context"] == facts["context"]
    assert octavo("plan", BUILTIN, "--users", 2).status == 0


def test_a_server_calls_it_builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_models([]) == {BUILTIN: BUILTIN}
    assert named_models([BUILTIN, "stories=builtin"]) == {BUILTIN: BUILTIN, "stories": BUILTIN}
    monkeypatch.chdir(tmp_path)
    (tmp_path / BUILTIN).mkdir()
    assert named_models([]) == {BUILTIN: BUILTIN}


def test_pull_says_that_it_is_here(octavo: CommandLine) -> None:
    ended = octavo("pull", BUILTIN)
    assert ended.status == 2
    assert "hint: the built-in model is here already" in ended.err


def test_who_gives_a_system_message_is_told_that_it_is_left_out(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = octavo("generate", "--chat", "Hello", "--system", "Be brief.", *FLAGS)
    assert (ended.status, ended.err) == (0, f"{SYSTEM_IS_DROPPED}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
    assert octavo("run", "--system", "Be brief.", *FLAGS).err == f"{SYSTEM_IS_DROPPED}\n"
