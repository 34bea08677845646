"""An engine dies mid-stream; another one, rebuilt from the same model, goes on as if nothing was.

What the client has is enough: its request, and the tokens it was told. The hard case is taken:
two choices, penalties that count the output, and a stop string of which half is held back.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from octavo.core.config import EngineConfig
from octavo.core.events import Event, Token
from octavo.core.request import Request, SamplingParams
from octavo.engine.load import load_engine
from octavo.runtime.client import InProcessClient
from octavo.runtime.outputs import OutputAssembler, RequestOutput
from octavo.text.tokenizer import Tokenizer
from tests.exactness.workload import VOCAB, write_model
from tests.small_model import byte_tokenizer

NEIGHBOUR = Request(
    request_id="neighbour",
    prompt_ids=tuple(range(30, 100)),
    params=SamplingParams(max_tokens=40, seed=8, ignore_eos=True),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("resume"))
    byte_tokenizer(VOCAB).save(str(folder / "tokenizer.json"))
    return folder


def make_request(**params: object) -> Request:
    fields = {"max_tokens": 40, "seed": 5, "n": 2, "logprobs": 2, "ignore_eos": True, **params}
    fields |= {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.4}
    return Request(
        request_id="resumed",
        prompt_ids=tuple(range(20, 55)),
        params=SamplingParams(**fields),  # type: ignore[arg-type]
    )


def new_client(folder: Path) -> InProcessClient:
    return InProcessClient(load_engine(folder, EngineConfig(load_format="dummy")).engine)


def pump(client: InProcessClient, assembler: OutputAssembler, num_tokens: int | None) -> int:
    """Feed events until so many tokens were taken, or to the end; how many were taken."""
    taken = 0
    request_id = assembler.request.request_id
    while not assembler.finished:
        events = [event for event in client.events() if event.request_id == request_id]
        for event in events:
            if num_tokens is not None and taken == num_tokens:
                return taken  # the rest of the message is lost with the engine
            taken += isinstance(event, Token)
            apply(client, assembler, event)
    return taken


def apply(client: InProcessClient, assembler: OutputAssembler, event: Event) -> None:
    assembler.apply(event)
    for choice in assembler.take_aborts():
        client.abort(assembler.request.request_id, choice)


def answer(output: RequestOutput) -> object:
    """All that must be equal; times and the cache's luck may differ."""
    assert output.error is None
    return [
        (
            choice.text,
            choice.token_ids,
            choice.logprobs,
            choice.finish_reason,
            choice.stop_reason,
            choice.usage.completion_tokens,
        )
        for choice in output.choices
    ]


def run(folder: Path, request: Request, *, die_after: list[int]) -> RequestOutput:
    """Answer the request; the engine dies after so many tokens, once for each entry."""
    assembler = OutputAssembler(request, Tokenizer.load(folder), end_ids=(3,))
    to_submit = request
    for num_tokens in [*die_after, None]:
        client = new_client(folder)
        client.submit(NEIGHBOUR)  # slots, pages and steps are not the same twice
        client.submit(to_submit)
        pump(client, assembler, num_tokens)
        client.close()
        if assembler.finished:
            break
        to_submit = assembler.resume_record()
    return assembler.output()


@pytest.fixture(scope="module")
def with_stop(folder: Path) -> Request:
    """A stop string of three characters that lies across tokens in the middle of choice 1."""
    whole = run(folder, make_request(), die_after=[])
    text = whole.choices[1].text
    places = [
        place
        for place in range(12, len(text) - 6)
        if "\ufffd" not in text[place : place + 3] and text.find(text[place : place + 3]) == place
    ]
    assert places, f"no stop string to be had in {text!r}"
    place = places[0]
    return make_request(stop=(text[place : place + 3],))


def test_killed_at_any_token(folder: Path) -> None:
    request = make_request(max_tokens=12)
    whole = answer(run(folder, request, die_after=[]))
    for num_tokens in range(0, 24, 2):
        assert answer(run(folder, request, die_after=[num_tokens])) == whole, num_tokens


def test_killed_while_a_stop_string_is_half_held_back(folder: Path, with_stop: Request) -> None:
    whole = run(folder, with_stop, die_after=[])
    stopped = whole.choices[1]
    assert stopped.stop_reason == with_stop.params.stop[0]
    assert whole.choices[0].token_ids != stopped.token_ids
    ends = 2 * stopped.usage.completion_tokens  # tokens of two choices arrive in turn
    for num_tokens in range(ends - 6, ends + 2):
        resumed = run(folder, with_stop, die_after=[num_tokens])
        assert answer(resumed) == answer(whole), num_tokens


def test_killed_again_and_again(folder: Path, with_stop: Request) -> None:
    whole = answer(run(folder, with_stop, die_after=[]))
    assert answer(run(folder, with_stop, die_after=[3, 0, 5, 1, 7])) == whole


def test_usage_counts_each_token_once(folder: Path) -> None:
    request = make_request(max_tokens=10)
    whole = run(folder, request, die_after=[])
    resumed = run(folder, request, die_after=[9])
    assert resumed.usage.completion_tokens == whole.usage.completion_tokens == 20
    assert replace(resumed, choices=(), usage=whole.usage) == replace(whole, choices=())
