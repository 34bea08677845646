"""Write ``builtin_formats.json``: what the built-in model makes of its beginnings in each format.

Octavo's own answers, to notice when they change. Run from the repository root, after
``make_builtin``, on a machine with the avx512bf16 kernels, which has both families:

    python -m tests.golden.make_builtin_formats
"""

from __future__ import annotations

import json
import os

from tests.golden.builtin_formats import BF16, FMA, FORMATS, TARGET, answers, families


def main() -> None:
    if families({"weights": "bf16"}).keys() != {BF16, FMA}:
        raise SystemExit("this machine has one family of bf16 arithmetic; both are needed")
    lines = []
    for name, options in FORMATS.items():
        for family, instruction_set in families(options).items():
            os.environ["OCTAVO_CPU_ISA"] = instruction_set
            found = {"format": name, "family": family, "ids": answers(options)}
            lines.append(json.dumps(found))
    TARGET.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
