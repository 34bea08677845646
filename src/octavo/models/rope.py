"""Rotary embeddings: from a model's configuration to the angles of a program.

Each kind of scaling is one class. Factors are fixed when a model is loaded, from its
configuration and ``max_model_len``; the length of a request never changes them, so that a token's
keys are the same whatever follows it. All arithmetic is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.core.errors import ModelError, UnsupportedModel
from octavo.models.fields import Fields
from octavo.program.ir import RotaryTable

F64 = NDArray[np.float64]

DEFAULT_THETA = 10_000.0


class Rope(Protocol):
    """One kind of rotary embedding with its settings."""

    @property
    def default_len(self) -> int:
        """Tokens of a sequence, unless the user wants another number."""

    @property
    def longest_len(self) -> int:
        """Tokens of a sequence at the most."""

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        """Radians a position turns each pair of features by: (rotary_dim / 2,)."""


def rotary_table(rope: Rope, rotary_dim: int, max_model_len: int) -> RotaryTable:
    """The angles that a program carries."""
    frequencies = rope.frequencies(rotary_dim, max_model_len)
    return RotaryTable(tuple(frequencies.tolist()), rope.magnitude, max_model_len)


def _plain_frequencies(theta: float, rotary_dim: int) -> F64:
    return 1.0 / theta ** (np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)


@dataclass(frozen=True, slots=True)
class DefaultRope:
    """Su et al., "RoFormer", 2021."""

    theta: float
    max_positions: int
    magnitude: float = 1.0

    @property
    def default_len(self) -> int:
        return self.max_positions

    @property
    def longest_len(self) -> int:
        return self.max_positions

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        return _plain_frequencies(self.theta, rotary_dim)


@dataclass(frozen=True, slots=True)
class LinearRope:
    """Positions divided by a factor (Chen et al., "Position Interpolation", 2023)."""

    theta: float
    max_positions: int
    factor: float
    magnitude: float = 1.0

    @property
    def default_len(self) -> int:
        return self.max_positions

    @property
    def longest_len(self) -> int:
        return max(self.max_positions, int(self.max_positions * self.factor))

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        return _plain_frequencies(self.theta, rotary_dim) / self.factor


@dataclass(frozen=True, slots=True)
class DynamicRope:
    """A larger base for a length beyond the original one ("dynamic NTK")."""

    theta: float
    max_positions: int
    factor: float
    magnitude: float = 1.0

    @property
    def default_len(self) -> int:
        return self.max_positions

    @property
    def longest_len(self) -> int:
        return max(self.max_positions, int(self.max_positions * self.factor))

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        stretch = max(max_model_len, self.max_positions) / self.max_positions
        grown = (self.factor * stretch - (self.factor - 1.0)) ** (rotary_dim / (rotary_dim - 2))
        return _plain_frequencies(self.theta * grown, rotary_dim)


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Slow frequencies divided by a factor, fast ones kept, a ramp between (Llama 3.1)."""

    theta: float
    max_positions: int
    factor: float
    low_factor: float
    high_factor: float
    original_len: int
    magnitude: float = 1.0

    @property
    def default_len(self) -> int:
        return self.max_positions

    @property
    def longest_len(self) -> int:
        return self.max_positions

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        plain = _plain_frequencies(self.theta, rotary_dim)
        turns = self.original_len * plain / (2.0 * math.pi)  # over the original length
        kept = (turns - self.low_factor) / (self.high_factor - self.low_factor)
        kept = np.clip(kept, 0.0, 1.0)
        mixed: F64 = kept * plain + (1.0 - kept) * plain / self.factor
        return mixed


