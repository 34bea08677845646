"""Long texts are encoded like short ones, and let other threads run meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

from octavo.text.tokenizer import LONG_TEXT, Tokenizer
from tests.small_model import END, write_small_model


def test_ids_are_those_of_the_parts(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_small_model(tmp_path))
    part = f"a word \u00e9 {END} "
    text = part * (LONG_TEXT // len(part) + 1)
    assert len(text) > LONG_TEXT
    for encode in (tokenizer.encode, tokenizer.encode_template):
        assert encode(text) == encode(part) * (len(text) // len(part))


def test_other_threads_run_meanwhile(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_small_model(tmp_path))
    thread = threading.Thread(target=tokenizer.encode, args=("word " * 100_000,))
    turns = 0
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.001)
        turns += 1
    assert turns > 10
