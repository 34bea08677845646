"""Who goes next: policies give each request a key, the smaller the sooner.

Keys are fixed when a request is taken; with its arrival number and the choice added they become
ranks, of which no two are equal. One order serves everything: who is computed first, who is let
in, and, read from the other end, who gives its pages up. What follows from that is said in
``planner``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from octavo.core.config import PolicyName
from octavo.core.request import Priority, Request


class Policy(Protocol):
    """An order over requests."""

    def key(self, request: Request, arrival_s: float) -> float:
        """Smaller goes first; requests with equal keys go in the order of arrival."""

    def may_displace(self, waiting: Request, running: Request) -> bool:
        """Whether ``running``, which ranks below, must make way when ``waiting`` has no room."""


@dataclass(frozen=True, slots=True)
class FirstComeFirstServed:
    """In the order of arrival."""

    def key(self, request: Request, arrival_s: float) -> float:
        return 0.0

    def may_displace(self, waiting: Request, running: Request) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ByPriority:
    """By ``Request.priority``, then in the order of arrival.

    A waiting interactive request displaces running batch requests, which go on later. As long as
    more urgent requests fill the machine, less urgent ones wait: that is what priority means.
    """

    def key(self, request: Request, arrival_s: float) -> float:
        return float(request.priority)

    def may_displace(self, waiting: Request, running: Request) -> bool:
        return waiting.priority is Priority.INTERACTIVE and running.priority is Priority.BATCH


@dataclass(frozen=True, slots=True)
class ShortestFirst:
    """Short prompts first, and nobody starves.

    A prompt lets those go ahead that are shorter and arrive soon after it: for ``max_wait_s`` if
    it were as long as the model allows, for a part in proportion otherwise. Whatever arrives
    ``max_wait_s`` or more after a request can never overtake it. Requests that arrive together go
    exactly by length.
    """

    max_model_len: int
    max_wait_s: float = 30.0

    def key(self, request: Request, arrival_s: float) -> float:
        return arrival_s + self.max_wait_s * len(request.prompt_ids) / self.max_model_len

    def may_displace(self, waiting: Request, running: Request) -> bool:
        return False


def make_policy(name: PolicyName, *, max_model_len: int) -> Policy:
    """The policy that a configuration names."""
    match name:
        case "fcfs":
            return FirstComeFirstServed()
        case "priority":
            return ByPriority()
        case "length":
            return ShortestFirst(max_model_len)
