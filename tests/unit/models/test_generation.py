"""End tokens and default sampling values, from both files, with every kind of mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.core.errors import ModelError
from octavo.core.request import SamplingParams
from octavo.models.generation import SAMPLING_FIELDS, GenerationConfig

DATA = Path(__file__).parents[4] / "shared" / "data" / "models"


def read(folder: Path, config: Any, generation: Any = None) -> GenerationConfig:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return GenerationConfig.read(folder)


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({}, None, ()),
        ({"eos_token_id": 2}, None, (2,)),
        ({"eos_token_id": [2, 5]}, None, (2, 5)),
        ({"eos_token_id": 2}, {}, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": None}, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": []}, (2,)),
        ({"eos_token_id": None}, {"eos_token_id": 0}, (0,)),
        ({"eos_token_id": 2}, {"eos_token_id": 7}, (7,)),
        ({}, {"eos_token_id": [128001, 128008, 128001]}, (128001, 128008)),
    ],
)
def test_end_tokens(tmp_path: Path, config: Any, generation: Any, ends: tuple[int, ...]) -> None:
    assert read(tmp_path, config, generation).end_token_ids == ends


def test_sampling_values(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        {},
        {
            "do_sample": True,
            "temperature": 0.7,
            "top_k": 20.0,
            "top_p": 0.8,
            "min_p": None,
            "repetition_penalty": 1.05,
            "max_new_tokens": 2048,
            "transformers_version": "4.37.0",
        },
    )
    assert settings.do_sample is True
    assert settings.sampling == {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.05,
    }
    assert isinstance(settings.sampling["top_k"], int)
    SamplingParams(**settings.sampling)  # type: ignore[arg-type]


def test_nothing_is_set_by_default(tmp_path: Path) -> None:
    settings = read(tmp_path, {"temperature": 0.1})
    assert settings.sampling == {}
    assert settings.do_sample is None


def test_the_fields_are_those_of_sampling_params() -> None:
    assert set(SAMPLING_FIELDS) <= set(SamplingParams.__struct_fields__)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "ends", ["2", 2.0, True, -1, 2**31, [2, "3"], [[2]], {"id": 2}, [None], [False]]
)
def test_bad_end_tokens(tmp_path: Path, file: str, ends: Any) -> None:
    values = {"eos_token_id": ends}
    with pytest.raises(ModelError, match="eos_token_id must be a token id or a list") as error:
        read(
            tmp_path,
            values if file == "config.json" else {},
            {} if file == "config.json" else values,
        )
    assert error.value.message.startswith(str(tmp_path / file))
    assert error.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0.7"),
        ("temperature", -0.1),
        ("temperature", True),
        ("temperature", [1.0]),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", 1.5),
        ("top_k", -1),
        ("top_k", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 2),
        ("typical_p", 0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", {}),
        ("do_sample", "yes"),
        ("do_sample", 1),
    ],
)
def test_bad_sampling_values(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(ModelError, match=field) as error:
        read(tmp_path, {}, {field: value})
    assert type(error.value) is ModelError
    assert error.value.message.startswith(str(tmp_path / "generation_config.json"))
    assert error.value.hint


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        GenerationConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"generation_config\.json: holds a JSON list"):
        GenerationConfig.read(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"generation_config\.json: cannot be read"):
        GenerationConfig.read(tmp_path)


@pytest.mark.parametrize(("name", "end"), [("stories260K", 1), ("story-656k", 2)])
def test_trained_models(name: str, end: int) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the trained model {name} in ../shared/data/models")
    assert GenerationConfig.read(DATA / name).end_token_ids == (end,)