@dataclass(frozen=True, slots=True)
class YarnRope:
    """Peng et al., "YaRN", 2023."""

    theta: float
    max_positions: int
    factor: float
    original_len: int
    magnitude: float
    beta_fast: float
    beta_slow: float
    truncate: bool

    @property
    def default_len(self) -> int:
        return self.max_positions

    @property
    def longest_len(self) -> int:
        return max(self.max_positions, int(self.original_len * self.factor))

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        plain = _plain_frequencies(self.theta, rotary_dim)
        first = self._pair_that_turns(self.beta_fast, rotary_dim)
        last = self._pair_that_turns(self.beta_slow, rotary_dim)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, rotary_dim - 1)
        if first == last:
            last += 0.001  # a ramp of no width
        divided: F64 = np.clip((np.arange(rotary_dim // 2) - first) / (last - first), 0.0, 1.0)
        mixed: F64 = (1.0 - divided) * plain + divided * plain / self.factor
        return mixed

    def _pair_that_turns(self, num_turns: float, rotary_dim: int) -> float:
        """Index of the pair that turns this often over the original length; a fraction."""
        ratio = self.original_len / (num_turns * 2.0 * math.pi)
        return rotary_dim * math.log(ratio) / (2.0 * math.log(self.theta))


@dataclass(frozen=True, slots=True)
class LongRope:
    """Each pair has its own divisor, one set within the original length and one beyond it.

    Ding et al., "LongRoPE", 2024. The set is chosen by ``max_model_len``.
    """

    theta: float
    max_positions: int
    original_len: int
    factor: float
    magnitude: float
    short_divisors: tuple[float, ...]
    long_divisors: tuple[float, ...]

    @property
    def default_len(self) -> int:
        return min(self.original_len, self.max_positions)

    @property
    def longest_len(self) -> int:
        return max(self.max_positions, int(self.original_len * self.factor))

    def frequencies(self, rotary_dim: int, max_model_len: int) -> F64:
        is_long = max_model_len > self.original_len
        divisors: F64 = np.array(self.long_divisors if is_long else self.short_divisors)
        return _plain_frequencies(self.theta, rotary_dim) / divisors


def read_rope(config: Fields, *, head_dim: int) -> Rope:
    """The rotary embedding that a configuration asks for.

    Both forms are read: ``rope_scaling`` with ``rope_theta`` beside it, and ``rope_parameters``
    (transformers 5) with the theta inside.

    Raises:
        ModelError: a setting is missing or out of range.
        UnsupportedModel: a kind that is not implemented.
    """
    if head_dim % 2:
        raise ModelError(f"{config.where}: rotary embeddings need an even head_dim, got {head_dim}")
    settings = Fields({}, config.where)
    for name in ("rope_parameters", "rope_scaling"):
        if name in config and config.values[name] != {}:
            settings = config.section(name)
    _refuse_unsupported(config, settings)
    theta = config.number("rope_theta", DEFAULT_THETA, above=1.0)
    theta = settings.number("rope_theta", theta, above=1.0)
    kind = settings.text("rope_type", settings.text("type", "default"))
    if kind not in _READERS:
        raise UnsupportedModel(
            f"{settings.where}: rope_type {kind!r} is not supported",
            hint=f"supported are {', '.join(_READERS)}",
        )
    max_positions = config.integer("max_position_embeddings")
    return _READERS[kind](_Source(config, settings, theta, max_positions, head_dim))


def _refuse_unsupported(config: Fields, settings: Fields) -> None:
    for fields in (config, settings):
        if "partial_rotary_factor" in fields and fields.number("partial_rotary_factor") != 1.0:
            raise UnsupportedModel(f"{fields.where}: partial_rotary_factor is not supported")
    for name, value in settings.values.items():
        if isinstance(value, dict):
            raise UnsupportedModel(
                f"{settings.where}: rotary embeddings that differ by layer are not supported",
                hint=f"{name!r} holds settings of its own",
            )
    if "mrope_section" in settings:
        raise UnsupportedModel(f"{settings.where}: mrope_section is not supported")


@dataclass(frozen=True, slots=True)
class _Source:
    """What the readers below read from."""

    config: Fields
    settings: Fields
    theta: float
    max_positions: int
    head_dim: int

    def original_len(self) -> int:
        """The length that the model was trained with before it was stretched."""
        name = "original_max_position_embeddings"
        if name in self.config:  # where a configuration has both, this one counts
            return self.config.integer(name)
        return self.settings.integer(name, self.max_positions)

    def factor(self) -> float:
        return _at_least_one(self.settings, self.settings.number("factor"))

    def factor_or_ratio(self, original_len: int) -> float:
        ratio = max(1.0, self.max_positions / original_len)
        return _at_least_one(self.settings, self.settings.number("factor", ratio))


def _at_least_one(settings: Fields, factor: float) -> float:
    if factor < 1.0:
        raise settings.error("factor", "must be a number >= 1")
    return factor


def _read_default(source: _Source) -> Rope:
    return DefaultRope(source.theta, source.max_positions)


def _read_linear(source: _Source) -> Rope:
    return LinearRope(source.theta, source.max_positions, source.factor())


def _read_dynamic(source: _Source) -> Rope:
    if source.head_dim <= 2:
        raise ModelError(f"{source.settings.where}: rope_type 'dynamic' needs a head_dim above 2")
    return DynamicRope(source.theta, source.max_positions, source.factor())


def _read_llama3(source: _Source) -> Rope:
    settings = source.settings
    low = settings.number("low_freq_factor")
    return Llama3Rope(
        source.theta,
        source.max_positions,
        source.factor(),
        low_factor=low,
        high_factor=settings.number("high_freq_factor", above=low),
        original_len=source.original_len(),
    )


def _read_yarn(source: _Source) -> Rope:
    settings = source.settings
    original_len = source.original_len()
    factor = source.factor_or_ratio(original_len)
    magnitude = _yarn_magnitude(factor, 1.0)
    if "mscale" in settings and "mscale_all_dim" in settings:
        magnitude = _yarn_magnitude(factor, settings.number("mscale"))
        magnitude /= _yarn_magnitude(factor, settings.number("mscale_all_dim"))
    beta_slow = settings.number("beta_slow", 1.0)
    return YarnRope(
        source.theta,
        source.max_positions,
        factor,
        original_len,
        magnitude=settings.number("attention_factor", magnitude),
        beta_fast=settings.number("beta_fast", 32.0, above=beta_slow),
        beta_slow=beta_slow,
        truncate=settings.boolean("truncate", True),
    )


def _yarn_magnitude(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0


def _read_longrope(source: _Source) -> Rope:
    settings = source.settings
    original_len = source.original_len()
    factor = source.factor_or_ratio(original_len)
    magnitude = 1.0
    if factor > 1.0:
        magnitude = math.sqrt(1.0 + math.log(factor) / math.log(max(2, original_len)))
    num_pairs = source.head_dim // 2
    return LongRope(
        source.theta,
        source.max_positions,
        original_len,
        factor,
        magnitude=settings.number("attention_factor", magnitude),
        short_divisors=settings.numbers("short_factor", count=num_pairs),
        long_divisors=settings.numbers("long_factor", count=num_pairs),
    )


_READERS = {
    "default": _read_default,
    "linear": _read_linear,
    "dynamic": _read_dynamic,
    "llama3": _read_llama3,
    "yarn": _read_yarn,
    "longrope": _read_longrope,
}
