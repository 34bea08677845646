"""The demo's own decisions: when the ladder is left out, and what becomes of different answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo import LLM, demo
from octavo.cli.terminal import Screen


def test_the_random_model_writes_printable_characters(tmp_path: Path) -> None:
    demo.write_random_model(tmp_path)
    with LLM(tmp_path, load_format="dummy") as llm:
        assert llm.text.tokenizer is not None
        ids = range(llm.spec.vocab_size)
        text = "".join(llm.text.tokenizer.decode([token_id]) for token_id in ids)
        assert sorted(text) == sorted(demo.PRINTABLE)
        assert (
            llm.text.tokenizer.decode(llm.text.tokenizer.encode(demo.BEGINNING)) == demo.BEGINNING
        )


def test_the_ladder_is_left_out_where_it_would_take_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ladder_s", lambda llm: 3600.0)
    monkeypatch.setattr(demo, "show_ladder", None)
    monkeypatch.setattr("sys.argv", ["demo"])
    assert demo.main() == 0
    out = capsys.readouterr().out
    assert "The ladder would take about 3600 s with this model: octavo bench ladder --quick" in out


def test_different_answers_are_told_and_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ladder_s", lambda llm: 3600.0)
    monkeypatch.setattr(demo, "_same", lambda one, other: False)
    monkeypatch.setattr("sys.argv", ["demo"])
    assert demo.main() == 1
    assert "answers: DIFFERENT" in capsys.readouterr().out


def test_the_ladder_is_a_bounded_amount_of_work() -> None:
    requests = demo.WORKLOAD.requests_for(100)
    computed = sum(
        params.max_tokens * (len(prompt) + params.max_tokens / 2) for prompt, params in requests
    )
    assert 0.8 * demo.LADDER_TOKENS < computed < 1.2 * demo.LADDER_TOKENS


def test_a_story_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.write_random_model(tmp_path)
    with LLM(tmp_path, load_format="dummy") as llm:
        demo.show_story(llm, Screen())
    assert "120 tokens, " in capsys.readouterr().out
