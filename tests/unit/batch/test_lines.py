"""Input lines: what is a request, what is not, and how an answer is told to belong to a line."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.batch.lines import (
    MAX_LINE_BYTES,
    InputLine,
    Survey,
    answered_line,
    custom_id_of,
    error_line,
    is_torn_answer,
    parse_line,
    read_lines,
    response_line,
)
from octavo.batch.local_server import Response
from octavo.core.errors import ConfigError, InvalidRequest

GOOD: dict[str, Any] = {
    "custom_id": "one",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"prompt": "Once", "seed": 3},
}


def line_of(text: str | bytes) -> InputLine:
    data = text.encode() if isinstance(text, str) else text
    [line] = read_lines(io.BytesIO(data))
    return line


def test_a_request() -> None:
    request = parse_line(line_of(json.dumps(GOOD)))
    assert request.custom_id == "one"
    assert request.url == "/v1/completions"
    assert request.body == {"prompt": "Once", "seed": 3}


def test_the_method_may_be_left_out() -> None:
    fields = {name: value for name, value in GOOD.items() if name != "method"}
    assert parse_line(line_of(json.dumps(fields))).custom_id == "one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "the line is not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"custom_id": "a"', "not valid JSON"),
        (json.dumps({**GOOD, "custom_id": 7}), "custom_id must be a string"),
        (json.dumps({**GOOD, "custom_id": ""}), "custom_id must be a string"),
        (json.dumps({**GOOD, "custom_id": "x" * 513}), "custom_id must be a string"),
        (json.dumps({**GOOD, "method": "GET"}), 'method must be "POST"'),
        (json.dumps({**GOOD, "url": None}), "url must be a string"),
        (json.dumps({**GOOD, "body": []}), "body must be an object"),
        (json.dumps({**GOOD, "boddy": {}}), "unknown field 'boddy'"),
        ('{"custom_id": "a", "body": {"x": NaN}}', "not valid JSON"),
        ("[" * 100_000, "nested deeper"),
        (b'{"custom_id": "\xff"}', "not valid JSON"),
    ],
)
def test_what_is_no_request_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_line(line_of(text))


def test_a_misspelt_field_gets_a_hint() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_line(line_of(json.dumps({**GOOD, "boddy": {}})))
    assert refusal.value.hint == "did you mean 'body'?"


def test_blank_lines_are_passed_over_and_counted() -> None:
    lines = list(read_lines(io.BytesIO(b"\n  \na\r\n\nb")))
    assert [(line.number, line.data) for line in lines] == [(3, b"a"), (5, b"b")]


def test_the_end_of_a_line_does_not_change_its_digest() -> None:
    digests = {line_of(text).digest for text in (b"abc", b"abc\n", b"abc\r\n")}
    assert len(digests) == 1
    assert line_of(b"abd").digest not in digests


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(end: bytes) -> None:
    mark = b"\xef\xbb\xbf"
    good = json.dumps(GOOD).encode()
    marked = line_of(mark + good + end)
    assert marked == line_of(good)  # an answer belongs to the line with and without it
    assert parse_line(marked).custom_id == "one"
    assert list(read_lines(io.BytesIO(mark + end))) == []
    for length in range(MAX_LINE_BYTES - 3, MAX_LINE_BYTES + 4):
        long = b"x" * length + end
        is_alike = line_of(mark + long) == line_of(long)
        assert is_alike, length
    [_, second] = read_lines(io.BytesIO(b"a\n" + mark + b"b"))
    assert second.data == mark + b"b"


def test_a_line_too_long_is_read_past_and_refused() -> None:
    long = b'{"custom_id": "a", "x": "' + b"y" * (2 * MAX_LINE_BYTES) + b'"}'
    first, second = read_lines(io.BytesIO(long + b"\nnext\n"))
    assert (first.number, first.data, second.number, second.data) == (1, None, 2, b"next")
    with pytest.raises(InvalidRequest, match="longer than"):
        parse_line(first)
    assert custom_id_of(first) is None
    [other] = read_lines(io.BytesIO(long[:-3] + b'z"}'))
    assert other.digest != first.digest


def test_answers_say_which_line_they_answer() -> None:
    line = line_of(json.dumps(GOOD))
    answer = response_line(line, "one", Response(200, "abc", b'{"choices":[]}'))
    assert answered_line(answer) == (line.number, line.digest)
    fields = json.loads(answer)
    assert list(fields) == ["id", "custom_id", "response", "error"]
    assert fields["response"] == {
        "status_code": 200,
        "request_id": "abc",
        "body": {"choices": []},
    }
    assert fields["error"] is None


def test_error_lines_keep_the_custom_id_where_there_is_one() -> None:
    error = InvalidRequest("no", param="url", hint="do")
    line = line_of(json.dumps({**GOOD, "url": 5}))
    fields = json.loads(error_line(line, error))
    assert (fields["custom_id"], fields["response"]) == ("one", None)
    assert fields["error"] == {
        "code": "invalid_request",
        "message": "no",
        "param": "url",
        "hint": "do",
    }
    assert json.loads(error_line(line_of("nonsense"), error))["custom_id"] is None


def test_an_answer_that_was_laid_out_again_is_still_known() -> None:
    line = line_of("x")
    answer = json.loads(error_line(line, InvalidRequest("no")))
    assert answered_line(json.dumps(answer).encode() + b"\n") == (1, line.digest)


@pytest.mark.parametrize("data", [b"", b"{}\n", b"hello\n", b'{"id":"req_1"}\n', b"\n"])
def test_what_is_no_answer_is_not_taken_for_one(data: bytes) -> None:
    assert answered_line(data) is None


def test_every_beginning_of_an_answer_is_a_torn_one() -> None:
    answer = error_line(line_of("x"), InvalidRequest("no"))
    for length in range(len(answer)):
        assert is_torn_answer(answer[:length])
        assert answered_line(answer[:length]) is None
        assert is_torn_answer(b"\0" * 7 + answer[:length])
    assert not is_torn_answer(b"dear diary")
    assert not is_torn_answer(b"dear diary\n")


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_survey_counts_requests_and_finds_custom_ids_that_come_again(tmp_path: Path) -> None:
    names = ["a", "b", "a", "c", "b", "a"]
    lines = [{**GOOD, "custom_id": name} for name in names]
    path = tmp_path / "in.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\nnonsense\nnonsense\n\n")
    survey = Survey.of(path)
    assert survey.num_requests == 8
    # Only the first of a name may be answered; lines without a name are not alike for that.
    assert np.flatnonzero(survey.repeats).tolist() == [5, 9, 11]
    for line in read_lines(io.BytesIO(path.read_bytes())):
        assert survey.is_line(line.number, line.digest)
        assert not survey.is_line(line.number, line.digest + 1)
        assert not survey.is_line(line.number + 1000, line.digest)


def test_a_survey_of_an_empty_file(tmp_path: Path) -> None:
    survey = Survey.of(write(tmp_path / "in.jsonl"))
    assert survey.num_requests == 0
    assert not survey.repeats.any()


def test_a_survey_keeps_a_few_bytes_of_each_line(tmp_path: Path) -> None:
    count = 8000
    padding = "x" * 500
    path = write(
        tmp_path / "in.jsonl",
        *({**GOOD, "custom_id": f"name {number} {padding}"[:500]} for number in range(count)),
    )
    tracemalloc.start()
    try:
        survey = Survey.of(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert survey.num_requests == count
    assert path.stat().st_size > 4_000_000
    assert peak < 1_000_000


def test_an_input_that_is_none_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(ConfigError, match=message):
            Survey.of(path)
