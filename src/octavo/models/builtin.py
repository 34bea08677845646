"""The model that comes with the package: what it is called, and where it lies.

It is a model folder as any other, the package's data; its card is the README.md in it.
"""

from __future__ import annotations

from pathlib import Path

BUILTIN = "builtin"
"""What everybody calls it, and what is meant where no model is named."""


def builtin_folder() -> Path:
    """The folder of the built-in model."""
    return Path(__file__).parents[1] / BUILTIN
