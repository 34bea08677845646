"""Beam searches on an engine: the requests that bring candidates, and the outputs.

The engine knows nothing of beams. A beam is followed by a request that draws the most likely token
again and again and reports the best candidates at each place. Where a beam goes on with that very
token, which is what most of them do, the request is ahead of it already. Where it goes on with
another one, a new request starts, and finds all of the beam's full pages in the prefix cache.
Which beams there are is decided in ``beams``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from octavo.core.errors import InvalidRequest, OctavoError
from octavo.core.events import Event, Failed, FinishReason, Token
from octavo.core.kv_layout import PAGE_SIZE
from octavo.core.request import Priority, Request, SamplingParams
from octavo.runtime.beams import BeamParams, BeamSearch, Candidate, Ending
from octavo.runtime.model_text import EncodedPrompt
from octavo.runtime.routes import Routes
from octavo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class BeamSequence:
    """One sequence that a search found."""

    text: str
    """Without special tokens; empty where the model has no tokeniser."""
    token_ids: tuple[int, ...]
    """With the end token, if one ended it."""
    cumulative_logprob: float
    """The float64 sum of the tokens' float32 logprobs, from the first on."""
    score: float
    """The cumulative logprob divided by the number of tokens to the power of length_penalty."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class BeamOutput:
    """A prompt and the best sequences that follow it."""

    prompt: str | None
    """None where the prompt was given as token ids."""
    prompt_token_ids: tuple[int, ...]
    sequences: tuple[BeamSequence, ...]
    """Best first. Fewer than were asked for only where the model has fewer possible tokens than
    the search has beams; none where the search failed."""
    error: OctavoError | None
    """Why the search failed."""


@dataclass(slots=True, eq=False)
class _Line:
    """A request that goes on from a beam, and what it brought so far."""

    request_id: str
    search: _Search
    max_tokens: int
    places: list[tuple[int, list[Candidate]]] = field(default_factory=list)
    """For each token drawn: which one, and the best candidates for its place."""


@dataclass(slots=True, eq=False)
class _Search:
    """One prompt's search."""

    prompt: EncodedPrompt
    beams: BeamSearch
    lines: list[tuple[_Line, int]] = field(default_factory=list)
    """For each beam the line that follows it, and the place in it that is the beam's next one."""
    error: OctavoError | None = None

    @property
    def is_over(self) -> bool:
        return self.error is not None or self.beams.is_over

    @property
    def is_ready(self) -> bool:
        """Whether the candidates of all beams are there."""
        return all(place < len(line.places) for line, place in self.lines)


