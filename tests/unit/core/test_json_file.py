"""JSON that came with a model: bounds, and what strict refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.core.errors import ModelError
from octavo.core.json_file import parse_json_object, read_json_object


def test_reads_an_object(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"a": [1, 2.5, null], "ä": "€"}', encoding="utf-8")
    assert read_json_object(path) == {"a": [1, 2.5, None], "ä": "€"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"[]", "holds a JSON list"),
        (b"null", "holds a JSON NoneType"),
        (b'"a"', "holds a JSON str"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b'{"a": "\xe4"}', "not UTF-8 at byte 7"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"a":' * 100_000, "JSON nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_refuses(data: bytes, says: str, strict: bool) -> None:
    with pytest.raises(ModelError, match=f"^here: {says}") as error:
        parse_json_object(data, "here", strict=strict)
    assert error.value.hint
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "data", [b'{"a": 1, "a": 2}', b'{"b": {"a": 1, "a": 2}}', b'{"a": NaN}', b'{"a": -Infinity}',
             b"\xef\xbb\xbf{}"]
)  # fmt: skip
def test_only_strict_refuses(data: bytes) -> None:
    parse_json_object(data, "here")
    with pytest.raises(ModelError, match=r"^here: not valid JSON"):
        parse_json_object(data, "here", strict=True)


def test_bound_on_size(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"a": 1}')
    assert read_json_object(path, max_bytes=8) == {"a": 1}
    with pytest.raises(ModelError, match="larger than 7 bytes"):
        read_json_object(path, max_bytes=7)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"x\.json: cannot be read: No such file"):
        read_json_object(tmp_path / "x.json")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        read_json_object(tmp_path)
