"""Checks of values that a caller gave: what is acceptable comes back in its plain form.

Whatever counts as an integer, a number or a string (NumPy's scalars, subclasses) becomes exactly
``int``, ``float`` or ``str``, because that is what can travel as a message. Anything else is an
InvalidRequest that names the parameter and gives its range.
"""

from __future__ import annotations

import operator
from numbers import Integral, Real
from typing import Any

from octavo.core.errors import InvalidRequest

NUM_TOKEN_IDS = 2**31
"""No vocabulary is larger; whether an id is in the model's own, the engine checks."""


def integer(
    name: str, value: Any, low: int, high: int, *, high_name: str = "", param: str = ""
) -> int:
    """An integer in [low, high]; ``high_name`` is another parameter that sets the bound."""
    if is_integer(value) and low <= value <= high:
        return int(value)
    bound = f"{high_name}={high}" if high_name else f"{high}"
    raise InvalidRequest(
        f"{name} must be an integer in [{low}, {bound}], got {shown(value)}", param=param or name
    )


def number(
    name: str, value: Any, low: float, high: float, *, open_low: bool = False, param: str = ""
) -> float:
    """A number in [low, high], or in (low, high]."""
    if is_number(value) and low <= value <= high:
        plain = float(value)
        if not (open_low and plain == low):
            return plain
    bracket = "(" if open_low else "["
    raise InvalidRequest(
        f"{name} must be a number in {bracket}{low}, {high}], got {shown(value)}",
        param=param or name,
    )


def flag(name: str, value: Any) -> bool:
    """True or false, and nothing that only counts as such."""
    if isinstance(value, bool):
        return value
    raise InvalidRequest(f"{name} must be true or false, got {shown(value)}", param=name)


def text(name: str, value: Any, least: int, most: int) -> str:
    """A string of ``least`` to ``most`` characters that can be written as UTF-8."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string, got {shown(value)}", param=name)
    if not least <= len(value) <= most:
        raise InvalidRequest(
            f"{name} must have {least} to {most} characters, got {len(value)}", param=name
        )
    if not is_unicode(value):
        raise InvalidRequest(f"{name} has half of a surrogate pair: {value!r:.80}", param=name)
    return str(value)


def token_ids(name: str, value: Any, most: int | None = None) -> tuple[int, ...]:
    """A list of token ids."""
    ids = sequence(name, value, most)
    if not set(map(type, ids)) <= {int}:  # which nearly all are
        for item in ids:
            if not is_integer(item):
                raise InvalidRequest(f"{name} takes token ids, got {shown(item)}", param=name)
        ids = [operator.index(item) for item in ids]
    if ids and not 0 <= min(ids) <= max(ids) < NUM_TOKEN_IDS:
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise InvalidRequest(
            f"{name}: {shown(wrong)} is outside of the vocabulary of any model, whose ids are in"
            f" [0, {NUM_TOKEN_IDS})",
            param=name,
        )
    return tuple(ids)


def sequence(name: str, value: Any, most: int | None = None) -> list[Any]:
    """A list, tuple or array of at most ``most`` entries."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"{name} must be a list, got {shown(value)}", param=name)
    if most is not None and len(value) > most:
        raise InvalidRequest(f"{name} takes at most {most} entries, got {len(value)}", param=name)
    return list(value)


def is_integer(value: Any) -> bool:
    """An integer of any kind; True and False are none."""
    # Asking the type first saves most of the work: abstract classes are slow to answer.
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def is_number(value: Any) -> bool:
    """A real number of any kind; True and False are none."""
    return type(value) in (int, float) or (isinstance(value, Real) and not isinstance(value, bool))


def is_unicode(value: str) -> bool:
    """Whether it can be written as UTF-8: a lone surrogate cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """A value in an error's sentence: never long, whatever it is."""
    if isinstance(value, Integral) and abs(int(value)) >= 10**20:
        return "a huge integer"  # Python refuses to print the largest ones
    content = f"{value!r}"
    return content if len(content) <= 80 else f"{content[:77]}..."
