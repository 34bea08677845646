"""The numbers of a server for Prometheus. Each server has a registry of its own.

Label values are closed sets: served models, declared routes, outcomes, KV groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from octavo.core.clock import Clock
from octavo.engine.engine import EngineStats
from octavo.server.record import OUTCOMES, RequestRecord

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
UNKNOWN = "unknown"
_FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Pace:
    """When the tokens of one request came."""

    __slots__ = ("_clock", "_first", "_last_s", "_next", "_started_s")

    def __init__(self, started_s: float, clock: Clock, first: Histogram, following: Histogram):
        self._started_s = started_s
        self._clock = clock
        self._first = first
        self._next = following
        self._last_s: dict[int, float] = {}

    def tick(self, choice: int) -> None:
        """Something new of this choice."""
        now_s = self._clock()
        last_s = self._last_s.get(choice)
        if last_s is not None:
            self._next.observe(now_s - last_s)
        elif not self._last_s:
            self._first.observe(now_s - self._started_s)
        self._last_s[choice] = now_s


class ModelMetrics:
    """What is counted for one model."""

    def __init__(
        self,
        prompt_tokens: Counter,
        generated_tokens: Counter,
        first_token_s: Histogram,
        inter_token_s: Histogram,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.generated_tokens = generated_tokens
        self._first_token_s = first_token_s
        self._inter_token_s = inter_token_s

    def pace(self, started_s: float, clock: Clock) -> Pace:
        return Pace(started_s, clock, self._first_token_s, self._inter_token_s)


class ServerMetrics:
    """All of a server's numbers.

    Args:
        models: names of the served ones.
        routes: declared paths.
    """

    def __init__(self, models: Iterable[str], routes: Iterable[str]) -> None:
        self._registry = CollectorRegistry()
        self._engines = _EngineCollector()
        self._registry.register(self._engines)
        names = list(models)
        self._requests = Counter(
            "octavo_requests",
            "HTTP requests by what became of them.",
            ["model", "route", "outcome"],
            registry=self._registry,
        )
        self._request_s = Histogram(
            "octavo_request_seconds",
            "From the first byte of a request for tokens to the last byte of its answer.",
            ["model"],
            buckets=_REQUEST_BUCKETS_S,
            registry=self._registry,
        )
        self._loop_lag_s = Gauge(
            "octavo_event_loop_lag_seconds",
            "By how much the event loop was late when it was last looked at.",
            registry=self._registry,
        )
        prompt_tokens = Counter(
            "octavo_prompt_tokens",
            "Tokens of prompts that an engine took.",
            ["model"],
            registry=self._registry,
        )
        generated_tokens = Counter(
            "octavo_generated_tokens",
            "Tokens of answers, also of those that nobody waited for.",
            ["model"],
            registry=self._registry,
        )
        first_token_s = Histogram(
            "octavo_time_to_first_token_seconds",
            "From the first byte of a request to its first token.",
            ["model"],
            buckets=_FIRST_TOKEN_BUCKETS_S,
            registry=self._registry,
        )
        inter_token_s = Histogram(
            "octavo_inter_token_seconds",
            "Between two tokens of a choice.",
            ["model"],
            buckets=_INTER_TOKEN_BUCKETS_S,
            registry=self._registry,
        )
        self._routes = frozenset(routes)
        self._models = {
            name: ModelMetrics(
                prompt_tokens.labels(name),
                generated_tokens.labels(name),
                first_token_s.labels(name),
                inter_token_s.labels(name),
            )
            for name in names
        }

    def of(self, model: str) -> ModelMetrics:
        """Of a served model."""
        return self._models[model]

    def count_request(self, record: RequestRecord, now_s: float) -> None:
        """A request is over."""
        assert record.outcome in OUTCOMES
        model = record.model if record.model in self._models else UNKNOWN
        route = record.route if record.route in self._routes else UNKNOWN
        self._requests.labels(model, route, record.outcome).inc()
        if record.usage is None:
            return
        mine = self._models[model]
        mine.prompt_tokens.inc(record.usage.prompt_tokens)
        mine.generated_tokens.inc(record.usage.completion_tokens)
        if record.outcome == "ok":
            self._request_s.labels(model).observe(now_s - record.started_s)

    def set_loop_lag(self, seconds: float) -> None:
        self._loop_lag_s.set(seconds)

    def page(self, engines: Mapping[str, EngineStats]) -> bytes:
        """The metrics page, with the counters of the engines as they are given."""
        self._engines.stats = engines
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Engines keep their own counters; this only writes them down."""

    def __init__(self) -> None:
        self.stats: Mapping[str, EngineStats] = {}

    def collect(self) -> Iterator[Metric]:
        running = _gauge("sequences_running", "Sequences that are being computed.")
        waiting = _gauge("sequences_waiting", "Sequences that wait for a place.")
        pages = GaugeMetricFamily(
            "octavo_kv_pages",
            "Pages of keys and values; each is free, cached or held.",
            labels=["model", "group", "state"],
        )
        steps = _counter("engine_steps", "Steps of the engine.")
        computed = _counter("computed_tokens", "Tokens that were computed.")
        hits = _counter("prefix_hit_tokens", "Prompt tokens found in the prefix cache.")
        preemptions = _counter("preemptions", "Sequences that lost their place.")
        evictions = _counter("page_evictions", "Cached pages that were given up.")
        for model, stats in self.stats.items():
            scheduler = stats.scheduler
            running.add_metric([model], scheduler.running)
            waiting.add_metric([model], scheduler.waiting)
            steps.add_metric([model], stats.steps)
            computed.add_metric([model], scheduler.computed_tokens)
            hits.add_metric([model], scheduler.hit_tokens)
            preemptions.add_metric([model], scheduler.preemptions)
            evictions.add_metric([model], scheduler.evictions)
            for group, counts in enumerate(scheduler.pages):
                for state in ("free", "cached", "held"):
                    pages.add_metric([model, str(group), state], getattr(counts, state))
        yield from (running, waiting, pages, steps, computed, hits, preemptions, evictions)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"octavo_{name}", text, labels=["model"])


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"octavo_{name}", text, labels=["model"])
