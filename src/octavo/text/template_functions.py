"""What chat templates call, with the signatures of Jinja and Hugging Face, within bounds.

Left out, because no template needs them and their cost is hard to bound: padding methods and
filters, ``lipsum``, ``pprint``, ``random``, ``urlize``, ``wordwrap``, ``xmlattr``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import filters
from jinja2.runtime import Context
from jinja2.utils import Namespace

from octavo.text.template_limits import (
    TemplateTooCostly,
    allowance_of,
    check_format,
    check_replace,
    joined,
    measured,
    require_short,
    spelt,
)

EACH, CONCATENATED, SEEN = "octavo_each", "octavo_concatenated", "octavo_seen"
"""Filters that ``template_sandbox`` puts around loops, ``~`` and other filters."""
MISSING_FILTERS = ("center", "pprint", "random", "urlize", "wordwrap", "xmlattr")
MISSING_METHODS = frozenset({"center", "expandtabs", "format_map", "ljust", "rjust", "zfill"})
"""Of strings."""
_MAX_FILTER_NUMBER = 10_000


class TemplateRefusal(jinja2.TemplateError):
    """The template called ``raise_exception``: it does not take this conversation."""


class PlainNamespace(Namespace):
    """A namespace that holds no name beginning with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No parameter has a name, so that ``namespace(self=...)`` can be said.
        own, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            _require_plain_name(name)
        Namespace.__init__(own, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain_name(name)
        super().__setitem__(name, value)


def _require_plain_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def template_globals(now: Callable[[], datetime]) -> dict[str, Any]:
    """Functions by name, beside Jinja's own."""
    return {
        "dict": _make_dict,
        "namespace": PlainNamespace,
        "raise_exception": _raise_exception,
        "strftime_now": lambda pattern: now().strftime(pattern),
    }


def template_filters(own: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Filters by name, given Jinja's own."""
    return {
        **{name: own[name] for name in own if name not in MISSING_FILTERS},
        **{name: _with_small_numbers(own[name]) for name in ("batch", "slice", "truncate")},
        EACH: _each,
        CONCATENATED: _concatenated,
        SEEN: _seen,
        "format": _format,
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "tojson": _to_json,
    }


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefusal(str(message))


@jinja2.pass_context
def _each(context: Context, items: Any) -> Any:
    return allowance_of(context).each(items)


@jinja2.pass_context
def _concatenated(context: Context, values: list[Any]) -> str:
    text: str = allowance_of(context).made(joined("", map(spelt, values)))
    return text


@jinja2.pass_context
def _seen(context: Context, value: Any) -> Any:
    return allowance_of(context).made(value)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, without HTML escapes."""
    return json.dumps(
        measured(value),
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@jinja2.pass_environment
def _join(
    environment: jinja2.Environment, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        value = map(filters.make_attrgetter(environment, attribute), value)
    return joined(str(d), map(spelt, value))


def _replace(s: Any, old: str, new: str, count: int | None = None) -> str:
    text = spelt(s)
    check_replace(text, str(old), str(new))
    return text.replace(str(old), str(new), -1 if count is None else count)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    check_format(str(value))
    return filters.do_format(value, *args, **kwargs)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = len(width) if isinstance(width, str) else width
    require_short(len(s) + (s.count("\n") + 1) * margin)
    return filters.do_indent(s, width, first, blank)


def _with_small_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # Jinja finds its own marks on the copy
    def checked_function(*args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, int) and abs(argument) > _MAX_FILTER_NUMBER:
                raise TemplateTooCostly(f"a filter's argument is above {_MAX_FILTER_NUMBER}")
        return function(*args, **kwargs)

    return checked_function
