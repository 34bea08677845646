"""The input of a batch: JSON lines, one request each, and the lines of the output.

Nothing is answered here. A line is known by its number and by a digest of its bytes, so that an
answer found in an output file can be told to belong to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.batch.local_server import Response
from octavo.core.errors import ConfigError, InvalidRequest, OctavoError, did_you_mean
from octavo.server.body import parse_object

MAX_LINE_BYTES = 2 * 2**20
MAX_DEPTH = 64
MAX_CUSTOM_ID_CHARACTERS = 512
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELDS = ("custom_id", "method", "url", "body")
_ANSWER_ID = re.compile(rb'\{\s*"id"\s*:\s*"batch_req_([0-9]{1,18})_([0-9a-f]{16})"')
_ANSWER_BEGINNING = b'{"id":"batch_req_'


@dataclass(frozen=True, slots=True)
class InputLine:
    """A line that is not blank."""

    number: int
    """From 1, blank lines counted."""
    data: bytes | None
    """Without the end of the line; None where it is longer than a request may be."""
    digest: int
    """64 bits of all its bytes, but for its end and a byte order mark."""

    @property
    def answer_id(self) -> str:
        """The id of its answer; the same whenever it is given."""
        return f"batch_req_{self.number}_{self.digest:016x}"


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What a line asks for."""

    custom_id: str
    url: str
    body: dict[str, Any]


def read_lines(file: BinaryIO) -> Iterator[InputLine]:
    """The lines that are not blank, one at a time; a line too long is read past, not kept."""
    number = 0
    while data := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if number == 1 and data.startswith(_BYTE_ORDER_MARK):  # belongs to the file, not the line
            data = data.removeprefix(_BYTE_ORDER_MARK)
            if not data.endswith(b"\n"):
                data += file.readline(len(_BYTE_ORDER_MARK))
        digest = hashlib.blake2b(digest_size=8)
        is_whole = data.endswith(b"\n") or len(data) <= MAX_LINE_BYTES
        part = data
        while part and not part.endswith(b"\n"):
            digest.update(part)
            part = file.readline(MAX_LINE_BYTES)
        digest.update(part.rstrip(b"\r\n"))
        if is_whole and not data.strip():
            continue
        yield InputLine(
            number,
            data.rstrip(b"\r\n") if is_whole else None,
            int.from_bytes(digest.digest(), "big"),
        )


