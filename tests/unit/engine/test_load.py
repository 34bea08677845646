"""From a folder to an engine: what is decided on the way, and what is said about it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from octavo.backends.base import Executable
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError, Misuse, ModelError
from octavo.core.events import Finished
from octavo.core.request import Request, SamplingParams
from octavo.engine import load
from octavo.engine.load import load_engine
from tests.tiny import write_tiny_model

DYNAMIC = {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}


def test_a_stretched_context_is_the_users_choice_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_model(tmp_path, max_position_embeddings=64, **DYNAMIC)
    with caplog.at_level(logging.WARNING):
        assert load_engine(tmp_path, EngineConfig()).max_model_len == 64
        assert not caplog.records
        assert load_engine(tmp_path, EngineConfig(max_model_len=128)).max_model_len == 128
    assert "its own length is 64" in caplog.text
    with pytest.raises(ConfigError, match="max_model_len must be in"):
        load_engine(tmp_path, EngineConfig(max_model_len=257))


def test_pages_are_enough_for_every_sequence_where_memory_allows(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, max_position_embeddings=64)
    assert load_engine(tmp_path, EngineConfig(max_num_seqs=3)).num_pages == 3 * 4 + 1
    assert load_engine(tmp_path, EngineConfig(num_pages=7)).num_pages == 7


def test_missing_tensors_are_all_named_before_anything_is_computed(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, rename=lambda name: name.replace("up_proj", "upward"))
    with pytest.raises(ModelError, match="up_proj"):
        load_engine(tmp_path, EngineConfig())


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_was_compiled_is_closed_if_the_rest_fails(
    error: type[BaseException], backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Executable] = []

    def fails(executable: Executable, **options: object) -> None:
        assert executable.page(0, 1).size > 0
        compiled.append(executable)
        raise error

    monkeypatch.setattr(load, "Runner", fails)
    write_tiny_model(tmp_path)
    with pytest.raises(error):
        load_engine(tmp_path, EngineConfig(backend=backend))
    with pytest.raises(Misuse, match="was closed"):
        compiled[0].page(0, 1)


def test_a_batch_larger_than_the_slots_is_refused(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    with pytest.raises(ConfigError, match="max_batch_size"):
        load_engine(
            tmp_path, EngineConfig(continuous_batching=False, max_batch_size=9, max_num_seqs=8)
        )


def test_end_tokens_that_the_model_cannot_draw_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_model(tmp_path, eos_token_id=[1, 999])
    loaded = load_engine(tmp_path, EngineConfig())
    assert "end token 999" in caplog.text
    loaded.engine.add(
        Request(
            request_id="r",
            prompt_ids=(5,),
            params=SamplingParams(min_tokens=2, max_tokens=4, seed=1),
        )
    )
    events = []
    while loaded.engine.has_work:
        events += loaded.engine.step()
    assert isinstance(events[-1], Finished)
