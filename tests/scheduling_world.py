"""A scheduler with a scripted runner around it, and an eye on everything that it says.

After every step the scheduler's invariants are checked and free pages are poisoned; every event
must make sense after those before it; at the end every answer must be the expected one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Any

from octavo.core.config import PolicyName
from octavo.core.events import Event, Failed, Finished, FinishReason, PromptScored, Token
from octavo.core.hashing import PageName, page_name
from octavo.core.kv_layout import KVGroup
from octavo.core.request import ChoiceSoFar, Request, SamplingParams
from octavo.core.step import SlotEntry, StepPlan, TokenRange
from octavo.scheduling.admission import Admission
from octavo.scheduling.batching import Batching, Continuous
from octavo.scheduling.kv import KVManager, SequencePages
from octavo.scheduling.policy import Policy, make_policy
from octavo.scheduling.scheduler import Scheduler
from octavo.scheduling.sequence import LiveRequest, Sequence
from tests.fakes import FakeClock, ScriptedRunner, expected_answer

VOCAB = 50
END = 7


def kv_groups(*windows: int | None) -> tuple[KVGroup, ...]:
    """A group for each window; None keeps everything."""
    return tuple(
        KVGroup(window=window, layers=(number,), num_kv_heads=1, head_dim=2)
        for number, window in enumerate(windows)
    )


def make_sequence(
    *, arrival: int = 0, num_prompt: int = 5, arrival_s: float = 0.0, **params: Any
) -> Sequence:
    """A sequence on its own, for tests of what looks at sequences."""
    params.setdefault("max_tokens", 4)
    request = Request(
        request_id=f"r{arrival}",
        prompt_ids=(1,) * num_prompt,
        params=SamplingParams(seed=0, **params),
    )
    live = LiveRequest(
        request=request,
        arrival=arrival,
        arrival_s=arrival_s,
        max_len=num_prompt + request.params.max_tokens,
        stop_ids=frozenset({END}),
    )
    token_ids = list(request.prompt_ids)
    return Sequence(
        live=live,
        choice=0,
        rank=(0.0, arrival, 0),
        token_ids=token_ids,
        pages=SequencePages(token_ids, takes_hits=True, nodes=[None]),
        scored=num_prompt - 1,
        num_prompt=num_prompt,
    )


@dataclass
class Answer:
    """What was said about one choice."""

    token_ids: list[int]
    known: int = 0  # tokens that it was resumed with
    finished: Finished | None = None


@dataclass
class World:
    """Everything that a scheduler needs, small by default."""

    windows: SequenceOf[int | None] = (None,)
    num_pages: int = 64
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 64
    max_model_len: int = 512
    chunked_prefill: bool = True
    prefix_cache: bool = True
    kv_cache: bool = True
    policy: PolicyName | Policy = "fcfs"
    batching: Callable[[FakeClock], Batching] = lambda clock: Continuous()
    max_waiting_requests: int = 1000
    max_waiting_tokens: int = 100_000
    name_page: Callable[[PageName, bytes], PageName] = page_name
    fail: Callable[[SlotEntry, TokenRange], str | None] = lambda entry, part: None

    clock: FakeClock = field(default_factory=FakeClock)
    requests: dict[str, Request] = field(default_factory=dict)
    answers: dict[str, dict[int, Answer]] = field(default_factory=dict)
    failed: dict[str, Failed] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    tickets: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        groups = kv_groups(*self.windows)
        policy = self.policy
        if isinstance(policy, str):
            policy = make_policy(policy, max_model_len=self.max_model_len)
        self.kv = KVManager(
            groups,
            num_pages=self.num_pages,
            numerics=b"test",
            prefix_cache=self.prefix_cache,
            name_page=self.name_page,
        )
        self.scheduler = Scheduler(
            policy=policy,
            batching=self.batching(self.clock),
            kv=self.kv,
            admission=Admission(
                vocab_size=VOCAB,
                max_waiting_requests=self.max_waiting_requests,
                max_waiting_tokens=self.max_waiting_tokens,
            ),
            clock=self.clock,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            end_token_ids=(END,),
            chunked_prefill=self.chunked_prefill,
            kv_cache=self.kv_cache,
        )
        self.runner = ScriptedRunner(
            groups,
            num_pages=self.num_pages,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            vocab_size=VOCAB,
            fail=lambda entry, part: self.fail(entry, part),
        )

    # Doing things

    def add(self, request_id: str, prompt: SequenceOf[int] | int, **options: Any) -> Request:
        """Add a request: ``Request`` fields by name, everything else is for SamplingParams.

        A prompt given as a number is that many tokens which no other request has.
        """
        if isinstance(prompt, int):
            base = sum(request_id.encode())
            prompt = [(base + i * 3 + i * i // 16) % VOCAB for i in range(prompt)]
        fields = {name: options.pop(name) for name in list(options) if name in _REQUEST_FIELDS}
        options.setdefault("seed", len(self.requests))
        request = Request(
            request_id=request_id,
            prompt_ids=tuple(prompt),
            params=SamplingParams(**options),
            **fields,
        )
        self.scheduler.add(request)
        self.requests[request_id] = request
        self.answers[request_id] = {choice: Answer([]) for choice in range(request.params.n)}
        self.scores[request_id] = []
        for known in request.resume:
            answer = self.answers[request_id][known.choice]
            answer.token_ids.extend(known.output_ids)
            answer.known = len(known.output_ids)
            if known.finished:
                del self.answers[request_id][known.choice]
        self.look()
        return request

    def submit(self) -> StepPlan | None:
        """Plan a step and hand it to the runner."""
        idle = not self.tickets
        plan = self.scheduler.plan_step()
        self.take(self.scheduler.take_events())
        if idle:
            self.check_progress(plan)
        if plan is not None:
            self.tickets.append(self.runner.submit(plan))
        self.look()
        return plan

    def collect(self) -> list[Event]:
        """Apply the oldest step in flight."""
        events = self.scheduler.apply(self.runner.collect(self.tickets.popleft()))
        self.take(events)
        self.look()
        return events

    def step(self) -> StepPlan:
        """One step, there and back; there must be something to do."""
        plan = self.submit()
        assert plan is not None, "nothing to compute"
        self.collect()
        return plan

    def abort(self, request_id: str, choice: int | None = None) -> list[Event]:
        events = self.scheduler.abort(request_id, choice)
        self.take(events)
        self.look()
        return events

    def drain(self, *, in_flight: int = 1, max_steps: int = 20_000) -> list[StepPlan]:
        """Steps until there is no work; time passes when there is nothing else to do."""
        plans: list[StepPlan] = []
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return plans
            while len(self.tickets) < in_flight and (plan := self.submit()) is not None:
                plans.append(plan)
            if self.tickets:
                self.collect()
            elif self.scheduler.has_work:
                wait_s = self.scheduler.next_wakeup_s()
                assert wait_s is not None, "there is work, nothing to do, and nothing to wait for"
                self.clock.advance(wait_s)
        raise AssertionError("the scheduler does not come to an end")

    # Looking

    def check_progress(self, plan: StepPlan | None) -> None:
        """With nothing in flight before it, a plan has the best-ranked running sequence in it."""
        running = self.scheduler._roster.running
        if running:
            assert plan is not None, "somebody runs, but nothing is computed"
            slots = [part.slot for part in plan.ranges]
            assert running[0].slot in slots, "the best-ranked does not advance"

    def look(self) -> None:
        self.scheduler.check()
        for number, group in enumerate(self.kv.groups):
            for page in group.pool.free_pages():
                self.runner.poison(number, page)

    def take(self, events: list[Event]) -> None:
        """Keep what events say; each must make sense."""
        for event in events:
            assert event.request_id not in self.failed, "an event after Failed"
            if isinstance(event, Failed):
                self.failed[event.request_id] = event
            elif isinstance(event, PromptScored):
                scores = self.scores[event.request_id]
                assert event.index == len(scores) + 1, "prompt scores with a gap, or twice"
                scores.extend(score.logprob for score in event.logprobs)
            else:
                answer = self.answers[event.request_id][event.choice]
                assert answer.finished is None, "an event after Finished"
                if isinstance(event, Token):
                    assert event.index == len(answer.token_ids), "tokens with a gap, or twice"
                    answer.token_ids.append(event.token_id)
                else:
                    answer.finished = event
                    assert event.usage.completion_tokens == len(answer.token_ids)

    def outputs(self, request_id: str) -> list[list[int]]:
        return [answer.token_ids for answer in self.answers[request_id].values()]

    def stats(self) -> Any:
        return self.scheduler.stats()

    def check_answers(self) -> None:
        """Everything is answered as expected, and nothing is held any more."""
        for request_id, answers in self.answers.items():
            if request_id in self.failed:
                continue
            request = self.requests[request_id]
            for choice, answer in answers.items():
                self.check_answer(request, choice, answer)
        stats = self.scheduler.stats()
        assert (stats.waiting, stats.running) == (0, 0)
        for pages in stats.pages:
            assert pages.held == 0
            assert pages.free + pages.cached == self.num_pages - 1

    def check_answer(self, request: Request, choice: int, answer: Answer) -> None:
        expected, reason = expected_answer(
            request,
            choice,
            vocab_size=VOCAB,
            end_token_ids=(END,),
            max_model_len=self.max_model_len,
        )
        assert answer.finished is not None, "a choice without an end"
        usage, timings = answer.finished.usage, answer.finished.timings
        assert usage.prompt_tokens == len(request.prompt_ids)
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens
        assert 0 <= timings.started_s <= timings.first_token_s <= timings.finished_s
        if answer.finished.reason is FinishReason.ABORT:
            assert answer.token_ids == expected[: len(answer.token_ids)]
            return
        assert answer.token_ids == expected
        assert answer.finished.reason is reason
        stop_id = expected[-1] if reason is FinishReason.STOP else None
        assert answer.finished.stop_token_id == stop_id
        if choice == 0 and request.params.prompt_logprobs is not None and not answer.known:
            assert self.scores[request.request_id] == [-float(t) for t in request.prompt_ids[1:]]

    def resumable(self, request_id: str, upto: int) -> tuple[ChoiceSoFar, ...]:
        """The resume record of a request of which at most ``upto`` tokens a choice were seen."""
        return tuple(
            ChoiceSoFar(choice, tuple(answer.token_ids[:upto]))
            for choice, answer in self.answers[request_id].items()
        )


_REQUEST_FIELDS = {"tenant", "priority", "deadline_s", "adapter", "resume"}
