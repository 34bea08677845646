"""Stand-ins for what a test wants to hold still: the clock, and the runner with its model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from octavo.core.events import FinishReason
from octavo.core.kv_layout import PAGE_SIZE, KVGroup
from octavo.core.request import Request
from octavo.core.step import (
    RangeOutcome,
    SlotEntry,
    StepPlan,
    StepResult,
    TokenLogprobs,
    TokenRange,
)

POISON = -1
MASK = 2**61 - 1


class FakeClock:
    """Stands still until it is told to go on."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds


def prefix_root(request: Request) -> int:
    """The prefix of nothing. It tells tenants and adapters apart, as page names do."""
    return zlib.crc32(f"{request.tenant}/{request.adapter}".encode()) + 1


def extend_prefix(prefix: int, token_id: int) -> int:
    """A number that stands for all tokens up to here: the model's "keys and values"."""
    return (prefix * 6364136223846793005 + token_id + 1442695040888963407) % MASK


def draw(request: Request, choice: int, position: int, prefix: int, vocab_size: int) -> int:
    """The token at ``position``: any function of what it may depend on, and of nothing else."""
    seed = request.seed * 8 + choice
    return extend_prefix(extend_prefix(prefix, seed), position) // 1024 % vocab_size


def expected_answer(
    request: Request,
    choice: int,
    *,
    vocab_size: int,
    end_token_ids: SequenceOf[int],
    max_model_len: int,
) -> tuple[list[int], FinishReason]:
    """What a choice must answer: one token after the other, nothing shared, nothing cached."""
    params = request.params
    stops = {*params.stop_token_ids, *(() if params.ignore_eos else end_token_ids)}
    prefix = prefix_root(request)
    for token in request.prompt_ids:
        prefix = extend_prefix(prefix, token)
    output: list[int] = []
    while True:
        position = len(request.prompt_ids) + len(output)
        output.append(draw(request, choice, position, prefix, vocab_size))
        prefix = extend_prefix(prefix, output[-1])
        if output[-1] in stops and len(output) > params.min_tokens:
            return output, FinishReason.STOP
        if len(output) == params.max_tokens or position + 1 == max_model_len:
            return output, FinishReason.LENGTH


@dataclass
class Seat:
    """What the runner knows of the sequence in a slot."""

    entry: SlotEntry
    tokens: list[int]
    prefixes: list[int]  # of each token
    tables: list[dict[int, int]] = field(default_factory=list)  # a KV group each
    failure: str | None = None  # a step in flight may still compute for a sequence that failed

    def append(self, token_id: int) -> None:
        before = self.prefixes[-1] if self.prefixes else prefix_root(self.entry.request)
        self.tokens.append(token_id)
        self.prefixes.append(extend_prefix(before, token_id))


