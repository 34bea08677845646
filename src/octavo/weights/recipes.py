"""Which format each matrix of a program is stored in.

``w4`` is a mixture: what a feed-forward layer gives back, the values of attention and the head
lose most by four bits, and keep eight.
"""

from __future__ import annotations

from octavo.program.ir import Activate, Attend, Embed, EmbedBy, Glu, Linear, Logits, Program, Weight

EIGHT_BITS_OF_W4 = frozenset(("down", "value", "head"))


def formats_of(program: Program, name: str) -> dict[Weight, str]:
    """The format of every matrix that a product multiplies with, or that tokens are looked up in.

    Args:
        name: f32, bf16, w8 or w4.
    """
    operations = program.operations
    values = {part.v.index for part in operations if isinstance(part, Attend)}
    formats: dict[Weight, str] = {}
    for index, part in enumerate(operations):
        if isinstance(part, Linear):
            fed_by = operations[part.x.index]
            role = "down" if isinstance(fed_by, Glu | Activate) else "other"
            formats[part.weight] = _format(name, "value" if index in values else role)
        elif isinstance(part, Logits):
            formats[part.weight] = _format(name, "head")
    for part in operations:
        # A table that is no head is read a row at a time: four or eight bits would save no time.
        if isinstance(part, Embed) and part.by is EmbedBy.TOKEN:
            formats.setdefault(part.table, "f32" if name == "f32" else "bf16")
    return formats


def describe(name: str) -> str:
    """Names the recipe, for the names of pages and for people."""
    return f"w4 ({', '.join(sorted(EIGHT_BITS_OF_W4))} w8)" if name == "w4" else name


def _format(name: str, role: str) -> str:
    return "w8" if name == "w4" and role in EIGHT_BITS_OF_W4 else name
