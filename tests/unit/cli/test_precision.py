"""The line that says what was given up of a checkpoint's precision, and where it is not printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo.cli.loading import SYSTEM_IS_DROPPED
from octavo.cli.precision import precision_note
from octavo.core.config import EngineConfig
from octavo.models.builtin import builtin_folder
from tests.command_line import CommandLine
from tests.small_model import write_small_model

NOTE = "weights w8 (from f32); --weights f32 keeps the checkpoint's precision"


def write_f16_model(folder: Path) -> Path:
    write_small_model(folder)
    tensors = load_file(folder / "model.safetensors")
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    halves["model.norm.weight"] = tensors["model.norm.weight"]  # a few bytes of another type
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def words_of(note: str | None) -> list[str]:
    """The format, the checkpoint's, and the one that keeps its precision."""
    if note is None:
        return []
    text = note.removesuffix(" keeps the checkpoint's precision")
    for mark in ("weights ", " (from ", "; --"):
        text = text.replace(mark, " ")
    return text.replace(")", "").split()


def test_every_format_against_every_type_of_checkpoint(model: Path, tmp_path: Path) -> None:
    folders = {
        "f32": model,
        "f16": write_f16_model(tmp_path / "f16"),
        "bf16": builtin_folder(),
    }
    told = {
        (stored, weights): words_of(precision_note(folder, EngineConfig(weights=weights)))
        for stored, folder in folders.items()
        for weights in ("f32", "bf16", "w8", "w4")
    }
    assert told == {
        ("f32", "f32"): [],
        ("f32", "bf16"): ["bf16", "f32", "f32"],
        ("f32", "w8"): ["w8", "f32", "f32"],
        ("f32", "w4"): ["w4", "f32", "f32"],
        ("f16", "f32"): [],
        ("f16", "bf16"): ["bf16", "f16", "f32"],  # three bits of each number
        ("f16", "w8"): ["w8", "f16", "f32"],
        ("f16", "w4"): ["w4", "f16", "f32"],
        ("bf16", "f32"): [],
        ("bf16", "bf16"): [],
        ("bf16", "w8"): ["w8", "bf16", "bf16"],
        ("bf16", "w4"): ["w4", "bf16", "bf16"],
    }
    assert precision_note(model, EngineConfig()) == NOTE
    assert precision_note(model, EngineConfig(backend="reference")) is None
    assert precision_note(model, EngineConfig(load_format="dummy")) is None


def test_generate_says_it_on_a_terminal(
    octavo: CommandLine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", model, "Once", "--max-tokens", 3, "--seed", 1)
    piped = octavo(*words)
    assert (piped.status, piped.err) == (0, "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = octavo(*words, NO_COLOR="1")
    assert shown.err.splitlines()[0] == NOTE
    assert shown.out == piped.out
    for more in (("--weights", "f32"), ("--json",)):
        ended = octavo(*words, *more)
        assert ended.status == 0
        assert "keeps the checkpoint's precision" not in ended.err


def test_batch_says_it_unless_it_speaks_json(octavo: CommandLine, model: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 2}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": body}
    (octavo.folder / "in.jsonl").write_text(json.dumps(line))
    ended = octavo("batch", model, "in.jsonl", "out.jsonl")
    note, summary = ended.err.splitlines()
    assert note == NOTE
    assert summary.startswith("1 of 1 lines are answered")
    again = octavo("batch", model, "in.jsonl", "out.jsonl")  # no model is loaded
    assert "precision" not in again.err
    assert octavo("batch", model, "in.jsonl", "other.jsonl", "--json").err == ""


def test_a_server_says_it_for_each_model_unless_it_speaks_json(
    octavo: CommandLine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_at_once(serving: Coroutine[None, None, bool]) -> bool:
        serving.close()
        return True

    monkeypatch.setattr("octavo.cli.serve.uvloop.run", end_at_once)
    words = ("serve", f"a={model}", f"b={builtin_folder()}", "--port", 0, "--no-access-log")
    ended = octavo(*words)
    assert ended.status == 0
    assert ended.err.splitlines() == [
        f"a: {NOTE}",
        "b: weights w8 (from bf16); --weights bf16 keeps the checkpoint's precision",
        f"b: {SYSTEM_IS_DROPPED}",
    ]
    assert octavo(*words, "--weights", "f32").err == f"b: {SYSTEM_IS_DROPPED}\n"
    assert octavo(*words, "--json").err == ""
