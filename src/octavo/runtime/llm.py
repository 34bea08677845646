"""The Python front door: ``LLM(model).generate(...)``, ``.chat(...)``, ``.stream(...)``.

Text to ids and ids to text happen here; between the two everything goes through an EngineClient.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from octavo.core.config import EngineConfig
from octavo.core.errors import InvalidRequest, OctavoError
from octavo.core.events import Event
from octavo.core.request import Priority, SamplingParams
from octavo.engine.engine import EngineStats
from octavo.engine.load import load_engine
from octavo.models.folder import resolve
from octavo.runtime.beam_search import BeamOutput, BeamRun, end_tokens
from octavo.runtime.beams import BeamParams, EarlyStopping
from octavo.runtime.client import InProcessClient
from octavo.runtime.model_text import EncodedPrompt, Message, ModelText
from octavo.runtime.outputs import ChoiceDelta, OutputAssembler, RequestOutput
from octavo.runtime.progress import progress_bar

Prompt = str | Sequence[int]


@dataclass(slots=True)
class _Live:
    """A request that somebody waits for."""

    assembler: OutputAssembler
    streams: bool = False
    deltas: deque[ChoiceDelta] = field(default_factory=deque)


class LLM:
    """A model, loaded and ready to answer.

    Args:
        model: a model folder, or a hub id such as ``owner/name`` or ``owner/name@revision``.
        tokenizer: a folder to take the tokeniser from; by default the model's own. None in a
            folder without one: prompts and answers are then token ids only.
        options: the fields of ``octavo.core.config.EngineConfig``; an unknown one is an error.

    Raises:
        ModelError: the folder cannot be used.
        ConfigError: an option is unknown or out of range.

    Not safe for use by several threads at once.
    """

    def __init__(
        self, model: str | Path, *, tokenizer: str | Path | None = None, **options: Any
    ) -> None:
        config = EngineConfig.from_options(options)
        folder = resolve(model, weights=config.weights != "dummy")
        self.text = ModelText(folder, None if tokenizer is None else Path(tokenizer))
        loaded = load_engine(folder, config)
        self.spec = loaded.spec
        self.max_model_len = loaded.max_model_len
        self.num_pages = loaded.num_pages
        self._client = InProcessClient(loaded.engine)
        self._request_numbers = itertools.count()
        self._live: dict[str, _Live] = {}
        self._beam_run: BeamRun | None = None

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Answer prompts (text, or token ids), all at once; outputs in their order.

        Args:
            prompts: one prompt or a list of them.
            params: one for all, or one for each prompt.
            progress: a progress bar on stderr; None shows it on a terminal.

        Raises:
            InvalidRequest: a prompt cannot be served; its index is in the message, and nothing
                was computed. A request that fails later is told by ``RequestOutput.error``.
        """
        encoded = [self.text.encode(prompt) for prompt in _as_list(prompts)]
        return self._answer(encoded, params, priority, tenant, progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_options: Mapping[str, Any] | None = None,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or a list of them, through the model's chat template.

        Raises:
            InvalidRequest: a message that the template does not take.
            ModelError: the model has no chat template.
        """
        one = bool(messages) and isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Sequence[Message]]", [messages] if one else messages)
        encoded = [
            self.text.encode_chat(conversation, tools=tools, **(template_options or {}))
            for conversation in conversations
        ]
        return self._answer(encoded, params, priority, tenant, progress)

    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
    ) -> Iterator[ChoiceDelta]:
        """Answer one prompt or conversation piece by piece; the pieces add up to the answer.

        Several streams may be read in turn. A stream that is closed early aborts its request.

        Raises:
            InvalidRequest: the prompt cannot be served.
            OctavoError: the request failed on the way.
        """
        if prompt and not isinstance(prompt, str) and isinstance(prompt[0], Mapping):
            encoded = self.text.encode_chat(cast("Sequence[Message]", prompt))
        else:
            encoded = self.text.encode(cast("Prompt", prompt))
        assembler = self._submit(encoded, params or SamplingParams(), priority, tenant)
        self._live[assembler.request.request_id].streams = True
        return self._stream(assembler)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        width: int,
        max_tokens: int,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        num_return: int = 1,
        end_token_ids: Sequence[int] | None = None,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
    ) -> list[BeamOutput]:
        """The likeliest sequences that follow each prompt, as far as a beam search finds them.

        Args:
            prompts: one prompt or a list of them.
            end_token_ids: tokens that end a sequence; None: the model's own.
            width, max_tokens, length_penalty, early_stopping, num_return: as in
                ``octavo.runtime.beams.BeamParams``.

        Raises:
            InvalidRequest: a value is out of range, or a prompt cannot be served; its index is in
                the message. A search that fails later is told by ``BeamOutput.error``.
        """
        params = BeamParams(
            width=width,
            max_tokens=max_tokens,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            num_return=num_return,
            end_token_ids=end_tokens(
                end_token_ids,
                of_model=self.text.generation.end_token_ids,
                vocab_size=self.spec.vocab_size,
            ),
        )
        encoded = [self.text.encode(prompt) for prompt in _as_list(prompts)]
        run = self._beam_run = BeamRun(
            params,
            submit=self._client.submit,
            abort=self._client.abort,
            new_request_id=self._new_request_id,
            max_model_len=self.max_model_len,
            priority=priority,
            tenant=tenant,
        )
        try:
            for index, prompt in enumerate(encoded):
                run.start(prompt)
                self._dispatch(self._client.poll())
                if (refusal := run.refusal) is not None:
                    refusal.message = f"prompt {index}: {refusal.message}"
                    raise refusal
            while not run.finished:
                self._pump()
        finally:
            run.close()
            self._beam_run = None
        return run.outputs(self.text.tokenizer)

    def stats(self) -> EngineStats:
        """Counters of the engine: steps, hits, preemptions, seconds by part."""
        return self._client.stats()

    def close(self) -> None:
        """Abort what is running and give everything back."""
        for live in list(self._live.values()):
            self._drop(live.assembler)
        self._client.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Priority,
        tenant: str,
        progress: bool | None,
    ) -> list[RequestOutput]:
        if isinstance(params, SamplingParams) or params is None:
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise InvalidRequest(
                f"{len(params)} sampling parameters for {len(prompts)} prompts",
                param="params",
                hint="pass one for all, or one for each prompt",
            )
        assemblers: list[OutputAssembler] = []
        try:
            for index, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
                try:
                    assemblers.append(self._submit(prompt, one, priority, tenant))
                except OctavoError as error:
                    error.message = f"prompt {index}: {error.message}"
                    raise
            show = sys.stderr.isatty() if progress is None else progress
            with progress_bar(len(assemblers), show=show) as advance:
                while not all(assembler.finished for assembler in assemblers):
                    self._pump()
                    advance(assemblers)
        finally:
            for assembler in assemblers:
                self._drop(assembler)
        return [assembler.output() for assembler in assemblers]

    def _submit(
        self, prompt: EncodedPrompt, params: SamplingParams, priority: Priority, tenant: str
    ) -> OutputAssembler:
        """Hand a request to the engine. Raises what the engine says of one that it refuses."""
        request_id = self._new_request_id()
        assembler = self.text.assembler(
            prompt, params, request_id=request_id, priority=priority, tenant=tenant
        )
        self._live[request_id] = _Live(assembler)
        self._client.submit(assembler.request)
        self._dispatch(self._client.poll())  # a refusal is known at once
        if assembler.error is not None:
            del self._live[request_id]
            raise assembler.error
        return assembler

    def _stream(self, assembler: OutputAssembler) -> Iterator[ChoiceDelta]:
        deltas = self._live[assembler.request.request_id].deltas
        try:
            while deltas or not assembler.finished:
                while deltas:
                    yield deltas.popleft()
                if not assembler.finished:
                    self._pump()
            if assembler.error is not None:
                raise assembler.error
        finally:
            self._drop(assembler)

    def _new_request_id(self) -> str:
        return f"request-{next(self._request_numbers)}"

    def _pump(self) -> None:
        """Let the engine work until something is known, and hand it to whoever waits for it."""
        self._dispatch(self._client.events())

    def _dispatch(self, events: Sequence[Event]) -> None:
        for event in events:
            live = self._live.get(event.request_id)
            if live is None:  # of a beam search, or of a request that was dropped
                if self._beam_run is not None:
                    self._beam_run.apply(event)
                continue
            delta = live.assembler.apply(event)
            if delta is not None and live.streams:
                live.deltas.append(delta)
            for choice in live.assembler.take_aborts():
                self._client.abort(event.request_id, choice)

    def _drop(self, assembler: OutputAssembler) -> None:
        """Nobody waits for this request any more."""
        request_id = assembler.request.request_id
        if self._live.pop(request_id, None) is not None and not assembler.finished:
            self._client.abort(request_id)


def _as_list(prompts: Any) -> list[Prompt]:
    """One prompt becomes a list of one. A series of integers is one prompt of token ids."""
    if isinstance(prompts, str):
        return [prompts]
    try:
        items = list(prompts.tolist() if hasattr(prompts, "tolist") else prompts)
    except TypeError:
        raise InvalidRequest(
            f"prompts must be a string, token ids, or a list of those; got {prompts!r:.80}",
            param="prompts",
        ) from None
    return [items] if items and isinstance(items[0], Integral) else items
