"""The Python front door: ``LLM(model).generate(...)``, ``.chat(...)``, ``.stream(...)``.

Prompts become requests here, and answers come back; text is in ``model_text`` and ``outputs``, and
between the two everything goes through an EngineClient.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

from octavo.core.checks import shown
from octavo.core.config import EngineConfig
from octavo.core.errors import EngineDead, InvalidRequest, OctavoError, Overloaded
from octavo.core.kv_layout import answer_room
from octavo.core.request import Priority, SamplingParams
from octavo.engine.engine import EngineStats
from octavo.engine.load import load_engine
from octavo.models.builtin import BUILTIN
from octavo.models.folder import resolve
from octavo.runtime.beam_search import BeamOutput, BeamRun, end_tokens
from octavo.runtime.beams import BeamParams, EarlyStopping
from octavo.runtime.client import InProcessClient
from octavo.runtime.model_text import EncodedPrompt, Message, ModelText
from octavo.runtime.outputs import OutputAssembler, RequestOutput
from octavo.runtime.progress import progress_bar
from octavo.runtime.readers import AnswerStream, Collector, StreamReader, Work
from octavo.runtime.routes import Routes
from octavo.runtime.turn import Turn

Prompt = str | Sequence[int]


class LLM:
    """A model, loaded and ready to answer.

    Args:
        model: a model folder, or a hub id such as ``owner/name`` or ``owner/name@revision``; by
            default the model that comes with the package.
        tokenizer: a folder to take the tokeniser from; by default the model's own. None in a
            folder without one: prompts and answers are then token ids only.
        options: the fields of ``octavo.core.config.EngineConfig``; an unknown one is an error.

    Raises:
        ModelError: the folder cannot be used.
        ConfigError: an option is unknown or out of range.

    One thread at a time may use it, in the process that made it; ``AsyncClient`` serves many.
    """

    def __init__(
        self,
        model: str | Path = BUILTIN,
        *,
        tokenizer: str | Path | None = None,
        **options: Any,
    ) -> None:
        config = EngineConfig.from_options(options)
        folder = resolve(model, weights=config.load_format != "dummy")
        self.text = ModelText.load(folder, tokenizer)
        loaded = load_engine(folder, config)
        self.spec = loaded.spec
        self.max_model_len = loaded.max_model_len
        self.num_pages = loaded.num_pages
        self._client = InProcessClient(loaded.engine)
        self._turn = Turn()
        """For whole calls: those of the client come between each other."""
        self._request_numbers = itertools.count()
        self._routes = Routes(self._client.submit, self._client.abort)

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
            params: one for all, or one for each prompt; None: ``sampling_params()``.
            progress: a progress bar on stderr; None shows it on a terminal.

        Raises:
            InvalidRequest: a prompt cannot be served; its index is in the message, and nothing
                was computed. A request that fails later is told by ``RequestOutput.error``.
        """
        return self._answer(self._encode_all(prompts), params, priority, tenant, progress)

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

        Args:
            params: as in ``generate``; None: ``sampling_params()``, until the answer ends or the
                context is full.

        Raises:
            InvalidRequest: a message that the template does not take.
            ModelError: the model has no chat template.
        """
        conversations = [messages] if _is_conversation(messages) else messages
        if not isinstance(conversations, list | tuple):
            raise InvalidRequest(
                f"messages must be a list, got {shown(messages)}",
                param="messages",
                hint='one conversation looks like [{"role": "user", "content": "Hi"}]',
            )
        encoded: list[EncodedPrompt] = []
        for index, conversation in enumerate(conversations):
            with _about_prompt(index):
                encoded.append(self._encode_chat(conversation, tools, template_options))
        if params is None:
            params = [self._to_its_end(prompt) for prompt in encoded]
        return self._answer(encoded, params, priority, tenant, progress)

    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        priority: Priority = Priority.STANDARD,
        tenant: str = "",
    ) -> AnswerStream:
        """Answer one prompt or conversation piece by piece; the pieces add up to the answer.

        The request is on its way at once. Several streams may be read in turn. A stream that is
        closed early, or that nobody holds any more, aborts its request.

        Raises:
            InvalidRequest: the prompt cannot be served.
        Reading raises OctavoError when the request fails on the way.
        """
        if _is_conversation(prompt):
            encoded = self._encode_chat(cast("Sequence[Message]", prompt))
            suggested = self._to_its_end(encoded)
        else:
            encoded = self.text.encode(cast("Prompt", prompt))
            suggested = self.sampling_params()
        wanted = suggested if params is None else _checked(params)
        assembler = self._assembler(encoded, wanted, priority, tenant)
        reader = StreamReader(assembler)
        # Until there is something that can be let go of.
        with self._client.interrupts.held(), self._turn:
            self._open(assembler, reader)
            return AnswerStream(reader, pump=self._pump, routes=self._routes)

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
        encoded = self._encode_all(prompts)
        run = BeamRun(
            params,
            routes=self._routes,
            new_request_id=self._new_request_id,
            max_model_len=self.max_model_len,
            priority=priority,
            tenant=tenant,
        )
        interrupts = self._client.interrupts
        with interrupts.held(), self._turn:  # to the end: what was begun is closed, whatever comes
            try:
                for index, prompt in enumerate(encoded):
                    with _about_prompt(index):
                        run.start(prompt)
                        self._routes.dispatch(self._client.poll())
                        if run.refusal is not None:
                            raise run.refusal
                    interrupts.deliver()
                while not run.finished:
                    self._step()
            finally:
                run.close()
        return run.outputs(self.text.tokenizer)

    def sampling_params(self, **values: Any) -> SamplingParams:
        """As the model's makers suggest in generation_config.json, but for the values given.

        Fields that neither names are as in ``SamplingParams``.

        Raises:
            InvalidRequest: there is no such parameter, or a value is out of its range.
        """
        return self.text.generation.params(**values)

    def stats(self) -> EngineStats:
        """Counters of the engine: steps, hits, preemptions, seconds by part."""
        with self._client.interrupts.held(), self._turn:
            self._routes.close_abandoned()  # does not count
            return self._client.stats()

    def close(self) -> None:
        """Stop; what is not finished fails. Nothing can be asked afterwards."""
        with self._client.interrupts.held(), self._turn:
            self._client.close()
            self._routes.fail_all(EngineDead("the model was closed", hint="make a new one"))

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an LLM cannot be copied or sent to another process: make one there")

    def _encode_all(self, prompts: Prompt | Sequence[Prompt]) -> list[EncodedPrompt]:
        encoded: list[EncodedPrompt] = []
        for index, prompt in enumerate(_as_list(prompts)):
            with _about_prompt(index):
                encoded.append(self.text.encode(prompt))
        return encoded

    def _encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> EncodedPrompt:
        if options is not None and not isinstance(options, Mapping):
            raise InvalidRequest("template_options must map names to values")
        return self.text.encode_chat(messages, {"tools": tools, **(options or {})})

    def _to_its_end(self, prompt: EncodedPrompt) -> SamplingParams:
        """As suggested, and as many tokens as there is room for."""
        room = answer_room(
            len(prompt.token_ids), max_model_len=self.max_model_len, num_pages=self.num_pages
        )
        return self.sampling_params(max_tokens=max(1, room))

    def _answer(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Priority,
        tenant: str,
        progress: bool | None,
    ) -> list[RequestOutput]:
        params_of = _params_of(self.sampling_params() if params is None else params, len(prompts))
        work = Work()
        collectors: list[Collector] = []
        show = sys.stderr.isatty() if progress is None else progress
        interrupts = self._client.interrupts
        with interrupts.held(), self._turn:  # to the end: what was begun is closed, whatever comes
            try:
                with progress_bar(work, len(prompts), show=show) as advance:
                    for index, (prompt, one) in enumerate(zip(prompts, params_of, strict=True)):
                        with _about_prompt(index):
                            collectors.append(self._collect(prompt, one, priority, tenant, work))
                        interrupts.deliver()
                    while work.num_finished < len(collectors):
                        self._step()
                        advance()
            finally:
                for collector in collectors:
                    self._routes.close(collector.assembler.request.request_id)
        return [collector.assembler.output() for collector in collectors]

    def _collect(
        self,
        prompt: EncodedPrompt,
        params: SamplingParams,
        priority: Priority,
        tenant: str,
        work: Work,
    ) -> Collector:
        """Submit a request of a batch; where the queue is full, work until it has room."""
        while True:
            collector = Collector(self._assembler(prompt, params, priority, tenant), work)
            try:
                self._open(collector.assembler, collector)
            except Overloaded:
                work.num_finished -= 1  # it was not taken; others may have finished meanwhile
                if not self._routes:
                    raise
                self._step()
            else:
                return collector

    def _assembler(
        self, prompt: EncodedPrompt, params: SamplingParams, priority: Priority, tenant: str
    ) -> OutputAssembler:
        return self.text.assembler(
            prompt, params, request_id=self._new_request_id(), priority=priority, tenant=tenant
        )

    def _open(self, assembler: OutputAssembler, reader: Collector | StreamReader) -> None:
        """Hand a request to the engine. Raises what the engine says of one that it refuses."""
        self._routes.open(assembler.request, reader)
        self._routes.dispatch(self._client.poll())  # a refusal is known at once
        if assembler.error is not None:
            raise assembler.error

    def _pump(self) -> None:
        """Let the engine work until something is known, and hand it to whoever waits for it."""
        with self._client.interrupts.held(), self._turn:  # half a message is worth nothing
            self._routes.close_abandoned()  # need not be computed
            self._step()

    def _step(self) -> None:
        """As ``_pump``, many times over: within a block that holds interrupts, which come now."""
        events = self._client.events()
        assert events or not self._routes, "requests are open, and the engine has nothing to do"
        self._routes.dispatch(events)
        self._client.interrupts.deliver()

    def _new_request_id(self) -> str:
        return f"request-{next(self._request_numbers)}"


@contextmanager
def _about_prompt(index: int) -> Iterator[None]:
    """Errors in here name the prompt."""
    try:
        yield
    except OctavoError as error:
        error.message = f"prompt {index}: {error.message}"
        raise


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)


def _as_list(prompts: Any) -> list[Prompt]:
    """One prompt becomes a list of one. A series of integers is one prompt of token ids."""
    if isinstance(prompts, str):
        return [prompts]
    try:
        if isinstance(prompts, bytes | bytearray | memoryview | Mapping | Set):
            raise TypeError
        items = list(prompts.tolist() if hasattr(prompts, "tolist") else prompts)
    except TypeError:
        raise InvalidRequest(
            f"prompts must be a string, token ids, or a list of those; got {shown(prompts)}",
            param="prompts",
        ) from None
    return [items] if items and isinstance(items[0], Integral) else items


def _params_of(params: Any, num_prompts: int) -> list[SamplingParams]:
    """One for each prompt."""
    if not isinstance(params, list | tuple):
        return [_checked(params)] * num_prompts
    if len(params) != num_prompts:
        raise InvalidRequest(
            f"{len(params)} sampling parameters for {num_prompts} prompts",
            param="params",
            hint="pass one for all, or one for each prompt",
        )
    return [_checked(one) for one in params]


def _checked(params: Any) -> SamplingParams:
    if isinstance(params, SamplingParams):
        return params
    raise InvalidRequest(
        f"params must be SamplingParams, got {shown(params)}",
        param="params",
        hint="SamplingParams(max_tokens=..., temperature=...)",
    )
