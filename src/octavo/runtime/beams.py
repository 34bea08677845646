"""Beam search over candidates that somebody else computes: which beams go on, which end, and when.

Numbers in, numbers out; no engine, no text. The rules are those of Hugging Face transformers, so
that both find the same sequences with the same scores. Where the candidates come from is
``beam_search``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from octavo.core.errors import InvalidRequest
from octavo.core.events import FinishReason
from octavo.core.request import MAX_LOGPROBS

MAX_LENGTH_PENALTY = 10.0
EarlyStopping = bool | Literal["never"]
Candidate = tuple[int, float]
"""A token id and its logprob after a beam."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamParams:
    """What a beam search looks for.

    Raises:
        InvalidRequest: a value is out of its range; the message gives the range.
    """

    width: int
    """Beams that go on side by side: 1 to 20 minus the number of end tokens."""
    max_tokens: int
    """At most this many new tokens, >= 1."""
    length_penalty: float = 1.0
    """A sequence's score is its logprob divided by its length to this power; in [-10, 10]. Above
    0 it favours long sequences."""
    early_stopping: EarlyStopping = False
    """When ``width`` sequences have ended: True stops; False goes on while the best beam, scored
    at its present length, would be better than the worst of them; "never" also while it could
    become better at its greatest length."""
    num_return: int = 1
    """Best sequences to give back, 1 to ``width``."""
    end_token_ids: tuple[int, ...] = ()
    """Tokens that end a sequence."""

    def __post_init__(self) -> None:
        _require_end_tokens(self.end_token_ids)
        most = MAX_LOGPROBS - len(self.end_token_ids)
        why = None
        if self.end_token_ids:
            why = (
                f"a step ranks up to {MAX_LOGPROBS} tokens after each beam, and"
                f" {len(self.end_token_ids)} of them may be end tokens"
            )
        _require_integer("width", self.width, 1, most, hint=why)
        _require_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _require_integer("num_return", self.num_return, 1, self.width, high_name="width")
        penalty: Any = self.length_penalty
        well_typed = isinstance(penalty, int | float) and not isinstance(penalty, bool)
        if not well_typed or not abs(penalty) <= MAX_LENGTH_PENALTY:  # NaN is not either
            raise InvalidRequest(
                f"length_penalty must be a number in [-{MAX_LENGTH_PENALTY}, {MAX_LENGTH_PENALTY}],"
                f" got {penalty!r}",
                param="length_penalty",
            )
        stopping: object = self.early_stopping
        if not isinstance(stopping, bool) and stopping != "never":
            raise InvalidRequest(
                f"early_stopping must be False, True or 'never', got {stopping!r}",
                param="early_stopping",
            )

    @property
    def num_candidates(self) -> int:
        """How many of the best next tokens of each beam are needed.

        The next beams are the best ``width`` candidates that end nothing, and a sequence only ends
        among the best ``width`` of all. One beam has at most ``width`` of the former, and at most
        all end tokens stand before them.
        """
        return self.width + len(self.end_token_ids)


@dataclass(frozen=True, slots=True)
class Beam:
    """A sequence that goes on."""

    token_ids: tuple[int, ...]
    logprob: float
    """Of the whole sequence: the float64 sum, from the first token on, of float32 logprobs."""
    parent: int
    """Which beam of the step before it extends."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A sequence that ended."""

    token_ids: tuple[int, ...]
    """With the end token, if one ended it."""
    logprob: float
    score: float
    finish_reason: FinishReason


class BeamSearch:
    """One search: beams that go on, and the best sequences that ended.

    Of equal candidates the one of the better beam goes first, then the one with the lower token
    id; of equal endings, the one that ended first.

    Args:
        max_tokens: what there is room for, at most ``params.max_tokens``.
    """

    def __init__(self, params: BeamParams, max_tokens: int) -> None:
        assert 1 <= max_tokens <= params.max_tokens
        self.max_tokens = max_tokens
        self.beams = [Beam((), 0.0, 0)]
        """Best first, all of the same length."""
        self.endings: list[Ending] = []
        """Best first, at most ``width``."""
        self.is_over = False
        self._params = params
        self._end_ids = frozenset(params.end_token_ids)

    def advance(self, candidates: Sequence[Sequence[Candidate]]) -> None:
        """One token further.

        Args:
            candidates: for each beam its ``num_candidates`` most likely next tokens, or all there
                are.
        """
        assert not self.is_over
        width = self._params.width
        parents = self.beams
        length = len(parents[0].token_ids) + 1
        ranked = sorted(
            (-(beam.logprob + logprob), number, token_id)
            for number, (beam, tokens) in enumerate(zip(parents, candidates, strict=True))
            for token_id, logprob in tokens
            if logprob > -math.inf  # else it cannot follow
        )
        self.beams = []
        for place, (cost, number, token_id) in enumerate(ranked):
            is_end = token_id in self._end_ids
            if is_end or length == self.max_tokens:
                if place < width:
                    self._end((*parents[number].token_ids, token_id), -cost, is_end)
            elif len(self.beams) < width:
                self.beams.append(Beam((*parents[number].token_ids, token_id), -cost, number))
        self.endings.sort(key=lambda ending: -ending.score)
        del self.endings[width:]
        self.is_over = not self.beams or not self._can_improve(length)

    def _end(self, token_ids: tuple[int, ...], logprob: float, is_end: bool) -> None:
        score = logprob / math.pow(len(token_ids), self._params.length_penalty)
        reason = FinishReason.STOP if is_end else FinishReason.LENGTH
        self.endings.append(Ending(token_ids, logprob, score, reason))

    def _can_improve(self, length: int) -> bool:
        """Whether going on makes sense while the beams have ``length`` tokens."""
        params = self._params
        if len(self.endings) < params.width:
            return True
        if params.early_stopping is True:
            return False
        if params.early_stopping == "never" and params.length_penalty > 0:
            length = self.max_tokens
        best_possible = self.beams[0].logprob / math.pow(length, params.length_penalty)
        return best_possible > self.endings[-1].score


def _require_integer(
    name: str, value: Any, low: int, high: int, *, high_name: str = "", hint: str | None = None
) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    shown_high = f"{high_name}={high}" if high_name else str(high)
    raise InvalidRequest(
        f"{name} must be an integer in [{low}, {shown_high}], got {value!r}", param=name, hint=hint
    )


def _require_end_tokens(token_ids: Any) -> None:
    well_typed = isinstance(token_ids, tuple) and all(
        isinstance(token_id, int) and not isinstance(token_id, bool) and token_id >= 0
        for token_id in token_ids
    )
    if not well_typed:
        raise InvalidRequest(
            f"end_token_ids must be token ids, got {token_ids!r:.80}", param="end_token_ids"
        )
    if len(set(token_ids)) != len(token_ids):
        raise InvalidRequest("end_token_ids names a token twice", param="end_token_ids")
    if len(token_ids) >= MAX_LOGPROBS:
        raise InvalidRequest(
            f"end_token_ids takes at most {MAX_LOGPROBS - 1} entries, got {len(token_ids)}",
            param="end_token_ids",
        )
