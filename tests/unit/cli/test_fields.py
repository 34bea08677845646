"""Settings read from a class: every field once, and its values as people write them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from octavo.cli.fields import settings_of, to_texts
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError
from octavo.core.request import SamplingParams

ENGINE = {setting.name: setting for setting in settings_of(EngineConfig)}
SAMPLING = {setting.name: setting for setting in settings_of(SamplingParams)}


def test_every_field_is_a_setting_with_its_default() -> None:
    assert list(ENGINE) == [field.name for field in dataclasses.fields(EngineConfig)]
    assert list(SAMPLING) == list(SamplingParams.__struct_fields__)
    config, params = EngineConfig(), SamplingParams()
    assert {name: one.default for name, one in ENGINE.items()} == dataclasses.asdict(config)
    assert all(one.default == getattr(params, name) for name, one in SAMPLING.items())


def test_every_setting_says_what_it_does() -> None:
    assert [one.name for one in (*ENGINE.values(), *SAMPLING.values()) if not one.doc] == []


def test_no_name_is_used_twice() -> None:
    assert not ENGINE.keys() & SAMPLING.keys()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_num_seqs", "7", 7),
        ("num_threads", "none", None),
        ("max_wait_ms", "2.5", 2.5),
        ("kv_cache", "off", False),
        ("pad", "Yes", True),
        ("policy", "length", "length"),
        ("temperature", "0", 0.0),
        ("seed", "12", 12),
        ("stop", "end, or not", ("end, or not",)),
        ("stop", r'"a\nb"', ("a\nb",)),
        ("stop", '"', ('"',)),
        ("stop_token_ids", "1,2", (1, 2)),
        ("logit_bias", "42=5,7=-1.5", {42: 5.0, 7: -1.5}),
        ("bad_words", "1,2;3", ((1, 2), (3,))),
        ("allowed_token_ids", "5", (5,)),
    ],
)
def test_values_as_people_write_them(name: str, text: str, value: Any) -> None:
    setting = (ENGINE | SAMPLING)[name]
    assert setting.parse(text) == value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("max_num_seqs", "many", "an integer"),
        ("max_num_seqs", "none", "an integer"),
        ("kv_cache", "perhaps", "on or off"),
        ("temperature", "hot", "a number"),
        ("stop", r'"\x"', "JSON string"),
        ("stop_token_ids", "1,b", "1,2,3"),
        ("logit_bias", "42", "42=5"),
        ("bad_words", "1,2;", "1,2;3"),
    ],
)
def test_wrong_values_say_what_would_be_right(name: str, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        (ENGINE | SAMPLING)[name].parse(text)
    assert wanted in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_cache", False),
        ("max_num_seqs", 3),
        ("stop", ["a", "b,c"]),
        ("logit_bias", {"42": 5.0}),
        ("bad_words", [[1, 2], [3]]),
        ("allowed_token_ids", [1, 2]),
    ],
)
def test_toml_values_read_like_written_ones(name: str, value: Any) -> None:
    setting = (ENGINE | SAMPLING)[name]
    texts = to_texts(value)
    read = setting.parse_all(texts) if setting.is_compound else setting.parse(texts[0])
    fields = {name: value if name != "logit_bias" else {42: 5.0}}
    owner = EngineConfig if name in ENGINE else SamplingParams
    assert read == getattr(owner(**fields), name)
