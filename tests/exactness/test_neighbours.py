"""One bad request fails alone: a neighbour that fails, leaves or is NaN changes nobody's bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octavo.core.config import EngineConfig
from octavo.core.events import Event, Failed, Finished, FinishReason, PromptScored, Token
from octavo.core.request import Request, SamplingParams
from octavo.core.step import TokenLogprobs
from octavo.engine.load import LoadedEngine, load_engine
from tests.tiny import write_tiny_model

POISON_TOKEN = 77
"""Its embedding is NaN, and so is everything that is computed from it."""
WINDOW = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_model(tmp_path_factory.mktemp("neighbours"), "qwen2", **WINDOW)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][POISON_TOKEN] = np.nan
    save_file(tensors, path)
    return folder


def request(name: str, prompt: list[int], **params: object) -> Request:
    fields = {"max_tokens": 24, "seed": 3, "ignore_eos": True, "logprobs": 1, **params}
    return Request(
        request_id=name,
        prompt_ids=tuple(prompt),
        params=SamplingParams(logit_bias={POISON_TOKEN: -100.0}, **fields),  # type: ignore[arg-type]
    )


GOOD = [
    request("good-0", list(range(2, 40))),
    request("good-1", list(range(2, 60)), temperature=0.0),
    request("good-2", [5, 6, 7], n=2),
]


Load = Callable[..., LoadedEngine]
# Packed weights would refuse the NaN that plays the part of a broken neighbour: w8 and w4 have
# their own tests of rows that are not finite (tests/ops).
SETTINGS: dict[str, dict[str, str]] = {
    "reference": {"backend": "reference"},
    "f32": {"weights": "f32"},
    "bf16_pages": {"weights": "f32", "kv": "bf16"},
    "int8_pages": {"weights": "f32", "kv": "int8"},
}


@pytest.fixture(scope="module", params=SETTINGS)
def load(folder: Path, request: pytest.FixtureRequest) -> Load:
    settings = SETTINGS[request.param]

    def loaded(**options: object) -> LoadedEngine:
        return load_engine(folder, EngineConfig.from_options({**settings, **options}))

    return loaded


def tokens_of(events: list[Event]) -> dict[tuple[str, int], list[tuple[object, ...]]]:
    answers: dict[tuple[str, int], list[tuple[object, ...]]] = {}
    for event in events:
        if isinstance(event, Token) and event.request_id.startswith("good"):
            answers.setdefault((event.request_id, event.choice), []).append(
                (event.index, event.token_id, event.logprobs)
            )
    return answers


def drain(loaded: LoadedEngine, *, poison: bool = False) -> list[Event]:
    events: list[Event] = []
    while loaded.engine.has_work:
        events.extend(loaded.engine.step())
        loaded.engine.check()
        if poison:
            poison_free_pages(loaded)
    return events


def poison_free_pages(loaded: LoadedEngine) -> None:
    """Every float of every page that nobody holds becomes NaN."""
    for number, group in enumerate(loaded.kv.groups):
        for page in group.pool.free_pages():
            loaded.executable.page(number, page)[:] = 0xFF


@pytest.fixture(scope="module")
def expected(load: Load) -> dict[tuple[str, int], list[tuple[object, ...]]]:
    loaded = load()
    for one in GOOD:
        loaded.engine.add(one)
    answers = tokens_of(drain(loaded))
    assert len(answers) == 4
    assert all(len(tokens) == 24 for tokens in answers.values())
    return answers


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_a_neighbour_whose_logits_are_nan_fails_alone(
    load: Load, expected: object, steps_in_flight: int
) -> None:
    loaded = load(steps_in_flight=steps_in_flight)
    bad = request("bad", [4, 5, POISON_TOKEN, 6], n=2)
    late = request("bad-scores", [*range(2, 40), POISON_TOKEN, 9], prompt_logprobs=1)
    for one in (bad, *GOOD, late):
        loaded.engine.add(one)
    events = drain(loaded, poison=True)
    assert tokens_of(events) == expected
    failed = [event for event in events if isinstance(event, Failed)]
    assert sorted(event.request_id for event in failed) == ["bad", "bad-scores"]
    assert all("finite" in event.message or "NaN" in event.message for event in failed)
    loaded.engine.close()


@pytest.mark.parametrize("num_pages", [None, 9])
def test_poisoned_free_pages_are_never_read(
    load: Load, expected: object, num_pages: int | None
) -> None:
    loaded = load(num_pages=num_pages)
    poison_free_pages(loaded)
    for one in GOOD:
        loaded.engine.add(one)
    assert tokens_of(drain(loaded, poison=True)) == expected
    if num_pages is not None:
        assert loaded.engine.stats().scheduler.preemptions > 0


def test_the_poison_is_poison(load: Load, expected: object) -> None:
    """Were held pages poisoned, the answers would show it."""
    loaded = load()
    loaded.engine.add(GOOD[0])
    events = loaded.engine.step()
    for page in range(1, loaded.num_pages):
        loaded.executable.page(0, page)[:] = 0xFF
    events += drain(loaded)
    assert any(isinstance(event, Failed) for event in events)


@pytest.mark.parametrize("after_steps", [0, 1, 2, 7])
def test_a_neighbour_that_leaves_changes_nothing(
    load: Load, expected: object, after_steps: int
) -> None:
    loaded = load(max_num_batched_tokens=40, steps_in_flight=2)
    loaded.engine.add(request("leaver", list(range(80, 180)), n=2))
    for one in GOOD:
        loaded.engine.add(one)
    events: list[Event] = []
    for _ in range(after_steps):
        events += loaded.engine.step()
    aborted = loaded.engine.abort("leaver")
    assert [event.reason for event in aborted if isinstance(event, Finished)] == [
        FinishReason.ABORT
    ] * 2
    loaded.engine.check()
    events += drain(loaded, poison=True)
    assert tokens_of(events) == expected
    assert all(pages.held == 0 for pages in loaded.engine.stats().scheduler.pages)
    loaded.engine.close()


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("after_steps", range(1, 9))
def test_prompt_logprobs_survive_the_choice_that_brought_them(
    load: Load, after_steps: int, steps_in_flight: int
) -> None:
    options = {"max_num_batched_tokens": 32, "steps_in_flight": steps_in_flight}
    one = request("scored", list(range(80, 180)), n=3, prompt_logprobs=1)
    expected = scores_of(one, load(**options), abort_after=None)
    assert sorted(expected) == list(range(1, 100))
    assert scores_of(one, load(**options), abort_after=after_steps) == expected


def scores_of(
    one: Request, loaded: LoadedEngine, *, abort_after: int | None
) -> dict[int, TokenLogprobs]:
    """Prompt logprobs by index; choice 0 is aborted on the way."""
    loaded.engine.add(one)
    events: list[Event] = []
    for step in itertools.count(1):
        if not loaded.engine.has_work:
            break
        events += loaded.engine.step()
        if step == abort_after:
            events += loaded.engine.abort(one.request_id, 0)
        loaded.engine.check()
    loaded.engine.close()
    scored = [event for event in events if isinstance(event, PromptScored)]
    return {
        event.index + offset: logprobs
        for event in scored
        for offset, logprobs in enumerate(event.logprobs)
    }
