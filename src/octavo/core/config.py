"""The engine's settings: one frozen value, checked when it is made.

Parts of the engine never take this whole; each is given the few numbers that it uses.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from octavo.core.errors import ConfigError, did_you_mean

BackendName = Literal["reference"]
WeightsName = Literal["f32", "dummy"]
PolicyName = Literal["fcfs", "priority", "length"]
BatchingName = Literal["continuous", "dynamic", "static"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine computes and shares its work.

    Raises:
        ConfigError: a value is out of range, or two settings contradict each other.
    """

    backend: BackendName = "reference"
    weights: WeightsName = "f32"
    """``dummy`` fills f32 weights with random numbers; only a config.json is needed."""
    num_threads: int | None = None
    """None: one for each core that this process may use."""

    max_model_len: int | None = None
    """Longest prompt + output of a request; None: what the model's configuration says."""
    max_num_seqs: int = 32
    """Sequences computed together at the most."""
    max_num_batched_tokens: int = 512
    """Tokens computed in one step at the most."""
    num_pages: int | None = None
    """Pages of keys and values in each KV group; None: as many as memory allows."""

    policy: PolicyName = "fcfs"
    """Who goes next: first come; by priority; or short prompts first."""
    max_waiting_requests: int = 1_000_000
    max_waiting_tokens: int = 1_000_000_000
    """A request that would push the queue past either is refused."""

    kv_cache: bool = True
    """Off: every step computes all tokens of a sequence again."""
    prefix_cache: bool = True
    chunked_prefill: bool = True
    """Off: a prompt is computed in one step or waits."""
    continuous_batching: bool = True
    """Off: a batch is formed, runs until its last sequence ends, and only then the next."""
    batching: Literal["dynamic", "static"] = "dynamic"
    """How batches are formed when continuous batching is off."""
    max_batch_size: int = 8
    max_batch_tokens: int | None = None
    """A static batch also ends before its prompts exceed this many tokens."""
    max_wait_ms: float = 10.0
    """A dynamic batch starts when it is full or when its oldest request waited this long."""
    pad: bool = False
    """Also compute the padding of a rectangular batch, to measure what it wastes."""
    steps_in_flight: int = 1
    """2: the next step is planned while one is being computed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_choice(field.name)
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_batch_size"):
            self._check_at_least(name, 1)
        for name in ("num_threads", "max_model_len", "num_pages", "max_batch_tokens"):
            if getattr(self, name) is not None:
                self._check_at_least(name, 1)
        self._check_at_least("max_waiting_requests", 1)
        self._check_at_least("max_waiting_tokens", 1)
        if not (isinstance(self.max_wait_ms, int | float) and self.max_wait_ms >= 0):
            raise ConfigError(f"max_wait_ms must be >= 0, got {self.max_wait_ms!r}")
        if self.steps_in_flight not in (1, 2):
            raise ConfigError(f"steps_in_flight must be 1 or 2, got {self.steps_in_flight!r}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is below"
                f" max_num_seqs={self.max_num_seqs}, so that some sequence could starve",
                hint="raise max_num_batched_tokens or lower max_num_seqs",
            )
        if self.pad and self.continuous_batching:
            raise ConfigError(
                "pad=True measures the padding of closed batches",
                hint="set continuous_batching=False too",
            )
        if not self.kv_cache and self.steps_in_flight > 1:
            raise ConfigError("kv_cache=False needs steps_in_flight=1")

    def _check_choice(self, name: str) -> None:
        value = getattr(self, name)
        allowed: tuple[object, ...] = get_args(_CHOICES.get(name))
        if allowed and value not in allowed:
            names = ", ".join(repr(choice) for choice in allowed)
            raise ConfigError(
                f"{name} must be one of {names}, got {value!r}",
                hint=did_you_mean(str(value), [str(choice) for choice in allowed]),
            )

    def _check_at_least(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"{name} must be an integer >= {low}, got {value!r}")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> EngineConfig:
        """Build from keyword options; an unknown one is an error with a hint."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}", hint=did_you_mean(name, known))
        return cls(**options)


_CHOICES: dict[str, Any] = {
    "backend": BackendName,
    "weights": WeightsName,
    "policy": PolicyName,
    "batching": Literal["dynamic", "static"],
}
