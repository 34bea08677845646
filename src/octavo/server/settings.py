"""What an operator decides about a server: bounds, deadlines, who may ask. One frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Literal, get_args

from octavo.core.errors import ConfigError
from octavo.server.auth import ApiKeys

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

SamplingDefaults = Literal["model", "openai"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server treats its clients.

    Raises:
        ConfigError: a value is out of range.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    """Empty: no key is asked for."""
    allowed_hosts: tuple[str, ...] | None = LOOPBACK_HOSTS
    """Names under which clients may address the server, without ports, in the Host header and in
    the Origin header of browsers; None: any."""
    sampling_defaults: SamplingDefaults = "model"
    """For what a request leaves open: the values in the model's generation_config.json, or always
    those of the OpenAI API."""

    max_body_bytes: int = 2 * 2**20
    max_json_depth: int = 64
    max_prompts: int = 64
    """In one request for completions."""
    max_choices: int = 64
    """Prompts times ``n``, in one request for completions."""

    max_head_bytes: int = 32 * 2**10
    """Of the first line and the headers of a request."""

    head_timeout_s: float = 10.0
    """First line and headers must have arrived by then."""
    body_timeout_s: float = 30.0
    """A body must have arrived by then."""
    write_timeout_s: float = 60.0
    """A client that takes nothing for so long is cut off."""
    stall_s: float = 120.0
    """An engine that has work and makes no step for so long is not ready."""
    watch_interval_s: float = 1.0
    """How often engines are looked at."""
    drain_timeout_s: float = 30.0
    """When the server stops, answers under way may take so long; then they are cut off."""

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value: object = getattr(self, field_.name)
            if field_.name.startswith("max_"):
                _check_positive(field_.name, value, int)
            elif field_.name.endswith("_s"):
                _check_positive(field_.name, value, int | float)
        if self.sampling_defaults not in get_args(SamplingDefaults):
            raise ConfigError(
                f"sampling_defaults must be one of {', '.join(get_args(SamplingDefaults))},"
                f" got {self.sampling_defaults!r}"
            )


def _check_positive(name: str, value: object, kind: type | UnionType) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not value > 0:  # type: ignore[operator]
        raise ConfigError(f"{name} must be above 0, got {value!r}")
