"""Where the time of a step goes: inside the model's forward pass, and in each part around it."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.engine.engine import EngineStats

PARTS = ("plan", "batch", "run", "result", "apply", "rest", "outside", "total")
"""Figures of a step, in the order of the table."""


class StepParts(msgspec.Struct, frozen=True):
    """Microseconds a step, on average over some time."""

    steps: int
    plan: float
    """The scheduler decides."""
    batch: float
    """The plan becomes arrays."""
    run: float
    """The backend computes, sampling included."""
    result: float
    """Rows become the results of sequences."""
    apply: float
    """The scheduler takes them in."""
    rest: float
    """Everything else: requests and events as bytes, ids to text, the caller."""
    kernels: dict[str, float] = {}
    """Of ``run``, by kind of work."""

    @classmethod
    def between(cls, before: EngineStats, after: EngineStats, wall_s: float) -> StepParts:
        """What happened from one moment to another, ``wall_s`` seconds apart."""
        steps = after.steps - before.steps
        assert steps > 0, "nothing was computed"

        def spent(part: str) -> float:
            name = f"{part}_s"
            return float(getattr(after, name) - getattr(before, name)) / steps * 1e6

        known = {part: spent(part) for part in ("plan", "batch", "run", "result", "apply")}
        rest = wall_s / steps * 1e6 - sum(known.values())
        kernels = {
            kind: (seconds - before.kernels_s.get(kind, 0.0)) / steps * 1e6
            for kind, seconds in after.kernels_s.items()
        }
        return cls(steps=steps, rest=rest, kernels=kernels, **known)

    @property
    def outside(self) -> float:
        """Everything but ``run``."""
        return self.plan + self.batch + self.result + self.apply + self.rest

    @property
    def total(self) -> float:
        return self.outside + self.run

    def fields(self) -> dict[str, Any]:
        """As it is printed for programs: the names are those of the table."""
        figures = {name: getattr(self, name) for name in ("steps", *PARTS)}
        return {**figures, "kernels": self.kernels}
