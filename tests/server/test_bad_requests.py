"""Every bad request is refused as the golden file says, and leaves no trace."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest

from octavo.core.errors import InvalidRequest
from octavo.server import schema
from octavo.server.reference import page
from tests.server.bad_requests import BAD_REQUESTS, GOLDEN, answer_to
from tests.server.serving import CHAT, COMPLETIONS, HELLO, Serving

pytestmark = pytest.mark.anyio
EXPECTED: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_refusal(served: Serving, name: str) -> None:
    assert await answer_to(served, BAD_REQUESTS[name]) == EXPECTED[name]
    assert served.client.num_live == 0


def test_the_golden_file_has_nothing_else() -> None:
    assert list(EXPECTED) == list(BAD_REQUESTS)


def test_every_refused_field_is_in_the_table() -> None:
    names = [*schema.COMPLETION_REFUSALS, *schema.CHAT_REFUSALS]
    assert {f"refused: {name}" for name in names} <= set(BAD_REQUESTS)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_null_asks_for_nothing(served: Serving, path: str) -> None:
    kind = schema.ChatBody if path == CHAT else schema.CompletionBody
    refusals = schema.CHAT_REFUSALS if path == CHAT else schema.COMPLETION_REFUSALS
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    nulls = dict.fromkeys([*kind.model_fields, *refusals])
    given = {"messages": HELLO} if path == CHAT else {"prompt": "Once"}
    fields = {name: value for name, value in nulls.items() if name not in required}
    answer = await served.ask(path, **fields, **given)
    assert answer["choices"]


@pytest.mark.parametrize(
    ("table", "path"),
    [(schema.CHAT_REFUSALS, CHAT), (schema.COMPLETION_REFUSALS, COMPLETIONS)],
)
async def test_every_neutral_value_is_taken(
    served: Serving, table: dict[str, schema.Refusal], path: str
) -> None:
    given = {"messages": HELLO, "max_tokens": 1} if path == CHAT else {"prompt": "a"}
    for name, refusal in table.items():
        for neutral in refusal.neutral:
            await served.ask(path, **given, **{name: neutral})


async def test_what_the_engine_refuses_is_told_before_a_stream_begins(served: Serving) -> None:
    body = {"prompt": "Once", "stream": True, "max_tokens": -5}
    response = await served.post(COMPLETIONS, body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"


async def test_enormous_numbers_are_no_trouble(served: Serving) -> None:
    for digits in (19, 20, 40, 400, 4299):
        number = "9" * digits
        for field in ("max_tokens", "temperature", "seed", "n", "top_k", "prompt", "logprobs"):
            value = f"[{number}]" if field == "prompt" else number
            text = f'{{"model": "tiny", "{field}": {value}'
            text += "}" if field == "prompt" else ', "prompt": "Once"}'
            response = await served.http.post(COMPLETIONS, content=text.encode())
            assert response.status_code == 400, (field, digits)


MANY = 200_000
ENORMOUS: dict[str, dict[str, Any]] = {
    "fields": dict.fromkeys(map(str, range(MANY)), 1),
    "stop": {"stop": [1] * MANY},
    "stop_token_ids": {"stop_token_ids": ["x"] * MANY},
    "allowed_token_ids": {"allowed_token_ids": ["x"] * MANY},
    "bad_words": {"bad_words": ["x"] * MANY},
    "one bad word": {"bad_words": [["x"] * MANY]},
    "logit_bias": {"logit_bias": dict.fromkeys(map(str, range(MANY)), "x")},
    "stream_options": {"stream_options": dict.fromkeys(map(str, range(MANY)), 1)},
    "message": {"messages": [dict.fromkeys(map(str, range(MANY)), 1)]},
    "prompt": {"prompt": [1] * MANY},
}


@pytest.mark.parametrize("name", ENORMOUS)
def test_no_error_is_made_of_every_entry(name: str) -> None:
    """An error that pydantic makes takes some microseconds, and the event loop waits."""
    fields = {"model": "tiny", "prompt": "Once", **ENORMOUS[name]}
    started = time.process_time()
    with suppress(InvalidRequest):
        if "messages" in fields:
            schema.parse_chat(fields, max_messages=1000)
        else:
            schema.parse_completion(fields)
    used_s = time.process_time() - started
    print(f"{used_s * 1000:.1f} ms of processor time")
    assert used_s < 0.4, used_s  # at most 0.06 s; with an error for every entry, seconds


def test_the_reference_page_is_up_to_date() -> None:
    from tests.docs.test_snippets import ROOT

    path = ROOT / "docs" / "reference" / "openai.md"
    assert path.read_text(encoding="utf-8") == page(), "run python -m octavo.server.reference"