class BeamRun:
    """Searches that run side by side, and among other requests.

    Args:
        routes: where its requests are opened, with itself as their reader.
        new_request_id: a name that no other request has.
        max_model_len: tokens of prompt and sequence at the most.
    """

    def __init__(
        self,
        params: BeamParams,
        *,
        routes: Routes,
        new_request_id: Callable[[], str],
        max_model_len: int,
        priority: Priority,
        tenant: str,
    ) -> None:
        self._params = params
        self._routes = routes
        self._new_request_id = new_request_id
        self._max_model_len = max_model_len
        self._priority = priority
        self._tenant = tenant
        self._searches: list[_Search] = []
        self._lines: dict[str, _Line] = {}

    def start(self, prompt: EncodedPrompt) -> None:
        """Begin the search for what follows a prompt. If the engine refuses it, ``refusal``
        says so after its events were dispatched."""
        room = max(1, self._max_model_len - len(prompt.token_ids))
        search = _Search(prompt, BeamSearch(self._params, min(self._params.max_tokens, room)))
        self._searches.append(search)
        search.lines = [(self._follow(search, ()), 0)]

    @property
    def refusal(self) -> OctavoError | None:
        """Why the search that was started last failed, if it did."""
        return self._searches[-1].error

    @property
    def finished(self) -> bool:
        return all(search.is_over for search in self._searches)

    def take(self, event: Event) -> tuple[()]:
        """An event of one of its requests."""
        line = self._lines[event.request_id]
        if isinstance(event, Token):
            assert event.index == len(line.places), "tokens of a choice come in order"
            scores = event.logprobs
            assert scores is not None, "the request wants logprobs"
            candidates = list(zip(scores.top_ids, scores.top_logprobs, strict=True))
            line.places.append((event.token_id, candidates))
            self._advance(line.search)
        elif isinstance(event, Failed):
            self.fail(event.request_id, event.error)
        return ()

    def fail(self, request_id: str, error: OctavoError) -> None:
        """The search that this request belongs to cannot go on."""
        line = self._lines.get(request_id)
        if line is not None:
            line.search.error = error
            self._keep_only(line.search, [])

    def outputs(self, tokenizer: Tokenizer | None) -> list[BeamOutput]:
        """What each search found, in the order in which they were started."""
        return [
            BeamOutput(
                prompt=search.prompt.text,
                prompt_token_ids=search.prompt.token_ids,
                sequences=() if search.error else self._sequences(search, tokenizer),
                error=search.error,
            )
            for search in self._searches
        ]

    def close(self) -> None:
        """End what is still running."""
        for search in self._searches:
            self._keep_only(search, [])

    def _advance(self, search: _Search) -> None:
        """Go on as far as the candidates reach, with a new line where a beam left its old one."""
        while not search.is_over and search.is_ready:
            before = search.lines
            search.beams.advance([line.places[place][1] for line, place in before])
            beams = () if search.is_over else search.beams.beams
            kept = [_continued(before[beam.parent], beam.token_ids[-1]) for beam in beams]
            self._keep_only(search, [line for line in kept if line is not None])
            search.lines = [
                (self._follow(search, beam.token_ids), 0) if line is None else line
                for beam, line in zip(beams, kept, strict=True)
            ]

    def _follow(self, search: _Search, token_ids: Sequence[int]) -> _Line:
        """Start a line after a beam.

        It ends where the page is full that its last computed token is in: another one that goes
        on from there finds everything in the prefix cache, and no line can run far ahead of a
        search that waits for its other beams.
        """
        prefix = (*search.prompt.token_ids, *token_ids)
        left = search.beams.max_tokens - len(token_ids)
        max_tokens = min(left, PAGE_SIZE - (len(prefix) - 1) % PAGE_SIZE)
        line = _Line(self._new_request_id(), search, max_tokens)
        self._lines[line.request_id] = line
        self._routes.open(
            Request(
                request_id=line.request_id,
                prompt_ids=prefix,
                params=SamplingParams(
                    max_tokens=max_tokens,
                    temperature=0.0,
                    seed=0,  # nothing is drawn at random
                    logprobs=self._params.num_candidates,
                    ignore_eos=True,  # which tokens end a beam is known here
                ),
                tenant=self._tenant,
                priority=self._priority,
            ),
            self,
        )
        return line

    def _keep_only(self, search: _Search, kept: Sequence[tuple[_Line, int]]) -> None:
        """Forget the lines of a search that no beam follows any more."""
        names = {line.request_id for line, _ in kept}
        for line, _ in search.lines:
            if line.request_id not in names:
                self._lines.pop(line.request_id, None)
                self._routes.close(line.request_id)

    def _sequences(self, search: _Search, tokenizer: Tokenizer | None) -> tuple[BeamSequence, ...]:
        endings = search.beams.endings[: self._params.num_return]
        return tuple(
            BeamSequence(
                "" if tokenizer is None else _text(tokenizer, search.prompt, ending),
                ending.token_ids,
                ending.logprob,
                ending.score,
                ending.finish_reason,
            )
            for ending in endings
        )


def end_tokens(
    wanted: Sequence[int] | None, *, of_model: Sequence[int], vocab_size: int
) -> tuple[int, ...]:
    """The tokens that end a sequence: those wanted, or by default the model's own.

    Raises:
        InvalidRequest: a token id is wanted that the vocabulary does not have.
    """
    if wanted is None:
        return tuple(token_id for token_id in of_model if token_id < vocab_size)
    for token_id in wanted:
        if isinstance(token_id, int) and not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"token id {token_id} is outside of the vocabulary [0, {vocab_size})",
                param="end_token_ids",
            )
    return tuple(wanted)


def _continued(followed: tuple[_Line, int], token_id: int) -> tuple[_Line, int] | None:
    """The next place of a line, if the line took this token and there is a next place."""
    line, place = followed
    goes_on = line.places[place][0] == token_id and place + 1 < line.max_tokens
    return (line, place + 1) if goes_on else None


def _text(tokenizer: Tokenizer, prompt: EncodedPrompt, ending: Ending) -> str:
    """What a sequence says after its prompt, without the token that ended it."""
    stops = ending.finish_reason is FinishReason.STOP
    token_ids = ending.token_ids[:-1] if stops else ending.token_ids
    detokenizer = tokenizer.detokenizer(prompt.token_ids)
    parts = [detokenizer.feed(token_id) for token_id in token_ids]
    return "".join(parts) + detokenizer.flush()
