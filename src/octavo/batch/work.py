"""Working through a batch: a window of requests under way, each line answered once.

What is kept in memory is the window and a few bytes a line, however long the file is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from octavo.batch.lines import (
    InputLine,
    Survey,
    error_line,
    open_input,
    parse_line,
    read_lines,
    response_line,
)
from octavo.batch.local_server import LocalServer, Response
from octavo.batch.output import OutputFile
from octavo.core.errors import ConfigError, InvalidRequest


@dataclass(slots=True)
class Tally:
    """What this run has written by now."""

    succeeded: int = 0
    failed: int = 0
    """Refused requests and lines that are no requests; they are answered too."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def answered(self) -> int:
        return self.succeeded + self.failed

    def count(self, response: Response | None) -> None:
        """An answer, with the server's response where it had one."""
        if response is None or not response.is_success:
            self.failed += 1
            return
        usage = _usage_decoder.decode(response.body).usage
        self.succeeded += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.prompt_tokens_details.cached_tokens
        self.completion_tokens += usage.completion_tokens


@dataclass(frozen=True, slots=True)
class _Answer:
    """A line on its way to the output."""

    line: bytes
    response: Response | None


class BatchWork:
    """One run over an input file.

    Args:
        survey: of the input, made before.
        output: of the same input.
        limit: only the first so many requests of the input; None: all.
        in_flight: requests under way at the most; with ``ordered``, those that wait for their
            turn in the output are among them.
        ordered: answers come in the order of the input, not in that of their completion.
        progress: called after every answer.
        tally: is kept up to date.
    """

    def __init__(
        self,
        server: LocalServer,
        survey: Survey,
        output: OutputFile,
        *,
        limit: int | None,
        in_flight: int,
        ordered: bool,
        progress: Callable[[], None],
        tally: Tally,
    ) -> None:
        self._tally = tally
        self._server = server
        self._survey = survey
        self._output = output
        self._limit = limit
        self._ordered = ordered
        self._progress = progress
        self._room = asyncio.Semaphore(in_flight)
        self._held: dict[int, _Answer] = {}
        self._next_turn = 0

    async def run(self) -> None:
        """Answer what is not answered yet. Who cancels this is told so, whatever fails on the way.

        Raises:
            ConfigError: the input was changed meanwhile.
            EngineDead: the engine is gone. What was answered before is in the output.
            OSError: the output cannot be written.
        """
        try:
            async with asyncio.TaskGroup() as group:
                await self._start_all(group)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _start_all(self, group: asyncio.TaskGroup) -> None:
        turn = 0
        with open_input(self._survey.path) as file:
            for count, line in enumerate(read_lines(file)):
                if self._limit is not None and count >= self._limit:
                    return
                if not self._survey.is_line(line.number, line.digest):
                    raise ConfigError(
                        f"{self._survey.path}: line {line.number} was changed meanwhile",
                        hint="start again when the file is complete",
                    )
                if self._output.is_answered[line.number]:
                    continue
                await self._room.acquire()
                group.create_task(self._answer(line, turn))
                turn += 1

    async def _answer(self, line: InputLine, turn: int) -> None:
        try:
            request = parse_line(line)
            if self._survey.repeats[line.number]:
                raise InvalidRequest(
                    f"an earlier line has the custom_id {request.custom_id!r} too",
                    param="custom_id",
                    hint="each line needs a custom_id of its own",
                )
        except InvalidRequest as error:
            self._take(_Answer(error_line(line, error), None), turn)
            return
        try:
            response = await self._server.post(request.url, request.body)
        except Exception:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # it fails because it was cancelled
                raise asyncio.CancelledError from None
            raise
        self._take(_Answer(response_line(line, request.custom_id, response), response), turn)

    def _take(self, answer: _Answer, turn: int) -> None:
        if not self._ordered:
            self._write(answer)
            return
        self._held[turn] = answer
        while self._next_turn in self._held:
            self._write(self._held.pop(self._next_turn))
            self._next_turn += 1

    def _write(self, answer: _Answer) -> None:
        self._output.append(answer.line)
        self._tally.count(answer.response)
        self._room.release()
        self._progress()


class _PromptDetails(msgspec.Struct):
    cached_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails


class _OnlyUsage(msgspec.Struct):
    usage: _Usage


_usage_decoder = msgspec.json.Decoder(_OnlyUsage)
