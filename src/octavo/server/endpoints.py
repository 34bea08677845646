"""``/v1/completions``, ``/v1/chat/completions`` and ``/v1/models``: bodies in, answers out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from starlette.types import Receive, Scope, Send

from octavo.core.clock import Clock
from octavo.core.request import SamplingParams
from octavo.runtime.model_text import EncodedPrompt
from octavo.server.body import Readings, parse_object, read_body
from octavo.server.formats import AnswerFormat, ChatFormat, CompletionFormat, Format
from octavo.server.generation import Generation
from octavo.server.metrics import Pace, ServerMetrics
from octavo.server.models import Models, ServedModel
from octavo.server.record import RequestRecord
from octavo.server.respond import Responder, responder_of, while_connected
from octavo.server.sampling import chat_params, completion_params
from octavo.server.schema import SamplingBody, parse_chat, parse_completion
from octavo.server.settings import ServerSettings
from octavo.text.chat_messages import MAX_MESSAGES


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoints work with."""

    models: Models
    settings: ServerSettings
    metrics: ServerMetrics
    clock: Clock
    wall_clock: Callable[[], float]
    readings: Readings


@dataclass(frozen=True, slots=True)
class Job:
    """A request that was understood."""

    model: ServedModel
    prompts: Sequence[EncodedPrompt]
    params: SamplingParams
    streams: bool
    format: Format


class CompletionEndpoint:
    """``POST /v1/completions``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _serve(self._service, self._understand, scope, receive)

    async def _understand(self, raw: bytes, record: RequestRecord) -> Job:
        service = self._service
        body = parse_completion(parse_object(raw, max_depth=service.settings.max_json_depth))
        model = _find(service, body, record)
        params = completion_params(
            body, defaults=_defaults(service, model), vocab_size=model.vocab_size
        )
        prompts = await model.encode_prompts(
            body.prompt,
            max_prompts=service.settings.max_prompts,
            n=params.n,
            max_choices=service.settings.max_choices,
        )
        shared = _answer_format(service, model, body, params, f"cmpl-{record.request_id}")
        form = CompletionFormat(
            shared, prompts=prompts, num_top=body.logprobs, echo=bool(body.echo)
        )
        return Job(model, prompts, params, bool(body.stream), form)


class ChatEndpoint:
    """``POST /v1/chat/completions``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _serve(self._service, self._understand, scope, receive)

    async def _understand(self, raw: bytes, record: RequestRecord) -> Job:
        service = self._service
        fields = parse_object(raw, max_depth=service.settings.max_json_depth)
        body = parse_chat(fields, max_messages=MAX_MESSAGES)
        model = _find(service, body, record)
        prompt = await model.encode_chat(body)
        params = chat_params(
            body,
            defaults=_defaults(service, model),
            vocab_size=model.vocab_size,
            room=model.room(len(prompt.token_ids)),
        )
        shared = _answer_format(service, model, body, params, f"chatcmpl-{record.request_id}")
        form = ChatFormat(shared, logprobs=bool(body.logprobs))
        return Job(model, [prompt], params, bool(body.stream), form)


class ModelsEndpoint:
    """``GET /v1/models`` and ``GET /v1/models/NAME``; names may have slashes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = self._service.models
        name: str | None = scope["path_params"].get("name")
        body: object
        if name is None:
            body = {"object": "list", "data": [_model_card(model) for model in models.values()]}
        else:
            body = _model_card(models.find(name))
        await responder_of(scope).whole(200, msgspec.json.encode(body))


Understand = Callable[[bytes, RequestRecord], Awaitable[Job]]


async def _serve(service: Service, understand: Understand, scope: Scope, receive: Receive) -> None:
    settings = service.settings
    raw = await read_body(
        scope,
        receive,
        max_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
        readings=service.readings,
    )
    responder = responder_of(scope)
    record = responder.record

    async def answer() -> None:
        job = await understand(raw, record)
        record.streams = job.streams
        pace = service.metrics.of(job.model.name).pace(record.started_s, service.clock)
        async with Generation(job.model, job.prompts, job.params, record.request_id) as generation:
            try:
                if job.streams:
                    await _stream(job.format, generation, responder, pace)
                else:
                    await _whole(job.format, generation, responder, pace)
            finally:
                record.usage = generation.usage()

    await while_connected(receive, record, answer())


async def _whole(form: Format, generation: Generation, responder: Responder, pace: Pace) -> None:
    async for index, _ in generation.deltas():
        pace.tick(index)
    await responder.whole(200, form.whole(generation.so_far(), generation.usage()))


async def _stream(form: Format, generation: Generation, responder: Responder, pace: Pace) -> None:
    async for index, delta in generation.deltas():
        if not responder.has_begun:  # not before: what is refused gets a status of its own
            await responder.begin_stream()
        pace.tick(index)
        events = form.chunk(index, delta, generation.so_far)
        if events:
            await responder.events(events)
    await responder.end_stream(form.last_events(generation.usage()))


def _find(service: Service, body: SamplingBody, record: RequestRecord) -> ServedModel:
    model = service.models.find(body.model)
    record.model = model.name
    return model


def _defaults(service: Service, model: ServedModel) -> Mapping[str, float]:
    """Sampling values for what a request leaves open."""
    if service.settings.sampling_defaults == "openai":
        return {}
    generation = model.client.text.generation
    greedy = {"temperature": 0.0} if generation.do_sample is False else {}
    return {**generation.sampling, **greedy}


def _answer_format(
    service: Service,
    model: ServedModel,
    body: SamplingBody,
    params: SamplingParams,
    answer_id: str,
) -> AnswerFormat:
    return AnswerFormat(
        answer_id=answer_id,
        created_s=int(service.wall_clock()),
        model=model.name,
        texts=model.token_texts,
        n=params.n,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        token_ids=bool(body.return_token_ids),
    )


def _model_card(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "octavo",
        "max_model_len": model.client.max_model_len,
    }
