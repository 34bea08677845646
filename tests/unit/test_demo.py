"""The demo's own decisions: when the ladder is left out, and what becomes of different answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams, demo
from octavo.cli.terminal import Screen
from tests.small_model import write_small_model


def test_the_ladder_is_left_out_where_it_would_take_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ladder_s", lambda llm: 3600.0)
    monkeypatch.setattr(demo, "show_ladder", None)
    monkeypatch.setattr(demo, "show_batch", lambda llm, screen: True)
    monkeypatch.setattr("sys.argv", ["demo"])
    assert demo.main() == 0
    out = capsys.readouterr().out
    assert "The ladder would take about 3600 s with this model: octavo bench ladder --quick" in out


def test_different_answers_are_told_and_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ladder_s", lambda llm: 3600.0)
    monkeypatch.setattr(demo, "_same", lambda one, other: False)
    monkeypatch.setattr(demo, "show_story", lambda llm, screen: None)
    monkeypatch.setattr("sys.argv", ["demo"])
    assert demo.main() == 1
    assert "answers: DIFFERENT" in capsys.readouterr().out


def test_the_ladder_is_a_bounded_amount_of_work() -> None:
    requests = demo.WORKLOAD.requests_for(100)
    computed = sum(
        params.max_tokens * (len(prompt) + params.max_tokens / 2) for prompt, params in requests
    )
    assert 0.8 * demo.LADDER_TOKENS < computed < 1.2 * demo.LADDER_TOKENS


def test_the_time_of_the_ladder_is_that_of_whole_prompts() -> None:
    with LLM() as llm:
        assert demo.ladder_s(llm) > 0
        stats = llm.stats().scheduler
    assert stats.hit_tokens == 0
    assert stats.computed_tokens == demo.PROBES * demo.PROBE_TOKENS


MEASURED = r"\n(\d+) tokens, [\d,]+ tokens/s, the first one after \d+ ms\n$"


def test_a_whole_story_is_told_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with LLM() as llm:
        demo.show_story(llm, Screen())
    out = capsys.readouterr().out
    story = re.sub(MEASURED, "", out.partition(f"> {demo.REQUEST}\n")[2])
    assert len(story.split()) > 100, "words, and with spaces between them"
    assert story.endswith((".", "!", '"')), "not cut off"
    assert "dog" in story
    assert "the ball was gone" in story, "what was asked for"
    measured = re.search(MEASURED, out)
    assert measured is not None
    assert int(measured[1]) < demo.MAX_STORY_TOKENS


def test_the_story_is_the_same_each_time_and_that_of_a_chat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LLM() as llm:
        demo.show_story(llm, Screen())
        first = capsys.readouterr().out
        demo.show_story(llm, Screen())
        second = capsys.readouterr().out
        suggested = llm.text.generation.sampling
        params = SamplingParams(max_tokens=500, seed=demo.STORY_SEED, **suggested)
        [answer] = llm.chat([{"role": "user", "content": demo.REQUEST}], params)
    assert re.sub(MEASURED, "", first) == re.sub(MEASURED, "", second)
    assert f"> {demo.REQUEST}\n{answer.text}\n" in first
    assert answer.choices[0].finish_reason == "stop"
    assert suggested["temperature"] > 0


def test_a_model_without_a_chat_template_goes_on_with_a_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_small_model(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    with LLM(folder) as llm:
        demo.show_story(llm, Screen())
    out = capsys.readouterr().out
    assert demo.REQUEST not in out
    assert f"\n{demo.BEGINNING}" in out
    assert re.search(MEASURED, out)
