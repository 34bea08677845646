"""The answers to one HTTP request: one for each prompt, their choices numbered throughout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from octavo.core.errors import RequestFailed
from octavo.core.events import FinishReason, Usage
from octavo.core.request import SamplingParams
from octavo.runtime.async_client import Answer
from octavo.runtime.model_text import EncodedPrompt
from octavo.runtime.outputs import ChoiceDelta, RequestOutput
from octavo.server.models import ServedModel

Delta = tuple[int, ChoiceDelta]
"""The number of a choice among all choices of the HTTP request, and what is new in it."""


class Generation:
    """Answers on their way. Leaving ``async with`` aborts what is not finished.

    Raises:
        EngineDead, InvalidRequest: as ``AsyncClient.start``.
    """

    def __init__(
        self,
        model: ServedModel,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        request_id: str,
    ) -> None:
        self.prompts = prompts
        self.params = params
        # Where one cannot be started, neither can the first: nothing is left behind.
        self._answers = [
            model.client.start(prompt, params, request_id=f"{request_id}-{index}")
            for index, prompt in enumerate(prompts)
        ]

    async def deltas(self) -> AsyncIterator[Delta]:
        """What is new, as it comes. Raises what an answer raises."""
        merged = _alone(self._answers[0]) if len(self._answers) == 1 else self._merged()
        async for index, delta in merged:
            if delta.finish_reason is FinishReason.ABORT:
                raise RequestFailed("the answer was cut off by the engine")
            yield index, delta

    async def outputs(self) -> list[RequestOutput]:
        """Everything, once it is finished. Raises what an answer raises."""
        async for _ in self.deltas():
            pass
        return self.so_far()

    def so_far(self) -> list[RequestOutput]:
        """Everything known by now, an output for each prompt."""
        return [answer.so_far() for answer in self._answers]

    def usage(self) -> Usage:
        """Of all prompts and choices, by now."""
        usages = [output.usage for output in self.so_far()]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
        )

    async def aclose(self) -> None:
        """Nobody reads it any more."""
        for answer in self._answers:
            await answer.aclose()

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _merged(self) -> AsyncIterator[Delta]:
        news: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()

        async def pump(first_choice: int, answer: Answer) -> None:
            try:
                async for delta in answer:
                    news.put_nowait((first_choice + delta.choice, delta))
                news.put_nowait(None)
            except Exception as error:
                news.put_nowait(error)

        tasks = [
            asyncio.create_task(pump(index * self.params.n, answer))
            for index, answer in enumerate(self._answers)
        ]
        try:
            num_open = len(tasks)
            while num_open:
                item = await news.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    num_open -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _alone(answer: Answer) -> AsyncIterator[Delta]:
    async for delta in answer:
        yield delta.choice, delta
