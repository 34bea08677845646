"""What a caller asks for: a prompt as token ids, and how to choose the tokens that follow.

Everything here is plain data that travels as a msgspec message. The states a request goes through
while it is served belong to ``scheduling``.
"""

from __future__ import annotations

import enum
import math
from typing import Any

import msgspec

from octavo.core.errors import InvalidRequest, did_you_mean

MAX_N = 8
MAX_LOGPROBS = 20
MAX_STOP = 16
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS = 300
MAX_BAD_WORDS = 64
MAX_BAD_WORD_TOKENS = 32
MAX_STOP_TOKEN_IDS = 64
NUM_SEEDS = 2**63
NUM_TOKEN_IDS = 2**31
"""No vocabulary is larger; whether an id is in the model's own, the engine checks."""


class Priority(enum.IntEnum):
    """How urgent a request is; the smaller number goes first under the ``priority`` policy."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the tokens that follow a prompt are chosen.

    Raises:
        InvalidRequest: a value is out of its range; the message gives the range.

    The order of work on a row of logits is fixed: raw logprobs are taken first; then the
    repetition, presence and frequency penalties, ``logit_bias``, banned and allowed ids; then
    temperature, top_k, top_p, min_p and typical_p, each on what the one before it kept; then the
    draw. ``temperature=0`` takes the highest logit (the lower id in a tie).
    """

    max_tokens: int = 16
    """At most this many new tokens, >= 1."""
    min_tokens: int = 0
    """End and stop tokens are banned until this many new tokens exist."""
    temperature: float = 1.0
    """0 is greedy; in [0, 100]."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches top_p; in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the most likely one; in [0, 1]."""
    typical_p: float = 1.0
    """Keep the tokens whose surprise is nearest the entropy, up to this probability; in (0, 1]."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or output; in (0, 10]."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each token already in the output; in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence in the output; in [-2, 2]."""
    logit_bias: dict[int, float] = {}
    """Added to the logits of these token ids; values in [-100, 100], at most 300 entries."""
    seed: int | None = None
    """Fixes the draws; in [0, 2**63). None: one is chosen when the request is taken."""
    n: int = 1
    """Number of independent answers ("choices"), 1 to 8; they share the prompt's pages."""
    logprobs: int | None = None
    """None: no logprobs. k: those of each chosen token and of the k most likely; 0 to 20."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens from the second on. Such a request takes no prefix hits."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are left out of it; at most 16 of 256 characters."""
    include_stop: bool = False
    """Keep the stop string that was hit at the end of the text."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, besides the model's own end tokens; at most 64."""
    ignore_eos: bool = False
    """Go on past the model's end tokens."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not appear; at most 64 of 32 tokens."""
    allowed_token_ids: tuple[int, ...] | None = None
    """Only these tokens may be chosen; not empty."""

    def __post_init__(self) -> None:
        self._normalise()
        _check_range("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _check_range("min_tokens", self.min_tokens, 0, self.max_tokens, high_name="max_tokens")
        _check_range("temperature", self.temperature, 0.0, 100.0)
        _check_range("top_k", self.top_k, 0, 2**31 - 1)
        _check_range("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("typical_p", self.typical_p, 0.0, 1.0, open_low=True)
        _check_range("repetition_penalty", self.repetition_penalty, 0.0, 10.0, open_low=True)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("n", self.n, 1, MAX_N)
        if self.seed is not None:
            _check_range("seed", self.seed, 0, NUM_SEEDS - 1)
        if self.logprobs is not None:
            _check_range("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _check_range("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        _check_count("logit_bias", self.logit_bias, MAX_LOGIT_BIAS)
        for token, bias in self.logit_bias.items():
            _check_range(f"logit_bias[{token}]", bias, -100.0, 100.0, param="logit_bias")
        _check_count("stop", self.stop, MAX_STOP)
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
                raise InvalidRequest(
                    f"stop: each string must have 1 to {MAX_STOP_CHARACTERS} characters,"
                    f" got {len(text)}",
                    param="stop",
                )
        _check_count("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        _check_count("bad_words", self.bad_words, MAX_BAD_WORDS)
        for word in self.bad_words:
            if not 1 <= len(word) <= MAX_BAD_WORD_TOKENS:
                raise InvalidRequest(
                    f"bad_words: each must have 1 to {MAX_BAD_WORD_TOKENS} tokens, got {len(word)}",
                    param="bad_words",
                )
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidRequest(
                "allowed_token_ids must not be empty",
                param="allowed_token_ids",
                hint="leave it out to allow every token",
            )

        for name in ("include_stop", "ignore_eos"):
            flag: object = getattr(self, name)
            if not isinstance(flag, bool):
                raise InvalidRequest(f"{name} must be true or false, got {flag!r}", param=name)

    def _normalise(self) -> None:
        """Lists become tuples, one stop string becomes a tuple of one; wrong types are errors."""
        stop: object = self.stop  # typed callers pass a tuple, others a string or a list
        _set_tuple(self, "stop", (stop,) if isinstance(stop, str) else stop, str)
        _set_tuple(self, "stop_token_ids", self.stop_token_ids, int)
        if self.allowed_token_ids is not None:
            _set_tuple(self, "allowed_token_ids", self.allowed_token_ids, int)
        for word in _require_sequence("bad_words", self.bad_words):
            _require_all("bad_words", word, int)
        words = tuple(tuple(word) for word in self.bad_words)
        msgspec.structs.force_setattr(self, "bad_words", words)
        if not isinstance(self.logit_bias, dict):
            raise InvalidRequest("logit_bias must map token ids to numbers", param="logit_bias")
        _require_all("logit_bias", list(self.logit_bias), int)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> SamplingParams:
        """Build from keyword fields; an unknown one is an error with a hint."""
        known = cls.__struct_fields__
        for name in fields:
            if name not in known:
                raise InvalidRequest(
                    f"unknown sampling parameter {name!r}",
                    param=name,
                    hint=did_you_mean(name, known),
                )
        return cls(**fields)

    def token_ids(self) -> list[int]:
        """Every token id named anywhere in the parameters, for a check against the vocabulary."""
        ids = [*self.logit_bias, *self.stop_token_ids, *(self.allowed_token_ids or ())]
        for word in self.bad_words:
            ids.extend(word)
        return ids


class ChoiceSoFar(msgspec.Struct, frozen=True):
    """The tokens of one choice that a client already has: half of a resume record."""

    choice: int
    output_ids: tuple[int, ...]
    finished: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt on its way to the engine, ids only.

    A request that carries ``resume`` continues where another engine stopped: the given output ids
    count as already known and are not emitted again.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    tenant: str = ""
    """Prefix pages are shared within a tenant only."""
    priority: Priority = Priority.STANDARD
    deadline_s: float | None = None
    """On the engine's clock; a request still waiting then is failed instead of started."""
    adapter: str = "none"
    """Part of every page's name. Only ``none`` is accepted so far."""
    resume: tuple[ChoiceSoFar, ...] = ()

    @property
    def seed(self) -> int:
        assert self.params.seed is not None, "a seed is fixed when the request is taken"
        return self.params.seed


def _require_sequence(name: str, items: Any) -> Any:
    if not isinstance(items, list | tuple):
        raise InvalidRequest(f"{name} must be a list, got {type(items).__name__}", param=name)
    return items


def _require_all(name: str, items: Any, kind: type) -> None:
    for item in _require_sequence(name, items):
        if not isinstance(item, kind) or isinstance(item, bool):
            raise InvalidRequest(
                f"{name} takes values of type {kind.__name__}, got {item!r}", param=name
            )
        if isinstance(item, int) and not 0 <= item < NUM_TOKEN_IDS:
            raise InvalidRequest(
                f"{name}: {item} is outside of the vocabulary of any model,"
                f" whose ids are in [0, {NUM_TOKEN_IDS})",
                param=name,
            )


def _set_tuple(params: SamplingParams, name: str, items: Any, kind: type) -> None:
    _require_all(name, items, kind)
    msgspec.structs.force_setattr(params, name, tuple(items))


def _check_range(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    high_name: str | None = None,
    param: str | None = None,
) -> None:
    """Raise InvalidRequest unless value is finite and in [low, high] (or (low, high])."""
    integral = isinstance(low, int)
    well_typed = isinstance(value, int if integral else int | float) and not isinstance(value, bool)
    in_range = well_typed and math.isfinite(value) and low <= value <= high
    if in_range and not (open_low and value == low):
        return
    bracket = "(" if open_low else "["
    shown_high = f"{high_name}={high}" if high_name else f"{high}"
    kind = "an integer" if integral else "a number"
    raise InvalidRequest(
        f"{name} must be {kind} in {bracket}{low}, {shown_high}], got {value!r}",
        param=param or name,
    )


def _check_count(name: str, items: Any, most: int) -> None:
    if len(items) > most:
        raise InvalidRequest(f"{name} takes at most {most} entries, got {len(items)}", param=name)
