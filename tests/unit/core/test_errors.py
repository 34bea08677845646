"""The tree of errors: every one has a code, a status and room for a hint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octavo.core import errors
from octavo.core.errors import InvalidRequest, OctavoError, did_you_mean, error_from_code


def every_class(base: type[OctavoError] = OctavoError) -> Iterator[type[OctavoError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every_class(child)


TABLE = {
    "octavo_error": 500,
    "invalid_config": 400,
    "invalid_request": 400,
    "overloaded": 429,
    "deadline_exceeded": 504,
    "invalid_model": 400,
    "model_not_found": 404,
    "unsupported_model": 400,
    "request_failed": 500,
    "engine_dead": 503,
    "misuse": 500,
}


def test_codes_and_statuses() -> None:
    classes = list(every_class())
    assert {error.code: error.http_status for error in classes} == TABLE
    assert len(classes) == len(TABLE), "two classes share a code"


@pytest.mark.parametrize("kind", list(every_class()), ids=lambda kind: kind.__name__)
def test_message_and_hint(kind: type[OctavoError]) -> None:
    assert str(kind("it broke")) == "it broke"
    error = kind("it broke", hint="mend it")
    assert str(error) == "it broke (mend it)"
    assert (error.message, error.hint) == ("it broke", "mend it")


def test_an_invalid_request_names_the_field() -> None:
    assert InvalidRequest("no", param="top_p").param == "top_p"
    assert InvalidRequest("no").param is None


def test_did_you_mean() -> None:
    assert did_you_mean("max_seqs", ["max_num_seqs", "policy"]) == "did you mean 'max_num_seqs'?"
    assert did_you_mean("zzz", ["max_num_seqs", "policy"]) is None


@pytest.mark.parametrize("kind", list(every_class()), ids=lambda kind: kind.__name__)
def test_an_error_comes_back_from_a_message(kind: type[OctavoError]) -> None:
    error = error_from_code(kind.code, "it broke", "mend it")
    assert type(error) is kind
    assert (error.message, error.hint) == ("it broke", "mend it")


def test_a_code_that_nobody_knows_is_kept() -> None:
    error = error_from_code("from_the_future", "it broke")
    assert type(error) is OctavoError
    assert error.code == "from_the_future"
    assert OctavoError.code == "octavo_error"
