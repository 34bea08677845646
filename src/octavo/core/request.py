"""What a caller asks for: a prompt as token ids, and how to choose the tokens that follow.

Everything here is plain data that travels as a msgspec message. The states a request goes through
while it is served belong to ``scheduling``.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import msgspec

from octavo.core import checks
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
MAX_NAME_CHARACTERS = 256


class Priority(enum.IntEnum):
    """How urgent a request is; the smaller number goes first under the ``priority`` policy."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


_MOST_URGENT, _LEAST_URGENT = min(Priority), max(Priority)


class _Keywords(msgspec.StructMeta):
    """Makes a struct's constructor say which keyword is unknown, and which one was meant."""

    if not TYPE_CHECKING:  # type checkers keep the constructor that they know

        def __call__(cls, *arguments: Any, **fields: Any) -> Any:
            if arguments:
                raise InvalidRequest(f"{cls.__name__} takes keyword arguments only")
            known = cls.__struct_fields__
            for name in fields:
                if name not in known:
                    hint = did_you_mean(name, known)
                    raise InvalidRequest(
                        f"unknown sampling parameter {name!r}", param=name, hint=hint
                    )
            return super().__call__(**fields)


class SamplingParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, metaclass=_Keywords
):
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
    """Divides positive, multiplies negative logits of tokens in prompt or output; in [0.01, 10]."""
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
        for name, value in self._checked().items():
            msgspec.structs.force_setattr(self, name, value)

    def _checked(self) -> dict[str, Any]:
        """Every field in its plain form. None stands for the default where that is nothing."""
        bias: Any = {} if self.logit_bias is None else self.logit_bias
        if not isinstance(bias, dict):
            raise InvalidRequest("logit_bias must map token ids to numbers", param="logit_bias")
        tokens = checks.token_ids("logit_bias", list(bias), MAX_LOGIT_BIAS)
        stop: Any = _or_nothing(self.stop)
        stops = checks.sequence("stop", (stop,) if isinstance(stop, str) else stop, MAX_STOP)
        words = checks.sequence("bad_words", _or_nothing(self.bad_words), MAX_BAD_WORDS)
        max_tokens = checks.integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        allowed = _allowed(self.allowed_token_ids)
        bad_words = tuple(map(_bad_word, words))
        if allowed is not None and {(token,) for token in allowed} <= set(bad_words):
            raise InvalidRequest(
                "bad_words bans every token of allowed_token_ids", param="allowed_token_ids"
            )
        return {
            "max_tokens": max_tokens,
            "min_tokens": checks.integer(
                "min_tokens", self.min_tokens, 0, max_tokens, high_name="max_tokens"
            ),
            "temperature": checks.number("temperature", self.temperature, 0.0, 100.0),
            "top_k": checks.integer("top_k", self.top_k, 0, 2**31 - 1),
            "top_p": checks.number("top_p", self.top_p, 0.0, 1.0, open_low=True),
            "min_p": checks.number("min_p", self.min_p, 0.0, 1.0),
            "typical_p": checks.number("typical_p", self.typical_p, 0.0, 1.0, open_low=True),
            "repetition_penalty": checks.number(
                "repetition_penalty", self.repetition_penalty, 0.01, 10.0
            ),
            "presence_penalty": checks.number("presence_penalty", self.presence_penalty, -2.0, 2.0),
            "frequency_penalty": checks.number(
                "frequency_penalty", self.frequency_penalty, -2.0, 2.0
            ),
            "logit_bias": {
                token: checks.number(
                    f"logit_bias[{token}]", added, -100.0, 100.0, param="logit_bias"
                )
                for token, added in zip(tokens, bias.values(), strict=True)
            },
            "seed": _optional("seed", self.seed, NUM_SEEDS - 1),
            "n": checks.integer("n", self.n, 1, MAX_N),
            "logprobs": _optional("logprobs", self.logprobs, MAX_LOGPROBS),
            "prompt_logprobs": _optional("prompt_logprobs", self.prompt_logprobs, MAX_LOGPROBS),
            "stop": tuple(checks.text("stop", one, 1, MAX_STOP_CHARACTERS) for one in stops),
            "include_stop": checks.flag("include_stop", self.include_stop),
            "stop_token_ids": checks.token_ids(
                "stop_token_ids", _or_nothing(self.stop_token_ids), MAX_STOP_TOKEN_IDS
            ),
            "ignore_eos": checks.flag("ignore_eos", self.ignore_eos),
            "bad_words": bad_words,
            "allowed_token_ids": allowed,
        }

    def token_ids(self) -> dict[str, list[int]]:
        """The token ids that each parameter names, for a check against the vocabulary."""
        return {
            "logit_bias": list(self.logit_bias),
            "stop_token_ids": list(self.stop_token_ids),
            "allowed_token_ids": list(self.allowed_token_ids or ()),
            "bad_words": [token for word in self.bad_words for token in word],
        }


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

    def __post_init__(self) -> None:
        """Raises InvalidRequest. Token ids are checked where the vocabulary is known."""
        name, tenant, deadline_s = self.request_id, self.tenant, self.deadline_s
        checked: dict[str, Any] = {
            "request_id": checks.text("request_id", name, 1, MAX_NAME_CHARACTERS),
            "tenant": checks.text("tenant", tenant, 0, MAX_NAME_CHARACTERS),
            "adapter": checks.text("adapter", self.adapter, 1, MAX_NAME_CHARACTERS),
            "priority": Priority(
                checks.integer("priority", self.priority, _MOST_URGENT, _LEAST_URGENT)
            ),
        }
        if deadline_s is not None:
            checked["deadline_s"] = checks.number("deadline_s", deadline_s, -1e300, 1e300)
        for field, value in checked.items():
            msgspec.structs.force_setattr(self, field, value)

    @property
    def seed(self) -> int:
        assert self.params.seed is not None, "a seed is fixed when the request is taken"
        return self.params.seed


def _or_nothing(value: Any) -> Any:
    return () if value is None else value


def _optional(name: str, value: Any, high: int) -> int | None:
    return None if value is None else checks.integer(name, value, 0, high)


def _bad_word(word: Any) -> tuple[int, ...]:
    if isinstance(word, str):
        raise InvalidRequest(
            f"bad_words takes lists of token ids, got the text {checks.shown(word)}",
            param="bad_words",
            hint="encode it with the model's tokeniser, with and without a space before it",
        )
    ids = checks.token_ids("bad_words", word, MAX_BAD_WORD_TOKENS)
    if not ids:
        raise InvalidRequest("bad_words: an entry has no tokens", param="bad_words")
    return ids


def _allowed(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    ids = checks.token_ids("allowed_token_ids", value)
    if not ids:
        raise InvalidRequest(
            "allowed_token_ids must not be empty",
            param="allowed_token_ids",
            hint="leave it out to allow every token",
        )
    return ids
