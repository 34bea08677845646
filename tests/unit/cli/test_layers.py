"""Flag before environment before file before default, and every origin told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.layers import take_config_flag
from octavo.core.errors import ConfigError
from tests.command_line import CommandLine

FILE = """
[engine]
max_num_seqs = 5
kv_cache = false
[sampling]
stop = ["a", "b"]
logit_bias = { 42 = 1.5 }
bad_words = [[1, 2], [3]]
temperature = 0.5
"""


def settings(octavo: CommandLine, *words: object, **variables: str) -> dict[str, dict[str, Any]]:
    ended = octavo("info", "--settings", "--json", *words, **variables)
    assert ended.status == 0, ended.err
    values: dict[str, dict[str, Any]] = json.loads(ended.out)["settings"]
    return values


def test_each_layer_hides_those_below(octavo: CommandLine) -> None:
    (octavo.folder / "octavo.toml").write_text(FILE)
    variable = {"OCTAVO_MAX_NUM_SEQS": "6"}
    found = [
        settings(octavo, "--max-num-seqs", 7, **variable)["max_num_seqs"],
        settings(octavo, **variable)["max_num_seqs"],
        settings(octavo)["max_num_seqs"],
        settings(octavo)["max_num_batched_tokens"],
    ]
    assert [one["value"] for one in found] == [7, 6, 5, 512]
    assert found[0]["origin"] == "flag --max-num-seqs"
    assert found[1]["origin"] == "environment OCTAVO_MAX_NUM_SEQS"
    assert found[2]["origin"].endswith("octavo.toml [engine] max_num_seqs")
    assert found[3]["origin"] == "default"


def test_values_of_every_kind_from_a_file(octavo: CommandLine) -> None:
    (octavo.folder / "octavo.toml").write_text(FILE)
    values = {name: one["value"] for name, one in settings(octavo).items()}
    assert values["kv_cache"] is False
    assert values["stop"] == ["a", "b"]
    assert values["logit_bias"] == {"42": 1.5}
    assert values["bad_words"] == [[1, 2], [3]]
    assert values["temperature"] == 0.5


def test_values_of_every_kind_from_the_environment(octavo: CommandLine) -> None:
    values = settings(
        octavo,
        OCTAVO_KV_CACHE="off",
        OCTAVO_STOP=r'"\n"',
        OCTAVO_LOGIT_BIAS="42=1.5",
        OCTAVO_STOP_TOKEN_IDS="1,2",
        OCTAVO_TEMPERATURE="",
    )
    assert values["kv_cache"]["value"] is False
    assert values["stop"]["value"] == ["\n"]
    assert values["logit_bias"]["value"] == {"42": 1.5}
    assert values["stop_token_ids"]["value"] == [1, 2]
    assert values["temperature"]["origin"] == "default"  # an empty variable is none


def test_the_named_file_goes_before_the_folders_and_that_before_the_users(
    octavo: CommandLine,
) -> None:
    named, local = octavo.folder / "named.toml", octavo.folder / "octavo.toml"
    users = octavo.folder / "XDG_CONFIG_HOME" / "octavo" / "config.toml"
    users.parent.mkdir(parents=True)
    for path, number in ((named, 1), (local, 2), (users, 3)):
        path.write_text(f"[engine]\nmax_num_seqs = {number}\n")
    assert settings(octavo, "--config", named)["max_num_seqs"]["value"] == 1
    assert settings(octavo, f"--config={named}")["max_num_seqs"]["value"] == 1
    assert settings(octavo, OCTAVO_CONFIG=str(named))["max_num_seqs"]["value"] == 1
    assert settings(octavo)["max_num_seqs"]["value"] == 2
    local.unlink()
    assert settings(octavo)["max_num_seqs"]["value"] == 3


def test_a_commands_own_table_and_variables(octavo: CommandLine) -> None:
    (octavo.folder / "octavo.toml").write_text("[info]\njson = true\n[plan]\nusers = 3\n")
    assert octavo("info", "--settings").out.startswith("{")
    assert octavo("info", "--settings", OCTAVO_INFO_JSON="no").out.startswith("backend")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("OCTAVO_MAX_NUM_SEQ", "did you mean 'OCTAVO_MAX_NUM_SEQS'?"),
        ("OCTAVO_INFO_JSN", "did you mean 'OCTAVO_INFO_JSON'?"),
        ("OCTAVO_ABRACADABRA", "octavo info --settings lists the settings"),
    ],
)
def test_a_variable_that_nobody_heeds_is_told(
    octavo: CommandLine, variable: str, hint: str
) -> None:
    ended = octavo("info", "--settings", **{variable: "1"})
    assert ended.status == 0
    assert ended.err == f"warning: the environment variable {variable} is unknown\nhint: {hint}\n"


def test_variables_of_others_are_not_told(octavo: CommandLine) -> None:
    names = ("CPU_ISA", "API_KEY", "TEST_TIME_LIMIT", "TRAFFIC_WORLDS", "SERVE_PROT", "SEED")
    ended = octavo("info", "--settings", **{f"OCTAVO_{name}": "1" for name in names})
    assert (ended.status, ended.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("info",), ("OCTAVO_INFO_JSON", "is OCTAVO_")),
        (("bench", "ladder"), ("OCTAVO_BENCH_QUICK", "--num-threads is OCTAVO_NUM_THREADS")),
    ],
)
def test_help_names_the_variables(
    octavo: CommandLine, words: tuple[str, ...], variables: tuple[str, ...]
) -> None:
    text = " ".join(octavo(*words, "--help").out.split())
    assert all(variable in text for variable in variables)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("[engine]\nmax_seqs = 1", "unknown key 'max_seqs' in [engine]", "'max_num_seqs'"),
        ("[engine]\ntemperature = 1", "unknown key 'temperature'", "below [sampling]"),
        ("[sampling]\nsed = 1", "unknown key 'sed' in [sampling]", "'seed'"),
        ("[engin]\nmax_num_seqs = 1", "unknown table [engin]", "'engine'"),
        ("[info]\njsn = true", "unknown key 'jsn' in [info]", "'json'"),
        ("max_num_seqs = 1", "outside of a table", "below [engine]"),
        ("[engine", "not valid TOML", ""),
        ("[engine]\nmax_num_seqs = 0", "max_num_seqs must be an integer", ""),
        ("[engine]\nmax_num_seqs = 'x'", 'unable to convert "x" into int', ""),
    ],
)
def test_mistakes_in_a_file(octavo: CommandLine, content: str, message: str, hint: str) -> None:
    (octavo.folder / "octavo.toml").write_text(content)
    ended = octavo("info", "--settings")
    assert ended.status == 2
    assert message in ended.err
    assert hint in ended.err


def test_the_config_flag_leaves_the_rest_as_it_is() -> None:
    assert take_config_flag(["run", "m", "--config", "f"]) == (["run", "m"], "f")
    assert take_config_flag(["run", "--config=f", "m"]) == (["run", "m"], "f")
    assert take_config_flag(["run", "--", "--config", "f"]) == (
        ["run", "--", "--config", "f"],
        None,
    )
    with pytest.raises(ConfigError, match="path of a TOML file"):
        take_config_flag(["run", "--config"])


def test_a_named_file_must_exist(octavo: CommandLine) -> None:
    ended = octavo("info", "--config", Path("nowhere.toml"))
    assert ended.status == 2
    assert "nowhere.toml: cannot be read" in ended.err
