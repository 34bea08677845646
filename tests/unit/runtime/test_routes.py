"""Events reach the request that they belong to, also where its id is used again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from octavo.core.errors import EngineDead, InvalidRequest, OctavoError
from octavo.core.events import Event, Failed, Finished, FinishReason, Timings, Token, Usage
from octavo.core.request import ChoiceSoFar, Request, SamplingParams
from octavo.runtime.routes import Routes


class Listener:
    """A reader that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.errors: list[OctavoError] = []

    def take(self, event: Event) -> Iterable[int]:
        self.heard.append(event)
        return ()

    def fail(self, request_id: str, error: OctavoError) -> None:
        self.errors.append(error)


@pytest.fixture
def aborted() -> list[str]:
    return []


@pytest.fixture
def routes(aborted: list[str]) -> Routes:
    return Routes(lambda request: None, lambda request_id, choice: aborted.append(request_id))


def request(num_choices: int = 1, resume: tuple[ChoiceSoFar, ...] = ()) -> Request:
    params = SamplingParams(n=num_choices, seed=1, temperature=1.0)
    return Request(request_id="mine", prompt_ids=(1,), params=params, resume=resume)


def token(token_id: int) -> Token:
    return Token("mine", choice=0, index=0, token_id=token_id)


def end(choice: int = 0) -> Finished:
    return Finished(
        "mine", choice, FinishReason.ABORT, None, Usage(1, 0, 1), Timings(0.0, 0.0, 0.0)
    )


FAILED = Failed("mine", "overloaded", "too much")


def test_a_name_is_in_use_until_it_is_closed(routes: Routes, aborted: list[str]) -> None:
    routes.open(request(), Listener())
    with pytest.raises(InvalidRequest, match="is being served"):
        routes.open(request(), Listener())
    routes.close("mine")
    routes.close("mine")
    assert aborted == ["mine"]
    routes.open(request(), Listener())


@pytest.mark.parametrize(
    "ends",
    [[end(0), end(1)], [token(7), end(1), token(8), end(0)], [FAILED], [end(1), FAILED]],
    ids=["ends", "tokens and ends", "a failure", "an end and a failure"],
)
def test_what_a_closed_request_still_says_is_for_nobody(routes: Routes, ends: list[Event]) -> None:
    old, new = Listener(), Listener()
    routes.open(request(2), old)
    routes.dispatch([token(1)])
    routes.close("mine")
    routes.open(request(), new)
    routes.dispatch([*ends, token(2)])
    assert old.heard == [token(1)]
    assert new.heard == [token(2)]


def test_several_of_a_name_are_told_apart(routes: Routes) -> None:
    for num_choices in (2, 1):
        routes.open(request(num_choices), Listener())
        routes.close("mine")
    new = Listener()
    routes.open(request(), new)
    routes.dispatch([token(1), FAILED, token(2), end(), token(3), end()])
    assert new.heard == [token(3), end()]
    assert len(routes) == 0


def test_an_end_that_came_before_the_close_is_not_waited_for(routes: Routes) -> None:
    routes.open(request(2), Listener())
    routes.dispatch([end(1)])
    routes.close("mine")
    new = Listener()
    routes.open(request(), new)
    routes.dispatch([end(0), token(2)])
    assert new.heard == [token(2)]


def test_choices_that_a_resumed_request_had_finished_have_no_end_to_come(routes: Routes) -> None:
    done = (ChoiceSoFar(0, (5,), finished=True), ChoiceSoFar(1, (6,)))
    old, new = Listener(), Listener()
    routes.open(request(2, done), old)
    routes.dispatch([end(1)])
    assert len(routes) == 0
    routes.open(request(2, done), old)
    routes.close("mine")
    routes.open(request(), new)
    routes.dispatch([end(1), token(2)])
    assert new.heard == [token(2)]


def test_after_a_death_nothing_is_waited_for(routes: Routes) -> None:
    failed, new = Listener(), Listener()
    routes.open(request(), Listener())
    routes.close("mine")
    routes.open(request(), failed)
    routes.fail_all(EngineDead("gone"))
    assert [str(error) for error in failed.errors] == ["gone"]
    routes.open(request(), new)
    routes.dispatch([token(1)])
    assert new.heard == [token(1)]
