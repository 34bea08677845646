"""Beam searches on tiny models: what parity with transformers is checked on.

Shared by the parity test, which needs PyTorch, and by the golden file, which stands in for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from octavo import LLM, BeamOutput
from octavo.runtime.beams import EarlyStopping
from tests.architectures import Case

MAX_DIFFERENCE = 3e-6
"""Of scores, relative: transformers adds up float32 logprobs in float32."""


@dataclass(frozen=True, slots=True)
class BeamCase:
    """One search on one model."""

    name: str
    model: Case
    width: int
    max_tokens: int
    length_penalty: float
    early_stopping: EarlyStopping
    end_token_ids: tuple[int, ...]

    def prompt_ids(self) -> list[int]:
        return self.model.prompt_ids()

    def search(self, folder: Path, **options: object) -> BeamOutput:
        """What Octavo finds."""
        with LLM(folder, **options) as llm:
            [output] = llm.beam_search(
                self.prompt_ids(),
                width=self.width,
                max_tokens=self.max_tokens,
                length_penalty=self.length_penalty,
                early_stopping=self.early_stopping,
                num_return=self.width,
                end_token_ids=self.end_token_ids,
            )
        return output


# A small vocabulary, so that end tokens come up often enough to matter.
SMALL = {"vocab_size": 48}
MODELS = (  # seeds such that no two scores are nearly equal
    Case("llama", "llama", SMALL, num_prompt_tokens=21, seed=5),
    Case("llama_one_token", "llama", SMALL, num_prompt_tokens=1, seed=2),
    Case("mistral_window", "mistral", {**SMALL, "sliding_window": 24}, 30, seed=4),
    Case("qwen2", "qwen2", SMALL, num_prompt_tokens=16),
    Case("qwen3", "qwen3", SMALL, num_prompt_tokens=33, seed=5),
    Case("gpt2", "gpt2", SMALL, num_prompt_tokens=9, seed=2),
)
# width, max_tokens, length_penalty, early_stopping, number of end tokens
SETTINGS: tuple[tuple[int, int, float, EarlyStopping, int], ...] = (
    (4, 40, 1.0, False, 8),
    (4, 40, 1.0, True, 8),
    (4, 40, 1.0, "never", 8),
    (2, 24, 1.0, False, 1),
    (4, 24, 0.0, False, 2),
    (5, 30, 2.0, "never", 3),
    (5, 20, -1.0, False, 2),
    (4, 17, 0.5, "never", 6),
    (16, 20, 0.7, False, 4),
    (6, 1, 1.0, False, 1),
    (3, 20, 1.0, False, 0),
)


def beam_cases() -> Iterator[BeamCase]:
    """Every model with every setting; which tokens end a sequence differs from case to case."""
    for number, model in enumerate(MODELS):
        for row, (width, max_tokens, penalty, stopping, num_ends) in enumerate(SETTINGS):
            first = 5 + 7 * number + row // 3
            yield BeamCase(
                f"{model.name}-{width}-{max_tokens}-{penalty}-{stopping}-{num_ends}",
                model,
                width,
                max_tokens,
                penalty,
                stopping,
                tuple((first + 11 * i) % SMALL["vocab_size"] for i in range(num_ends)),
            )


def assert_found(output: BeamOutput, expected: Sequence[tuple[list[int], float]]) -> None:
    """The same sequences in the same order, with the same scores up to rounding."""
    assert output.error is None
    assert [list(found.token_ids) for found in output.sequences] == [ids for ids, _ in expected]
    scores = [found.score for found in output.sequences]
    assert scores == pytest.approx([score for _, score in expected], rel=MAX_DIFFERENCE)
