"""What a command says at its start where weights have fewer bits than in their checkpoint."""

from __future__ import annotations

from pathlib import Path

from octavo.core.config import EngineConfig
from octavo.weights.formats import FORMATS
from octavo.weights.shards import stored_bytes

KEEPS = {"F32": "f32", "F16": "f32", "BF16": "bf16"}
"""The narrowest format that holds every number of a stored type: bf16 has fewer digits than f16."""


def precision_note(folder: Path, config: EngineConfig) -> str | None:
    """One line on a format that is narrower than the checkpoint; None where nothing is lost.

    The checkpoint's type is that of most of its bytes, from the headers of its files.

    Raises:
        ModelError: a file is damaged.
    """
    if config.load_format == "dummy":
        return None
    sizes = stored_bytes(folder)
    stored = max(sizes, key=lambda name: sizes[name], default="")
    keeps, wanted = KEEPS.get(stored), config.weight_format
    if keeps is None or FORMATS[keeps].bits <= FORMATS[wanted].bits:
        return None
    return (
        f"weights {wanted} (from {stored.lower()});"
        f" --weights {keeps} keeps the checkpoint's precision"
    )
