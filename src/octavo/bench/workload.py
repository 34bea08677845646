"""The work that every rung of the ladder does: requests in groups that share a beginning."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from octavo.core.errors import ConfigError
from octavo.core.request import SamplingParams

_FIRST_ID = 3
"""Below are the special tokens of most vocabularies."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A mix of requests, the same for the same numbers.

    Prompts are random token ids: ``prefix`` of the group, then a tail of the request's own. Every
    other request is greedy, the rest draw with seeds. Lengths of tails are drawn evenly between
    their bounds; those of answers evenly in their logarithm: many short ones and a few long ones.
    """

    seed: int = 1
    groups: int
    requests: int
    """Of all groups together; groups take turns."""
    prefix: int
    """Tokens that the prompts of a group have in common."""
    tail: tuple[int, int]
    answer: tuple[int, int]

    @property
    def longest(self) -> int:
        """Tokens that the longest request may have."""
        return self.prefix + self.tail[1] + self.answer[1]

    def requests_for(self, vocab_size: int) -> list[tuple[list[int], SamplingParams]]:
        """Prompts and how to answer them, for a model with so many tokens."""
        random = np.random.default_rng(self.seed)

        def ids(count: int) -> list[int]:
            drawn: list[int] = random.integers(
                min(_FIRST_ID, vocab_size - 1), vocab_size, count
            ).tolist()
            return drawn

        prefixes = [ids(self.prefix) for _ in range(self.groups)]
        requests = []
        for index in range(self.requests):
            tail = int(random.integers(self.tail[0], self.tail[1] + 1))
            low, high = map(math.log, self.answer)
            answer = round(math.exp(random.uniform(low, high)))
            how: dict[str, Any] = (
                {"temperature": 0.0} if index % 2 else {"temperature": 0.8, "top_p": 0.95}
            )
            params = SamplingParams(max_tokens=answer, seed=index, ignore_eos=True, **how)
            requests.append((prefixes[index % self.groups] + ids(tail), params))
        return requests


QUICK = Workload(groups=4, requests=48, prefix=128, tail=(8, 32), answer=(8, 128))
FULL = Workload(groups=6, requests=144, prefix=160, tail=(8, 64), answer=(8, 256))


def fit(workload: Workload, max_model_len: int) -> Workload:
    """The same mix, its lengths scaled down where the model's context is short.

    Raises:
        ConfigError: the context is too short for any such mix.
    """
    if workload.longest <= max_model_len:
        return workload
    if max_model_len < 64:
        raise ConfigError(
            f"the ladder needs a context of 64 tokens, the model has {max_model_len}",
            hint="measure a model with a longer context, or leave the model out",
        )

    def scaled(length: int) -> int:
        return max(1, length * max_model_len // workload.longest)

    return msgspec.structs.replace(
        workload,
        prefix=scaled(workload.prefix),
        tail=(scaled(workload.tail[0]), scaled(workload.tail[1])),
        answer=(scaled(workload.answer[0]), scaled(workload.answer[1])),
    )
