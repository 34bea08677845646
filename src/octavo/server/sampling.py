"""From the fields of a body to ``SamplingParams``: defaults, names, ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from octavo.core.errors import InvalidRequest
from octavo.core.request import MAX_LOGIT_BIAS, MAX_LOGPROBS, NUM_SEEDS, SamplingParams
from octavo.server.schema import ChatBody, CompletionBody, SamplingBody

COMPLETION_MAX_TOKENS = 16
_TOKEN_ID = re.compile("0|[1-9][0-9]{0,18}")  # one way to write each
_COPIED = (
    "temperature",
    "top_p",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "include_stop",
)
_COPIED_LISTS = ("stop_token_ids", "bad_words", "allowed_token_ids")


def completion_params(
    body: CompletionBody, *, defaults: Mapping[str, float], vocab_size: int
) -> SamplingParams:
    """Raises InvalidRequest, naming the field."""
    logprobs = {} if body.logprobs is None else {"logprobs": body.logprobs}
    if body.echo and body.logprobs is not None:
        logprobs["prompt_logprobs"] = body.logprobs
    max_tokens = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return _params(body, defaults, vocab_size, max_tokens=max_tokens, **logprobs)


def chat_params(
    body: ChatBody, *, defaults: Mapping[str, float], vocab_size: int, room: int
) -> SamplingParams:
    """``room``: tokens that an answer may have where the body does not say. Raises
    InvalidRequest, naming the field."""
    if body.max_completion_tokens is not None and body.max_tokens is not None:
        raise InvalidRequest(
            "max_tokens and max_completion_tokens are the same",
            param="max_tokens",
            hint="send only max_completion_tokens",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= MAX_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs must be an integer in [0, {MAX_LOGPROBS}], got {body.top_logprobs}",
            param="top_logprobs",
        )
    logprobs = {"logprobs": body.top_logprobs or 0} if body.logprobs else {}
    max_tokens, name = body.max_tokens, "max_tokens"
    if body.max_completion_tokens is not None:
        max_tokens, name = body.max_completion_tokens, "max_completion_tokens"
    if max_tokens is None:
        max_tokens = max(room, body.min_tokens or 0, 1)
    try:
        return _params(body, defaults, vocab_size, max_tokens=max_tokens, **logprobs)
    except InvalidRequest as error:
        if error.param != "max_tokens":
            raise
        message = error.message.replace("max_tokens", name)
        raise InvalidRequest(message, param=name, hint=error.hint) from None


def _params(
    body: SamplingBody, defaults: Mapping[str, float], vocab_size: int, **fields: Any
) -> SamplingParams:
    fields = {**defaults, **fields}
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        raise InvalidRequest(
            "stream_options.include_obfuscation is not supported: chunks are not padded",
            param="stream_options.include_obfuscation",
        )
    for name in _COPIED:
        value = getattr(body, name)
        if value is not None:
            fields[name] = value
    for name in _COPIED_LISTS:
        value = getattr(body, name)
        if value is not None:
            fields[name] = value
            _check_ids(name, [i for item in value for i in _flat(item)], vocab_size)
    if body.stop is not None:
        fields["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.seed is not None:
        fields["seed"] = _seed(body.seed)
    if body.logit_bias is not None:
        fields["logit_bias"] = _logit_bias(body.logit_bias, vocab_size)
    return SamplingParams(**fields)


def _flat(item: int | list[int]) -> list[int]:
    return item if isinstance(item, list) else [item]


def _seed(seed: int) -> int:
    """The OpenAI API has signed seeds of 64 bits; ours have no sign."""
    if not -NUM_SEEDS <= seed < NUM_SEEDS:
        raise InvalidRequest("seed must be an integer of 64 bits", param="seed")
    return seed % NUM_SEEDS


def _logit_bias(given: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    if len(given) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias takes at most {MAX_LOGIT_BIAS} entries, got {len(given)}",
            param="logit_bias",
        )
    biases: dict[int, float] = {}
    for key, bias in given.items():
        if not _TOKEN_ID.fullmatch(key):
            raise InvalidRequest(
                f"logit_bias: {key[:40]!r} is not a token id",
                param="logit_bias",
                hint='keys are token ids in strings, such as "50256"',
            )
        biases[int(key)] = bias
    _check_ids("logit_bias", list(biases), vocab_size)
    return biases


def _check_ids(name: str, token_ids: list[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"{name}: token id {token_id} is outside of the vocabulary [0, {vocab_size})",
                param=name,
            )