def parse_line(line: InputLine) -> BatchRequest:
    """The request of a line.

    Raises:
        InvalidRequest: it is none; the message says why.
    """
    if line.data is None:
        raise InvalidRequest(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        fields = parse_object(line.data, max_depth=MAX_DEPTH)
    except InvalidRequest as error:
        error.message = error.message.replace("the body", "the line", 1)
        raise
    for name in fields:
        if name not in _FIELDS:
            hint = did_you_mean(name, _FIELDS) or f"a line has {', '.join(_FIELDS)}"
            raise InvalidRequest(f"unknown field {name[:80]!r}", param=name[:80], hint=hint)
    custom_id = custom_id_of(line)
    if custom_id is None:
        raise InvalidRequest(
            f"custom_id must be a string of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters",
            param="custom_id",
        )
    if fields.get("method", "POST") != "POST":
        raise InvalidRequest('method must be "POST"', param="method")
    url, body = fields.get("url"), fields.get("body")
    if not isinstance(url, str):
        raise InvalidRequest("url must be a string", param="url")
    if not isinstance(body, dict):
        raise InvalidRequest("body must be an object", param="body")
    return BatchRequest(custom_id, url, body)


class _OnlyCustomId(msgspec.Struct):
    custom_id: str


_custom_id_decoder = msgspec.json.Decoder(_OnlyCustomId)


def custom_id_of(line: InputLine) -> str | None:
    """The name that the caller gave the line; None where there is no valid one."""
    if line.data is None:
        return None
    try:
        custom_id = _custom_id_decoder.decode(line.data).custom_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return custom_id if 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS else None


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What one pass over an input file tells: 9 bytes a line, whatever the lines hold."""

    path: Path
    num_requests: int
    """Lines that are not blank."""
    digests: NDArray[np.uint64]
    """By line number; a blank line's is 0, and so is that of line 0, which there is not."""
    repeats: NDArray[np.bool_]
    """By line number: whether an earlier line has the same custom_id."""

    @classmethod
    def of(cls, path: Path) -> Survey:
        """Read an input file from its beginning to its end.

        Raises:
            ConfigError: the file cannot be read.
        """
        lines = _Columns()
        with open_input(path) as file:
            for line in read_lines(file):
                lines.add(line)
        return cls(path, lines.num_requests, lines.digests(), lines.repeats())

    def num_answered(self, is_answered: NDArray[np.bool_], limit: int) -> int:
        """How many of the first ``limit`` requests are answered."""
        return int(is_answered[np.flatnonzero(self.digests)[:limit]].sum())

    def is_line(self, number: int, digest: int) -> bool:
        """Whether that line of the file has this digest."""
        return number < len(self.digests) and int(self.digests[number]) == digest


class _Columns:
    """The numbers of a survey while they grow."""

    def __init__(self) -> None:
        self.num_requests = 0
        self._digests = np.zeros(1024, np.uint64)
        self._names = np.zeros(1024, np.uint64)
        self._end = 1

    def add(self, line: InputLine) -> None:
        if line.number >= len(self._digests):
            more = np.zeros(max(line.number + 1, len(self._digests)), np.uint64)
            self._digests = np.concatenate([self._digests, more])
            self._names = np.concatenate([self._names, more])
        self._digests[line.number] = line.digest
        custom_id = custom_id_of(line)
        if custom_id is not None:
            name = hashlib.blake2b(custom_id.encode(), digest_size=8).digest()
            self._names[line.number] = int.from_bytes(name, "big")
        self._end = line.number + 1
        self.num_requests += 1

    def digests(self) -> NDArray[np.uint64]:
        return self._digests[: self._end].copy()

    def repeats(self) -> NDArray[np.bool_]:
        names = self._names[: self._end]
        order = np.argsort(names, kind="stable")
        named = names[order]
        result = np.zeros(self._end, np.bool_)
        result[order[1:]] = (named[1:] == named[:-1]) & (named[1:] != 0)
        return result


def open_input(path: Path) -> BinaryIO:
    """Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file" if not path.exists() else f"{path}: not a regular file",
            hint="the input is a file of JSON lines, one request each",
        )
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _LineError(msgspec.Struct, frozen=True, omit_defaults=True):
    code: str
    message: str
    param: str | None = None
    hint: str | None = None


class _AnswerLine(msgspec.Struct, frozen=True):
    id: str
    custom_id: str | None
    response: _Response | None
    error: _LineError | None


_encoder = msgspec.json.Encoder()


def response_line(line: InputLine, custom_id: str, response: Response) -> bytes:
    """The answer to a request: what the server would have answered, a refusal too."""
    inner = _Response(response.status, response.request_id, msgspec.Raw(response.body))
    return _encoder.encode(_AnswerLine(line.answer_id, custom_id, inner, None)) + b"\n"


def error_line(line: InputLine, error: OctavoError) -> bytes:
    """The answer to a line that is no request."""
    param: str | None = getattr(error, "param", None)
    inner = _LineError(error.code, error.message, param, error.hint)
    return _encoder.encode(_AnswerLine(line.answer_id, custom_id_of(line), None, inner)) + b"\n"


def answered_line(data: bytes) -> tuple[int, int] | None:
    """Number and digest of the input line that a line of an output file answers; None where it
    is no answer, or not all of one."""
    match = _ANSWER_ID.match(data)
    if match is None or not data.endswith(b"}\n"):
        return None
    return int(match[1]), int(match[2], 16)


def is_torn_answer(data: bytes) -> bool:
    """Whether the end of a file may be what is left of an answer that was being written."""
    if data.endswith(b"\n"):
        return False
    beginning = data.lstrip(b"\0")  # what a power cut leaves of a block that was never written
    length = min(len(beginning), len(_ANSWER_BEGINNING))
    return beginning[:length] == _ANSWER_BEGINNING[:length]
