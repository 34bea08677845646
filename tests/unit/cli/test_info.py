"""``octavo info``: the machine, a model, and the effective settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo import LLM
from octavo.cli import machine
from octavo.core.config import EngineConfig
from octavo.engine.load import load_engine
from tests.command_line import CommandLine
from tests.tiny import write_tiny_model


def test_a_models_facts_are_those_of_the_loaded_model(octavo: CommandLine, model: Path) -> None:
    facts = json.loads(octavo("info", model, "--json").out)["model"]
    with LLM(model) as llm:
        spec = llm.spec
        assert facts["context"] == llm.max_model_len
    for name in ("architecture", "num_layers", "num_heads", "num_kv_heads", "vocab_size"):
        assert facts[name] == getattr(spec, name)
    assert facts["stored_bytes"] == {"F32": 4 * facts["parameters"]}
    assert facts["end_token_ids"] == [256]
    assert facts["has_chat_template"] is True
    assert facts["kv_groups"] == [{"window": None, "layers": [0, 1]}]


@pytest.mark.parametrize(
    ("words", "formats"),
    [
        ((), ("w8", "bf16")),
        (("--weights", "f32"), ("f32", "f32")),
        (("--weights", "bf16", "--kv", "int8"), ("bf16", "int8")),
        (("--weights", "w4"), ("w4", "bf16")),
        (("--backend", "reference"), ("f32", "f32")),
    ],
)
def test_formats_and_their_bytes_are_those_of_the_loaded_model(
    octavo: CommandLine, model: Path, words: tuple[str, ...], formats: tuple[str, str]
) -> None:
    facts = json.loads(octavo("info", model, "--json", *words).out)["model"]
    assert (facts["weight_format"], facts["kv_format"]) == formats
    options = {
        name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }
    executable = load_engine(model, EngineConfig(**options, num_pages=40)).executable
    # Before loading, a table of tokens is counted in whole panels of 32 rows.
    assert 0 <= facts["weight_bytes"] - executable.weight_bytes < 32 * 32 * 4
    assert facts["kv_bytes_a_token"] == executable.page(0, 0).nbytes // 16
    if "reference" in words:
        assert facts["weight_bytes"] == executable.weight_bytes == 4 * facts["parameters"]
    table = octavo("info", model, *words).out
    memory, kv = (line for line in table.splitlines() if line.startswith(("in memory", "KV  ")))
    assert memory.endswith(f"({formats[0]})")
    assert kv.endswith(f" a token ({formats[1]})")


def test_a_model_without_a_tokeniser_and_with_a_window(octavo: CommandLine) -> None:
    folder = octavo.folder / "bare"
    folder.mkdir()
    write_tiny_model(folder, "mistral", sliding_window=64)
    ended = octavo("info", folder)
    assert ended.status == 0
    assert "KV groups      2 layers with a window of 64 tokens" in ended.out
    assert "tokeniser      no" in ended.out
    assert "chat template  no" in ended.out


def test_the_built_in_model_is_named_with_its_card(octavo: CommandLine, model: Path) -> None:
    told = "builtin (its card: README.md in the folder)"
    for words in ((), ("builtin",)):
        rows = [line.split(maxsplit=1) for line in octavo("info", *words).out.splitlines()]
        facts = {row[0]: row[1] for row in rows if len(row) == 2}
        assert facts["model"] == told
        assert (Path(facts["folder"]) / "README.md").is_file()
    assert told not in octavo("info", model).out


def test_the_machine(octavo: CommandLine) -> None:
    out = octavo("info", "--num-threads", 1).out
    assert "\nthreads          1 of " in out
    found = json.loads(octavo("info", "--json").out)["machine"]
    assert found["instruction_set"] in found["instruction_sets"]
    assert set(found["only_by_name"]) <= set(found["instruction_sets"])
    assert f"\ninstruction set  {found['instruction_set']}; others: " in out


def test_a_machine_with_an_instruction_set_that_no_processor_has_tried(
    octavo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "instruction_sets", lambda: ("scalar", "avx512bf16", "amx"))
    monkeypatch.setattr(machine, "instruction_sets_only_by_name", lambda: ("amx",))
    monkeypatch.setattr(machine, "chosen_instruction_set", lambda: "avx512bf16")
    told = "avx512bf16; others: scalar, amx (only by name: never tried on a real processor)"
    assert told in octavo("info").out


def test_settings_that_contradict_each_other_are_told(octavo: CommandLine) -> None:
    ended = octavo("info", "--settings", "--max-num-seqs", 64, "--max-num-batched-tokens", 32)
    assert ended.status == 2
    assert "starve" in ended.err