class ScriptedRunner:
    """Runs plans on numbers that stand for keys and values, and distrusts every page.

    Each position of each page holds the prefix that was computed into it. A range may only start
    where every position that it attends to holds exactly its own prefix, and nobody may overwrite
    these in the same step: so a stale page, a wrong copy, a wrong hit or a page in use twice is
    found at once. ``fail`` may name a reason to fail a range of a sequence.
    """

    def __init__(
        self,
        groups: SequenceOf[KVGroup],
        *,
        num_pages: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        vocab_size: int,
        fail: Callable[[SlotEntry, TokenRange], str | None] = lambda entry, part: None,
    ) -> None:
        self.groups = groups
        self.num_pages = num_pages
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.vocab_size = vocab_size
        self.fail = fail
        self.seats: dict[int, Seat] = {}
        self.plans: list[StepPlan] = []
        self.pools = [[[POISON] * PAGE_SIZE for _ in range(num_pages)] for _ in groups]
        self._results: dict[int, StepResult] = {}

    def submit(self, plan: StepPlan) -> int:
        self.plans.append(plan)
        self._results[plan.step] = self._run(plan)
        return plan.step

    def collect(self, ticket: int) -> StepResult:
        return self._results.pop(ticket)

    def poison(self, group: int, page: int) -> None:
        """Nobody may read this page before it is written again."""
        self.pools[group][page] = [POISON] * PAGE_SIZE

    def _run(self, plan: StepPlan) -> StepResult:
        for slot in plan.leave:
            del self.seats[slot]
        for entry in plan.enter:
            self._enter(entry)
        for slot, group, index, page in plan.page_assignments:
            assert 0 < page < self.num_pages, "page 0 belongs to nobody"
            self.seats[slot].tables[group][index] = page
        for group, source, target in plan.page_copies:
            assert source != target
            self.pools[group][target] = list(self.pools[group][source])
        self._check_plan(plan)
        sound = [part for part in plan.ranges if self.seats[part.slot].failure is None]
        for part in sound:
            self._check_reads(part)
        for part in sound:
            self._write(part)
        for part in sound:
            self._check_reads(part)
        return StepResult(plan.step, [self._outcome(part) for part in plan.ranges])

    def _enter(self, entry: SlotEntry) -> None:
        assert entry.slot not in self.seats, f"slot {entry.slot} is taken"
        assert 0 <= entry.slot < self.max_num_seqs
        seat = self.seats[entry.slot] = Seat(entry, [], [], [{} for _ in self.groups])
        for token in entry.token_ids:
            seat.append(token)
        head = len(entry.request.prompt_ids)
        assert entry.token_ids[:head] == entry.request.prompt_ids

    def _check_plan(self, plan: StepPlan) -> None:
        assert plan.ranges, "a plan computes something"
        assert plan.num_tokens <= self.max_num_batched_tokens
        slots = [part.slot for part in plan.ranges]
        assert len(set(slots)) == len(slots), "a slot is in two ranges"
        for part in plan.ranges:
            seat = self.seats[part.slot]
            assert part.count > 0
            if seat.failure is not None:
                continue
            assert part.start + part.count <= len(seat.tokens), "nobody knows this token yet"
            assert part.samples == (part.start + part.count == len(seat.tokens))

    def _check_reads(self, part: TokenRange) -> None:
        seat = self.seats[part.slot]
        for group, layout in enumerate(self.groups):
            for position in range(layout.first_needed(part.start), part.start):
                page = seat.tables[group][position // PAGE_SIZE]
                stored = self.pools[group][page][position % PAGE_SIZE]
                assert stored == seat.prefixes[position], (
                    f"{seat.entry.request.request_id}/{seat.entry.choice}, group {group}:"
                    f" page {page} does not hold position {position}"
                )

    def _write(self, part: TokenRange) -> None:
        seat = self.seats[part.slot]
        for group, table in enumerate(seat.tables):
            for position in range(part.start, part.start + part.count):
                page = table[position // PAGE_SIZE]
                self.pools[group][page][position % PAGE_SIZE] = seat.prefixes[position]

    def _outcome(self, part: TokenRange) -> RangeOutcome:
        seat = self.seats[part.slot]
        seat.failure = seat.failure or self.fail(seat.entry, part)
        if seat.failure is not None:
            return RangeOutcome(error=seat.failure)
        scores = tuple(self._scores(seat, part))
        if not part.samples:
            return RangeOutcome(prompt_logprobs=scores)
        position = len(seat.tokens)
        request, choice = seat.entry.request, seat.entry.choice
        token = draw(request, choice, position, seat.prefixes[-1], self.vocab_size)
        seat.append(token)
        logprobs = None if request.params.logprobs is None else TokenLogprobs(-float(token))
        return RangeOutcome(token, logprobs, scores)

    def _scores(self, seat: Seat, part: TokenRange) -> Iterator[TokenLogprobs]:
        """The "logprob" of a prompt token is its negative id."""
        if part.score_from < 0:
            return
        assert part.start <= part.score_from < part.start + part.count
        last = min(part.start + part.count, seat.entry.num_prompt_tokens - 1)
        for position in range(part.score_from, last):
            yield TokenLogprobs(-float(seat.tokens[position + 1]))
