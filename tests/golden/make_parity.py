"""Write ``parity.json``: what transformers gives for every case, for tests without PyTorch.

Run from the repository root with the extra ``parity`` installed:

    python -m tests.golden.make_parity
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers

from octavo.models.spec import ModelSpec
from tests.architectures import CASES, NUM_GREEDY, Case
from tests.parity.oracle import Oracle

TARGET = Path(__file__).parent / "parity.json"
NUM_SAMPLED_LOGITS = 6


def main() -> None:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    cases = {case.name: _expected(case) for case in CASES}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(cases[name])}" for name in cases)
    TARGET.write_text(f'{{"made_with": {json.dumps(versions)},\n"cases": {{\n{lines}\n}}}}\n')


def _expected(case: Case) -> dict[str, list[int] | list[float]]:
    """Greedy tokens, and logits of the row before each of the last few of them.

    The logits are those of tokens spread over the vocabulary.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = case.write(Path(name))
        max_model_len = ModelSpec.read(folder).resolve_max_model_len(case.max_model_len)
        oracle = Oracle(folder, max_model_len=max_model_len)
        prompt_ids = case.prompt_ids()
        greedy, _ = oracle.greedy(prompt_ids, min(NUM_GREEDY, max_model_len - len(prompt_ids)))
        logits = oracle.logits([*prompt_ids, *greedy[:-1]])
    return {
        "greedy": greedy,
        "first_logits": _spread(logits[0]),
        "prompt_logits": _spread(logits[len(prompt_ids) - 1]),
        "last_logits": _spread(logits[-1]),
    }


def _spread(row: object) -> list[float]:
    assert hasattr(row, "tolist")
    numbers: list[float] = row.tolist()
    step = len(numbers) // NUM_SAMPLED_LOGITS
    return [round(number, 6) for number in numbers[::step][:NUM_SAMPLED_LOGITS]]


if __name__ == "__main__":
    main()
