"""Write ``beams.json``: what transformers' beam search finds, for tests without PyTorch.

Run from the repository root with the extra ``parity`` installed:

    python -m tests.golden.make_beams
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers

from tests.beam_cases import beam_cases
from tests.parity.beam_oracle import beam_search

TARGET = Path(__file__).parent / "beams.json"


def main() -> None:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = []
    for case in beam_cases():
        with tempfile.TemporaryDirectory() as folder:
            found = beam_search(case.model.write(Path(folder)), case)
        rows = [[token_ids, float(f"{score:.9g}")] for token_ids, score in found]
        lines.append(f"{json.dumps(case.name)}: {json.dumps(rows, separators=(',', ':'))}")
    cases = ",\n".join(lines)
    TARGET.write_text(f'{{"made_with": {json.dumps(versions)},\n"cases": {{\n{cases}\n}}}}\n')


if __name__ == "__main__":
    main()
