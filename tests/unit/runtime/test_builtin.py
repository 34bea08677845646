"""``LLM()`` and ``AsyncClient.load()`` without a model, and the built-in tokeniser."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo import LLM, AsyncClient, SamplingParams
from octavo.models.builtin import BUILTIN, builtin_folder
from octavo.runtime.model_text import ModelText
from tests.small_model import write_small_model

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


def test_without_a_model_it_is_the_built_in_one() -> None:
    with LLM() as llm, LLM(BUILTIN) as named:
        [output] = llm.generate("Once upon a", GREEDY)
        assert output.text.startswith(" time")
        assert named.generate("Once upon a", GREEDY)[0].text == output.text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_the_asynchronous_client_too() -> None:
    async with await AsyncClient.load() as client:
        output = await client.start(client.text.encode("Once upon a"), GREEDY).output()
    assert output.text.startswith(" time")


def test_its_tokeniser_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_small_model(tmp_path / BUILTIN)
    inside = ModelText.load(builtin_folder(), BUILTIN)
    beside = ModelText.load(builtin_folder(), f"./{BUILTIN}")
    assert inside.encode("Once").token_ids == ModelText(builtin_folder()).encode("Once").token_ids
    assert beside.encode("Once").token_ids != inside.encode("Once").token_ids
