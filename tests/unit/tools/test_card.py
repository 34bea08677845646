"""The card's parts that come from a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from card import fill_card, less_repetition, quoted, row_of


def write_rows(path: Path, *rows: dict[str, float]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_last_row_of_a_step_counts(tmp_path: Path) -> None:
    log = write_rows(
        tmp_path / "loss.jsonl",
        {"step": 20, "loss": 3.0},
        {"step": 40, "loss": 2.0},
        {"step": 40, "loss": 1.5},
    )
    assert row_of(40, log) == {"step": 40, "loss": 1.5}
    with pytest.raises(SystemExit, match="no step 60"):
        row_of(60, log)


def test_what_became_of_repetition_is_told_from_the_first_and_the_last_row(tmp_path: Path) -> None:
    rows = [{"repeated_tokens": share} for share in (0.123, 0.02, 0.0514)]
    told = less_repetition(write_rows(tmp_path / "unloop.jsonl", *rows))
    assert "12.3 % completed a run of 8 tokens" in told
    assert "5.1 % after the steps" in told


def test_parts_of_a_card_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("a\n<!-- loss -->\n\nold\n\n<!-- end of loss -->\nb\n", encoding="utf-8")
    fill_card(card, {"loss": r"new \1"})
    assert card.read_text(encoding="utf-8") == (
        "a\n<!-- loss -->\n\nnew \\1\n\n<!-- end of loss -->\nb\n"
    )
    with pytest.raises(SystemExit, match="one place for other, not 0"):
        fill_card(card, {"other": "x"})


def test_paragraphs_are_quoted() -> None:
    assert quoted("one\ntwo\n") == "one\n>\n> two"
