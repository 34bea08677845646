"""Reading typed fields of a JSON object, with errors that name the file and the field.

Which fields a model has belongs to ``spec.py``. A field that is ``null`` counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from octavo.core.errors import ModelError
from octavo.core.json_file import read_json_object

MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object.

    Every method raises ModelError when the field is of the wrong type or out of range, or when it
    is absent and there is no default.
    """

    values: Mapping[str, object]
    where: str
    """What messages begin with: the file, and the object inside it."""

    @classmethod
    def read(cls, path: Path) -> Fields:
        """The object in a JSON file.

        Raises:
            ModelError: the file cannot be read, is not JSON, or does not hold an object.
        """
        return cls(read_json_object(path), path.name)

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def integer(
        self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_INTEGER
    ) -> int:
        """An integer in [low, high]."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"must be an integer in [{low}, {high}]")
        return value

    def number(self, name: str, default: float | None = None, *, above: float = 0.0) -> float:
        """A finite number greater than ``above``."""
        value = self._get(name, default)
        if not _is_number(value) or not value > above:
            raise self.error(name, f"must be a number > {above:g}")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "must be a string")
        return value

    def numbers(self, name: str, *, count: int) -> tuple[float, ...]:
        """A list of ``count`` positive numbers."""
        values = self._get(name, None)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(_is_number(value) and value > 0 for value in values)
        ):
            raise self.error(name, f"must be a list of {count} numbers > 0")
        return tuple(float(value) for value in values)

    def texts(self, name: str, *, count: int) -> tuple[str, ...]:
        """A list of ``count`` strings."""
        values = self._get(name, None)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(isinstance(value, str) for value in values)
        ):
            raise self.error(name, f"must be a list of {count} strings")
        return tuple(values)

    def section(self, name: str) -> Fields:
        """An object inside this one."""
        value = self._get(name, None)
        if not isinstance(value, dict):
            raise self.error(name, "must be an object")
        return Fields(value, f"{self.where}: {name}")

    def error(self, name: str, expected: str) -> ModelError:
        """What is wrong with a field that is there."""
        shown = repr(self.values.get(name))
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return ModelError(f"{self.where}: {name} {expected}, got {shown}")

    def _get(self, name: str, default: object) -> object:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            raise ModelError(f"{self.where}: {name} is missing")
        return default


def _is_number(value: object) -> TypeGuard[int | float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 2.0**1000  # an integer may be larger than any float
        and math.isfinite(value)
    )
