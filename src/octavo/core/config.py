"""The engine's settings: one frozen value, checked when it is made.

Parts of the engine never take this whole; each is given the few numbers that it uses.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from octavo.core.checks import is_integer, is_number, shown
from octavo.core.errors import ConfigError, did_you_mean

BackendName = Literal["native", "reference"]
WeightsName = Literal["f32", "bf16", "w8", "w4"]
KvName = Literal["f32", "bf16", "int8"]
LoadFormatName = Literal["checkpoint", "dummy"]
PolicyName = Literal["fcfs", "priority", "length"]
BatchingName = Literal["dynamic", "static"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine computes and shares its work.

    Raises:
        ConfigError: a value is out of range, or two settings contradict each other.
    """

    backend: BackendName = "native"
    """What computes: fast kernels, or plain NumPy that shows what is right."""
    weights: WeightsName | None = None
    """Format of the weights in memory; None: w8, and f32 on the reference backend."""
    kv: KvName | None = None
    """Format of keys and values; None: bf16, and f32 where the weights are."""
    load_format: LoadFormatName = "checkpoint"
    """``dummy`` makes up random weights; only a config.json is needed."""
    pack_cache: bool = True
    """Off: weights are packed at each start, and their packed form is not kept on disk."""
    profile: bool = False
    """Measure how long each kind of kernel takes."""
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
    """A request that finds so many waiting is refused."""
    max_waiting_tokens: int = 1_000_000_000
    """A request whose prompt would push the waiting prompts past so many tokens is refused."""

    kv_cache: bool = True
    """Off: every step computes all tokens of a sequence again."""
    prefix_cache: bool = True
    """Off: the beginning that two prompts have in common is computed for each."""
    chunked_prefill: bool = True
    """Off: a prompt is computed in one step or waits."""
    continuous_batching: bool = True
    """Off: a batch is formed, runs until its last sequence ends, and only then the next."""
    batching: BatchingName = "dynamic"
    """How batches are formed when continuous batching is off."""
    max_batch_size: int = 8
    """Sequences of a batch at the most, when continuous batching is off."""
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
            if isinstance(field.default, bool):
                self._check_flag(field.name)
        for name, most in _MOST.items():
            if getattr(self, name) is not None:
                self._check_integer(name, most)
        wait_ms = self.max_wait_ms
        if not is_number(wait_ms) or not 0 <= wait_ms <= _MAX_WAIT_MS:
            raise ConfigError(
                f"max_wait_ms must be a number in [0, {_MAX_WAIT_MS}], got {shown(wait_ms)}"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is below"
                f" max_num_seqs={self.max_num_seqs}, so that some sequence could starve",
                hint="raise max_num_batched_tokens or lower max_num_seqs",
            )
        if self.continuous_batching:
            self._refuse_batch_settings()
        if self.backend == "reference":
            self._refuse_packed_formats()
        if not self.kv_cache and self.steps_in_flight > 1:
            raise ConfigError("kv_cache=False needs steps_in_flight=1")

    @property
    def weight_format(self) -> WeightsName:
        """What ``weights`` comes to."""
        return self.weights or ("w8" if self.backend == "native" else "f32")

    @property
    def kv_format(self) -> KvName:
        """What ``kv`` comes to."""
        return self.kv or ("f32" if self.weight_format == "f32" else "bf16")

    def _refuse_packed_formats(self) -> None:
        for name in ("weights", "kv"):
            value = getattr(self, name)
            if value not in (None, "f32"):
                raise ConfigError(
                    f"{name}={value!r} needs backend='native'; the reference backend has f32 only",
                    hint=f"leave {name} out, or set backend='native'",
                )

    def _refuse_batch_settings(self) -> None:
        """What forms closed batches would do nothing, and nobody sets it for that."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_CLOSED_BATCHES and value != field.default:
                raise ConfigError(
                    f"{field.name}={value!r} is a setting of closed batches",
                    hint="set continuous_batching=False too",
                )

    def _check_flag(self, name: str) -> None:
        value: object = getattr(self, name)
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be True or False, got {shown(value)}")

    def _check_integer(self, name: str, most: int) -> None:
        value = getattr(self, name)
        if not is_integer(value) or not 1 <= value <= most:
            raise ConfigError(f"{name} must be an integer in [1, {most}], got {shown(value)}")

    def _check_choice(self, name: str) -> None:
        value = getattr(self, name)
        if value is None and name in _MAY_BE_OPEN:
            return
        allowed: tuple[object, ...] = get_args(_CHOICES.get(name))
        if allowed and not (isinstance(value, str) and value in allowed):
            names = ", ".join(repr(choice) for choice in allowed)
            raise ConfigError(
                f"{name} must be one of {names}, got {shown(value)}",
                hint=did_you_mean(str(value), [str(choice) for choice in allowed]),
            )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> EngineConfig:
        """Build from keyword options; an unknown one is an error with a hint."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}", hint=did_you_mean(name, known))
        return cls(**options)


_MAY_BE_OPEN = ("weights", "kv")
_CHOICES: dict[str, Any] = {
    "backend": BackendName,
    "weights": WeightsName,
    "kv": KvName,
    "load_format": LoadFormatName,
    "policy": PolicyName,
    "batching": BatchingName,
}
_MOST = {
    "num_threads": 256,
    "max_model_len": 2**24,
    "max_num_seqs": 2**16,
    "max_num_batched_tokens": 2**24,
    "num_pages": 2**31 - 1,
    "max_waiting_requests": 2**62,
    "max_waiting_tokens": 2**62,
    "max_batch_size": 2**16,
    "max_batch_tokens": 2**31 - 1,
    "steps_in_flight": 2,
}
"""The most that each integer may be; the least is 1."""
_MAX_WAIT_MS = 3_600_000
_OF_CLOSED_BATCHES = ("batching", "max_batch_size", "max_batch_tokens", "max_wait_ms", "pad")
