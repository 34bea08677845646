"""Collectors: tokens that are read many at once are read as if they were read one by one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice

import pytest

from octavo.core.errors import Overloaded
from octavo.core.events import Event, Failed, Token
from octavo.runtime import readers
from octavo.runtime.choice import ChoiceText
from octavo.runtime.outputs import OutputAssembler, RequestOutput
from octavo.runtime.readers import MOST_UNREAD, Collector, Work
from octavo.text.tokenizer import Tokenizer
from tests.unit.runtime.test_outputs import STOP_TOKEN, ScriptedEngine, new_request
from tests.unit.text.small_tokenizers import END, byte_level_json, write_folder

LENGTH = 3 * MOST_UNREAD
TEXT = "naïve 東京 🙂 tea# $ " * 30
PARAMS: list[dict[str, object]] = [
    {},
    {"ignore_eos": True},
    {"ignore_eos": True, "max_tokens": MOST_UNREAD},
    {"ignore_eos": True, "max_tokens": MOST_UNREAD + 1},
    {"max_tokens": 1},
    {"logprobs": 1, "ignore_eos": True},
    {"stop_token_ids": [STOP_TOKEN], "ignore_eos": True},
    {"stop_token_ids": [STOP_TOKEN], "min_tokens": 60, "ignore_eos": True},
    {"stop": ["tea# ", "京 🙂"], "ignore_eos": True},
    {"prompt_logprobs": 0, "ignore_eos": True},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte is its own token id."""
    return Tokenizer.load(write_folder(tmp_path_factory.mktemp("tokenizer"), byte_level_json()))


def answers(num: int) -> list[list[int]]:
    """Texts with an end token in them, each begun elsewhere: some within a character."""
    ids = [END if byte == ord("$") else byte for byte in TEXT.encode()]
    return [ids[7 * start :] for start in range(num)]


def read(
    tokenizer: Tokenizer | None, events: Iterable[Event], **params: object
) -> tuple[RequestOutput, list[int]]:
    """What a collector makes of events, and what it would have the engine abort."""
    work = Work()
    request = new_request(**{"max_tokens": LENGTH, **params})
    collector = Collector(OutputAssembler(request, tokenizer, end_ids=(END,)), work)
    events = list(events)
    aborts = [choice for event in events for choice in collector.take(event)]
    assert work.num_tokens == sum(isinstance(event, Token) for event in events)
    assert work.num_finished == collector.assembler.finished
    return collector.assembler.output(), aborts


def events_for(num: int, **params: object) -> Iterable[Event]:
    request = new_request(n=num, **{"max_tokens": LENGTH, **params})
    return ScriptedEngine(answers(num)).run(request)


@pytest.mark.parametrize(
    ("params", "has_text"),
    [
        (params, has_text)
        for params in PARAMS
        for has_text in (True, False)
        if has_text or "stop" not in params  # which are found in text
    ],
    ids=str,
)
@pytest.mark.parametrize("num", [1, 3])
def test_many_at_once_are_as_one_by_one(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    params: dict[str, object],
    num: int,
    has_text: bool,
) -> None:
    reader = tokenizer if has_text else None
    at_once = read(reader, events_for(num, **params), n=num, **params)
    monkeypatch.setattr(readers, "MOST_UNREAD", 1)
    one_by_one = read(reader, events_for(num, **params), n=num, **params)
    assert at_once == one_by_one
    assert at_once[0].finished


def test_tokens_are_read_many_at_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    take = ChoiceText.take

    def counted(*arguments: object) -> object:
        taken.append(arguments)
        return take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ChoiceText, "take", counted)
    read(tokenizer, events_for(1, ignore_eos=True), ignore_eos=True)
    assert len(taken) == LENGTH // MOST_UNREAD


@pytest.mark.parametrize("num_events", [0, 5, MOST_UNREAD, MOST_UNREAD + 5])
def test_what_came_before_a_failure_is_kept(tokenizer: Tokenizer, num_events: int) -> None:
    events = list(islice(events_for(1, ignore_eos=True), num_events))
    failed = Failed.of("r", Overloaded("too much"))
    output, _ = read(tokenizer, [*events, failed], ignore_eos=True)
    assert output.choices[0].token_ids == tuple(answers(1)[0][:num_events])
    assert isinstance(output.error, Overloaded)

    work = Work()
    request = new_request(max_tokens=LENGTH, ignore_eos=True)
    collector = Collector(OutputAssembler(request, tokenizer), work)
    for event in events:
        assert not list(collector.take(event))
    collector.fail("r", Overloaded("too much"))
    assert collector.assembler.output().choices == output.choices
    assert work.num_finished == 1


def test_events_that_come_twice_are_read_once(tokenizer: Tokenizer) -> None:
    """From an engine that replaced another: it begins anew, somewhere."""
    events = list(events_for(2, ignore_eos=True))
    assembler = OutputAssembler(new_request(n=2, max_tokens=LENGTH, ignore_eos=True), tokenizer)
    for event in events:
        assembler.apply(event)
    chance = random.Random(3)
    for _ in range(20):
        cut = chance.randrange(len(events))
        again = chance.randrange(cut + 1)
        request = new_request(n=2, max_tokens=LENGTH, ignore_eos=True)
        collector = Collector(OutputAssembler(request, tokenizer), Work())
        for event in [*events[:cut], *events[again:]]:
            collector.take(event)
        assert collector.assembler.output() == assembler.output()
