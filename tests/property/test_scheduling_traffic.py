"""Heavy traffic on small machines: every answer is right, and every path is taken.

Each world has its own settings and its own requests, drawn from a seed. Between steps requests
come, are aborted, fail, and run out of time. The counters of all worlds together must show that
every path was taken, so that the equal answers mean something.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Any

import pytest

from octavo.core.hashing import PageName, page_name
from octavo.core.request import Priority
from octavo.core.step import SlotEntry, TokenRange
from octavo.scheduling.batching import Batching, Continuous, Dynamic, Static
from tests.fakes import FakeClock
from tests.scheduling_world import VOCAB, World

STEMS = [[(11 * i + i * i // 7 + stem) % VOCAB for i in range(100)] for stem in range(3)]
NUM_WORLDS = int(os.environ.get("OCTAVO_TRAFFIC_WORLDS", "60"))  # more of them for a soak
NUM_REQUESTS = 25

PATHS = (
    "preemptions",
    "displacements",
    "hit_tokens",
    "forks",
    "page_copies",
    "evictions",
    "failed",
    "overdue",
    "aborted",
    "resumed",
    "padded",
)


def weak_name(parent: PageName, content: bytes) -> PageName:
    """A hash of three bits: names collide all the time."""
    return bytes([page_name(parent, content)[0] % 8])


class Traffic:
    """One world and what happens to it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.paths: Counter[str] = Counter()
        self.doomed: set[tuple[str, int]] = set()
        self.kv_cache = self.random.random() < 0.85
        self.in_flight = self.random.choice([1, 2]) if self.kv_cache else 1
        self.world = World(**self.options(), batching=self.batching, fail=self.fails)

    def options(self) -> dict[str, Any]:
        random = self.random
        chunked = random.random() < 0.7
        self.slots = random.randint(2, 6)
        tokens = random.choice([self.slots, 16, 40]) if chunked and self.kv_cache else 130
        return {
            "windows": random.choice([(None,), (None, 20), (5, None), (33,), (1,), (None, 16, 40)]),
            "num_pages": random.randint(10, 16),
            "max_num_seqs": self.slots,
            "max_num_batched_tokens": max(tokens, self.slots),
            "max_model_len": 128,
            "chunked_prefill": chunked,
            "prefix_cache": random.random() < 0.7,
            "kv_cache": self.kv_cache,
            "policy": random.choice(["fcfs", "priority", "priority", "length"]),
            "name_page": weak_name if random.random() < 0.1 else page_name,
        }

    def batching(self, clock: FakeClock) -> Batching:
        size, pad = self.random.randint(1, self.slots), self.random.random() < 0.5
        kind = self.random.random()
        if kind < 0.1:
            return Dynamic(max_batch_size=size, max_wait_s=1.0, clock=clock, pad=pad)
        if kind < 0.2:
            return Static(max_batch_size=size, max_batch_tokens=90, pad=pad)
        return Continuous()

    def fails(self, entry: SlotEntry, part: TokenRange) -> str | None:
        doomed = (entry.request.request_id, entry.choice) in self.doomed
        return "as the test wants it" if doomed else None

    def add(self, number: int) -> None:
        random, world = self.random, self.world
        prompt = random.choice(STEMS)[: random.choice([0, 15, 16, 17, 33, 60, 64])]
        request_id = f"r{number}"
        if random.random() < 0.05:
            self.doomed.add((request_id, 0))
        deadline = random.random() < 0.1
        world.add(
            request_id,
            [*prompt, random.randrange(VOCAB)],
            max_tokens=random.choice([1, 10, 40, 60]),
            ignore_eos=random.random() < 0.7,
            n=random.choice([1, 1, 1, 2, 4]),
            tenant=random.choice("aab"),
            priority=random.choice(list(Priority)),
            prompt_logprobs=0 if random.random() < 0.1 else None,
            deadline_s=world.clock.now_s + random.choice([1, 20]) if deadline else None,
        )

    def abort(self) -> None:
        request_id = self.random.choice(sorted(self.world.requests))
        choice = self.random.choice([None, 0, 1])
        self.paths["aborted"] += bool(self.world.abort(request_id, choice))

    def resume(self) -> None:
        """As after a crash: the request goes on under a new id, its first tokens known."""
        world = self.world
        request_id = self.random.choice(sorted(world.requests))
        params = world.requests[request_id].params
        if request_id in world.failed or request_id.endswith("+"):
            return
        known = world.resumable(request_id, upto=self.random.randint(0, 30))
        world.abort(request_id)
        if f"{request_id}+" not in world.requests:
            world.add(
                f"{request_id}+",
                world.requests[request_id].prompt_ids,
                resume=known,
                tenant=world.requests[request_id].tenant,
                max_tokens=params.max_tokens,
                ignore_eos=params.ignore_eos,
                n=params.n,
                seed=params.seed,
            )
            self.paths["resumed"] += 1

    def run(self) -> Counter[str]:
        world, random = self.world, self.random
        number = 0
        while number < NUM_REQUESTS:
            if random.random() < 0.3 or not world.requests:
                self.add(number)
                number += 1
            if random.random() < 0.03:
                self.abort()
            if random.random() < 0.03:
                self.resume()
            world.clock.advance(0.1)
            plan = world.submit()
            self.paths["padded"] += bool(plan and plan.padding)
            if len(world.tickets) == self.in_flight or (plan is None and world.tickets):
                world.collect()
        world.drain(in_flight=self.in_flight)
        world.check_answers()
        stats = world.stats()
        for path in PATHS:
            self.paths[path] += getattr(stats, path, 0)
        codes = Counter(failed.code for failed in world.failed.values())
        self.paths["failed"] += codes["request_failed"]
        self.paths["overdue"] += codes["deadline_exceeded"]
        return self.paths


@pytest.mark.slow
def test_answers_are_right_on_every_path() -> None:
    paths: Counter[str] = Counter()
    for seed in range(NUM_WORLDS):
        try:
            paths += Traffic(seed).run()
        except BaseException as error:
            error.add_note(f"in the world of seed {seed}")
            raise
    assert [path for path in PATHS if paths[path] < 10] == [], paths
    print(dict(paths))
