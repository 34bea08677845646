"""``octavo plan`` says what would fit, and the engine agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo.cli.model_facts import ModelFacts
from octavo.cli.plan import make_plan, parse_bytes
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError
from octavo.engine.load import load_engine
from octavo.execution.memory import USABLE, num_pages_that_fit
from tests.command_line import CommandLine
from tests.small_model import write_small_model
from tests.tiny import write_tiny_model

CONFIG = EngineConfig()


@pytest.fixture(scope="module")
def facts(model: Path) -> ModelFacts:
    return ModelFacts.read(model)


def test_the_formula(facts: ModelFacts) -> None:
    # 2 layers, 2 heads of keys and values, 8 numbers each, keys and values, two bytes a number
    assert facts.kv_bytes_a_token == 2 * 2 * 2 * 8 * 2
    plan = make_plan(facts, CONFIG, users=3, memory_bytes=2**30)
    assert plan.kv_bytes == (3 * 512 + 16) * 128
    assert plan.total_bytes == plan.weight_bytes + plan.workspace_bytes + plan.kv_bytes


@pytest.mark.parametrize(
    ("formats", "kv_bytes"),
    [
        ({"weights": "f32"}, 4 * 8),
        ({"weights": "w8", "kv": "int8"}, 8 + 4),  # and a scale of four bytes
        ({"weights": "w4", "kv": "bf16"}, 2 * 8),
    ],
)
def test_the_formats_that_are_asked_for(
    octavo: CommandLine, model: Path, formats: dict[str, str], kv_bytes: int
) -> None:
    words = [word for name, value in formats.items() for word in (f"--{name}", value)]
    told = json.loads(octavo("plan", model, *words, "--memory", "1GiB", "--json").out)
    config = EngineConfig(**formats)
    assert told["weight_bytes"] == ModelFacts.read(model, config).weight_bytes
    assert (told["weight_format"], told["kv_format"]) == (config.weight_format, config.kv_format)
    assert told["kv_bytes_a_token"] == 2 * 2 * 2 * kv_bytes
    assert told["advice"][0].endswith(f"--max-num-seqs 1 {' '.join(words)}")
    lines = octavo("plan", model, *words, "--memory", "1GiB").out.splitlines()
    weights, kv = (line for line in lines if line.startswith(("weights", "KV")))
    assert weights.endswith(f"({config.weight_format})")
    assert kv.endswith(f"({config.kv_format})")


def test_what_fits_by_default_is_what_the_engine_takes(facts: ModelFacts) -> None:
    for memory_bytes in range(4 * 2**20, 64 * 2**20, 2**20):
        for users in (1, 20, 60):
            plan = make_plan(facts, CONFIG, users=users, memory_bytes=memory_bytes)
            taken = num_pages_that_fit(
                facts.kv_groups,
                kv_format=facts.kv_format,
                weight_bytes=facts.weight_bytes,
                max_num_seqs=users,
                max_model_len=512,
                memory_bytes=memory_bytes,
            )
            if plan.fits:
                assert plan.fits_by_default == (taken == plan.num_pages)


def test_the_most_users_and_the_longest_context_fit_and_one_more_does_not(
    facts: ModelFacts, model: Path
) -> None:
    memory_bytes = 16 * 2**20
    plan = make_plan(facts, CONFIG, users=1000, memory_bytes=memory_bytes)
    assert not plan.fits
    for users, fits in ((plan.most_users, True), (plan.most_users + 1, False)):
        assert make_plan(facts, CONFIG, users=users, memory_bytes=memory_bytes).fits is fits
    assert 0 < plan.longest_context < 512
    for context, fits in ((plan.longest_context, True), (plan.longest_context + 1, False)):
        other = ModelFacts.read(model, EngineConfig(max_model_len=context))
        assert make_plan(other, CONFIG, users=1000, memory_bytes=memory_bytes).fits is fits


def test_json_and_exit_status(octavo: CommandLine, model: Path) -> None:
    fits = octavo("plan", model, "--users", 2, "--context", 100, "--memory", "1GiB", "--json")
    told = json.loads(fits.out)
    assert fits.status == 0
    assert (told["fits"], told["users"], told["context"]) == (True, 2, 100)
    too_much = octavo("plan", model, "--users", 1000, "--memory", "16MiB")
    assert too_much.status == 1
    assert "fits            NO" in too_much.out
    assert "users fit (--users)" in too_much.out


def test_advice(facts: ModelFacts) -> None:
    memory = 16 * 2**20
    users = next(
        number
        for number in range(1, 200)
        if not make_plan(facts, CONFIG, users=number, memory_bytes=memory).fits_by_default
    )
    plan = make_plan(facts, CONFIG, users=users, memory_bytes=memory)
    assert f"--num-pages {plan.num_pages}" in plan.advice[0]
    small = make_plan(facts, CONFIG, users=1, memory_bytes=2**16)
    assert small.advice[0].startswith("weights and workspace alone do not fit")


@pytest.mark.parametrize(
    ("asked", "weights", "kv"), [("f32", "w8", "bf16"), ("w8", "w4", "bf16"), ("f32", "w4", "int8")]
)
def test_what_would_fit_with_fewer_bits(
    octavo: CommandLine, model: Path, asked: str, weights: str, kv: str
) -> None:
    config = EngineConfig(weights=weights, kv=kv)  # type: ignore[arg-type]
    facts = ModelFacts.read(model, config)
    memory = int(make_plan(facts, config, users=1, memory_bytes=2**20).total_bytes / USABLE) + 8
    told = octavo("plan", model, "--weights", asked, "--memory", memory)
    assert told.status == 1
    assert f"with --weights {weights} --kv {kv} it fits" in told.out
    assert octavo("plan", model, "--weights", weights, "--kv", kv, "--memory", memory).status == 0


def test_the_reference_backend_is_told_of_the_other_one(octavo: CommandLine, model: Path) -> None:
    facts = ModelFacts.read(model, EngineConfig())
    needed = make_plan(facts, EngineConfig(), users=1, memory_bytes=2**20).total_bytes
    memory = int(needed / USABLE) + 8
    told = octavo("plan", model, "--backend", "reference", "--memory", memory)
    assert told.status == 1
    assert "with --backend native --weights w8 --kv bf16 it fits" in told.out


def test_only_a_config_is_needed(octavo: CommandLine) -> None:
    folder = octavo.folder / "bare"
    folder.mkdir()
    write_tiny_model(folder, "gpt2")
    (folder / "model.safetensors").unlink()
    assert octavo("plan", folder).status == 0
    assert "no weights here" in octavo("info", folder).out


@pytest.mark.parametrize(
    ("text", "count"),
    [("100", 100), ("16GiB", 2**34), ("1.5 kb", 1500), ("2MB", 2 * 10**6), ("3m", 3 * 10**6)],
)
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 XB", "i", "1e9", "9" * 400])
def test_wrong_amounts_of_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="not an amount"):
        parse_bytes(text)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_tied_table_in_float32_is_there_twice_and_that_is_told(
    octavo: CommandLine, backend: str
) -> None:
    config = EngineConfig.from_options({"backend": backend, "weights": "f32", "num_pages": 40})
    in_memory, repeated = {}, {}
    for is_tied in (True, False):
        folder = write_small_model(octavo.folder / f"{is_tied}", tie_word_embeddings=is_tied)
        words = ("plan", folder, "--backend", backend, "--weights", "f32", "--memory", "1GiB")
        told = json.loads(octavo(*words, "--json").out)
        loaded = load_engine(folder, config)
        in_memory[is_tied] = loaded.executable.weight_bytes
        repeated[is_tied] = told["repeated_bytes"]
        padding = 32 * 4 * loaded.spec.hidden_size  # of panels
        assert 0 <= told["weight_bytes"] - in_memory[is_tied] < padding
        assert ("the tied table a second time" in octavo(*words).out) == is_tied
        assert "second time" not in octavo("plan", folder, "--memory", "1GiB").out
    assert in_memory[True] == in_memory[False]  # as much as a head of its own
    assert repeated == {True: 4 * 257 * loaded.spec.hidden_size, False: 0}
