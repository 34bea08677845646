"""What a chat template may spend, and the checks that keep to it.

The environment in ``template_sandbox`` calls these around every operation that can grow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2.runtime import Context

from octavo.core.clock import Clock

MAX_TEXT_CHARACTERS = 2**23
"""Of a rendered conversation, and of any text on the way to it."""
MAX_CHARACTERS_MADE = 2**27
"""Of all texts on the way together; lists count by their items."""
MAX_VALUES = 2**19
"""In a list or object that is spelt out, everything nested in it included."""
MAX_STEPS = 200_000
"""Rounds of loops, calls and operations."""
MAX_SECONDS = 10.0
MAX_BITS = 4096
"""Of integers."""

ALLOWANCE = "the allowance"
"""The variable that holds it in a template's context. No template can name it: it has a space."""

# A width of five digits, or one that comes from elsewhere.
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(?:\d{5}|\*)|\{[^{}]*(?:\{|\d{5})")


class TemplateTooCostly(jinja2.TemplateError):
    """A bound was passed."""


class Allowance:
    """What one rendering may still spend."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline_s = clock() + MAX_SECONDS
        self._steps = MAX_STEPS
        self._characters = MAX_CHARACTERS_MADE

    def spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise TemplateTooCostly(f"more than {MAX_STEPS} operations")
        if self._clock() > self._deadline_s:
            raise TemplateTooCostly(f"more than {MAX_SECONDS} seconds")

    def made(self, value: Any) -> Any:
        """``value``, the result of an operation, once it is paid for."""
        self.spend()
        length = length_of(value)
        require_short(length)
        self._characters -= length
        if self._characters < 0:
            raise TemplateTooCostly(f"texts of more than {MAX_CHARACTERS_MADE} characters in all")
        return value

    def each(self, items: Any) -> Any:
        """``items``, paid for round by round; all at once where their number is known."""
        try:
            count = len(items)
        except TypeError:
            return self._one_by_one(items)
        self.spend(count)
        return items

    def _one_by_one(self, items: Iterable[Any]) -> Iterable[Any]:
        for item in items:
            self.spend()
            yield item


def allowance_of(context: Context) -> Allowance:
    """That of the rendering which a context belongs to."""
    allowance = context.parent[ALLOWANCE]
    assert isinstance(allowance, Allowance)
    return allowance


def require_short(length: int) -> None:
    if length > MAX_TEXT_CHARACTERS:
        raise TemplateTooCostly(f"a text of more than {MAX_TEXT_CHARACTERS} characters")


def measured(value: Any) -> Any:
    """``value``, once it is known that spelling it out takes no endless text."""
    if isinstance(value, list | tuple | dict):
        waiting, length, count = [value], 0, 0
        while waiting:
            inner = waiting.pop()
            items = [*inner, *inner.values()] if isinstance(inner, dict) else inner
            length += sum(len(item) for item in items if isinstance(item, str))
            count += len(items)
            require_short(length)
            if count > MAX_VALUES:
                raise TemplateTooCostly(f"a list or object of more than {MAX_VALUES} values")
            waiting += [item for item in items if isinstance(item, list | tuple | dict)]
    return value


def spelt(value: Any) -> str:
    """``value`` as text."""
    return str(measured(value))


def joined(separator: str, parts: Iterable[str]) -> str:
    """As ``separator.join``, stopping early."""
    kept: list[str] = []
    length = 0
    for part in parts:
        length += len(part) + len(separator)
        require_short(length)
        kept.append(part)
    return separator.join(kept)


def length_of(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Of the binary operators + * ** %."""
    if operator == "+":
        require_short(length_of(left) + length_of(right))
    elif operator == "*":
        for sequence, number in ((left, right), (right, left)):
            if isinstance(number, int):
                require_short(length_of(sequence) * number)
        _require_few_bits(_bits(left) + _bits(right))
    elif operator == "**" and isinstance(right, int):
        _require_few_bits(_bits(left) * right)
    elif operator == "%" and isinstance(left, str):
        check_format(left)


def check_method(text: str, method: str, args: tuple[Any, ...]) -> None:
    """Of calls to a string's methods."""
    if method == "replace" and len(args) >= 2:
        check_replace(text, str(args[0]), str(args[1]))
    elif method == "join" and args and isinstance(args[0], list | tuple):
        require_short(sum(length_of(item) + len(text) for item in args[0]))


def check_format(pattern: str) -> None:
    if _WIDE_FORMAT.search(pattern):
        raise TemplateTooCostly("a format with a wide or computed width")


def check_replace(text: str, old: str, new: str) -> None:
    require_short(len(text) + text.count(old) * max(0, len(new) - len(old)))


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _require_few_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateTooCostly(f"an integer of more than {MAX_BITS} bits")
