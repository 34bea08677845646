"""The step loop: plan, submit, collect, apply. Ids only; no threads of its own, no text.

Whoever owns an engine calls ``step`` as long as there is work. With two steps in flight the next
plan is made while the runner computes the last one.
"""

from __future__ import annotations

from collections import deque

import msgspec

from octavo.core.clock import Clock, monotonic
from octavo.core.errors import EngineDead
from octavo.core.events import Event
from octavo.core.request import Request
from octavo.execution.runner import Runner, Ticket
from octavo.scheduling.scheduler import Scheduler
from octavo.scheduling.stats import SchedulerStats


class EngineStats(msgspec.Struct, frozen=True):
    """Counters since the engine started."""

    scheduler: SchedulerStats
    steps: int
    max_steps_in_flight: int
    """Most steps that were planned before the oldest of them was collected."""
    plan_s: float
    batch_s: float
    run_s: float
    result_s: float
    apply_s: float
    kernels_s: dict[str, float] = {}
    """Of ``run_s``, by kind of work; empty unless the engine profiles."""


class Engine:
    """A scheduler and a runner, one step after the other."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        steps_in_flight: int = 1,
        clock: Clock = monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._steps_in_flight = steps_in_flight
        self._clock = clock
        self._tickets: deque[Ticket] = deque()
        self._steps = 0
        self._max_steps_in_flight = 0
        self._found_nothing = False
        self._plan_s = 0.0
        self._apply_s = 0.0
        self._death: BaseException | None = None

    def add(self, request: Request) -> None:
        """Take a request. Raises InvalidRequest or Overloaded, and then nothing has changed."""
        if self._death is not None:
            raise self._died_earlier() from self._death
        self._scheduler.add(request)

    def abort(self, request_id: str, choice: int | None = None) -> list[Event]:
        """End a request, or one of its choices, now; unknown and finished ones are ignored."""
        return self._scheduler.abort(request_id, choice)

    @property
    def has_work(self) -> bool:
        return bool(self._tickets) or self._scheduler.has_work

    def idle_s(self) -> float | None:
        """Seconds to wait before the next step, if the last one found nothing to compute: a batch
        is not full yet. None when stepping on makes sense, or when only a request helps."""
        return self._scheduler.next_wakeup_s() if self._found_nothing else None

    def step(self) -> list[Event]:
        """Keep the runner busy, then wait for its oldest step; what became known since.

        Raises:
            EngineDead: the backend failed as a whole. The engine is of no use afterwards; its
                requests can be resumed on another one.
        """
        if self._death is not None:
            raise self._died_earlier() from self._death
        try:
            return self._step()
        except Exception as error:
            self._death = error
            raise EngineDead(f"a step failed: {error!r}") from error

    def _step(self) -> list[Event]:
        tickets, scheduler, clock = self._tickets, self._scheduler, self._clock
        while len(tickets) < self._steps_in_flight:
            started = clock()
            plan = scheduler.plan_step()
            self._plan_s += clock() - started
            if plan is None:
                break
            tickets.append(self._runner.submit(plan))
        self._found_nothing = not tickets
        if not tickets:
            return scheduler.take_events()
        if len(tickets) > self._max_steps_in_flight:
            self._max_steps_in_flight = len(tickets)
        result = tickets.popleft().result()
        started = clock()
        events = scheduler.apply(result)
        self._steps += 1
        self._apply_s += clock() - started
        return events

    def stats(self) -> EngineStats:
        times = self._runner.times
        return EngineStats(
            scheduler=self._scheduler.stats(),
            steps=self._steps,
            max_steps_in_flight=self._max_steps_in_flight,
            plan_s=self._plan_s,
            batch_s=times.batch_s,
            run_s=times.run_s,
            result_s=times.result_s,
            apply_s=self._apply_s,
            kernels_s=self._runner.kernel_seconds(),
        )

    def check(self) -> None:
        """Assert the scheduler's invariants."""
        self._scheduler.check()

    def close(self) -> None:
        """Wait for steps in flight; drop them."""
        self._runner.close()
        self._tickets.clear()

    def _died_earlier(self) -> EngineDead:
        return EngineDead(f"the engine died earlier: {self._death!r}")
