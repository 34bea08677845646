"""The compiled loops of attention keep their sums in registers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from octavo import _native

_INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\s+(\S.*)")
_JUMP = re.compile(r"j\w+\s+([0-9a-f]+)\b")


def loops(listing: str) -> Iterator[list[str]]:
    """Bodies of innermost and next to innermost loops: code between a label and a jump back."""
    instructions: list[tuple[int, str]] = []
    index_of: dict[int, int] = {}
    for line in listing.splitlines():
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        address = int(found[1], 16)
        index_of[address] = len(instructions)
        instructions.append((address, found[2]))
        jump = _JUMP.match(found[2])
        begin = index_of.get(int(jump[1], 16)) if jump else None
        if begin is not None and len(instructions) - begin < 120:
            yield [text for _, text in instructions[begin:]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="other machine code")
def test_sums_stay_in_registers() -> None:
    """A compiler that keeps them in memory reads and writes each of them around each product."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(_native.__file__)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "vdpbf16ps" not in listing or "__asan" in listing:
        pytest.skip("not the code of a release with bf16 dot products")
    tight = [
        body
        for body in loops(listing)
        if sum("vdpbf16ps" in text for text in body) >= 12
        and sum(text.startswith("j") for text in body) <= 4
    ]
    assert len(tight) > 20
    for body in tight:
        on_stack = [text for text in body if "mm" in text and "(%rsp" in text]
        assert len(on_stack) <= 4, "\n".join(body)
