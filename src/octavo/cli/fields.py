"""A settings class read as a list of settings: name, type, default, and what its docstring says.

Flags, environment variables, TOML keys, ``/set`` and the reference pages all come from these
lists, so that a field of ``EngineConfig`` or ``SamplingParams`` is written down once, where it is
defined.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

import msgspec

from octavo.core.errors import ConfigError

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a settings class."""

    name: str
    kind: Any
    """Its type, without None."""
    optional: bool
    """Whether None is a value."""
    default: Any
    doc: str
    """The docstring below the field, on one line; empty where there is none."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values, where the type lists them."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def is_compound(self) -> bool:
        """Whether one value is made of several: a tuple or a mapping."""
        return typing.get_origin(self.kind) in (tuple, dict)

    @property
    def takes(self) -> str:
        """What a person may write, in words."""
        if self.is_compound:
            return _COMPOUND[self.kind][0]
        return f"one of {', '.join(self.choices)}" if self.choices else _NAMES[self.kind]

    def parse(self, text: str) -> Any:
        """The value that a person wrote.

        Raises:
            ConfigError: it is not of the setting's type; ranges are the settings class's business.
        """
        if self.optional and text.strip().lower() == "none":
            return None
        if self.is_compound:
            return self.parse_all([text])
        if self.choices:
            return text
        try:
            return _SCALARS[self.kind](text)
        except ValueError:
            raise self._error(text, _NAMES[self.kind]) from None

    def parse_all(self, texts: Sequence[str]) -> Any:
        """The value of a compound setting from all its parts.

        Raises:
            ConfigError: a part is not in the setting's compact form.
        """
        form, read = _COMPOUND[self.kind]
        try:
            return read(texts)
        except ValueError:
            raise self._error(" ".join(texts), form) from None

    def _error(self, text: str, wanted: str) -> ConfigError:
        return ConfigError(f"{self.name} takes {wanted}, got {text!r}")


def settings_of(kind: type) -> tuple[Setting, ...]:
    """The fields of a dataclass or a msgspec Struct, in their order."""
    hints = typing.get_type_hints(kind)
    docs = _docs_of(kind)
    settings = []
    for name, default in _defaults_of(kind).items():
        hint, optional = _without_none(hints[name])
        settings.append(Setting(name, hint, optional, default, docs.get(name, "")))
    return tuple(settings)


def _defaults_of(kind: type) -> dict[str, Any]:
    if issubclass(kind, msgspec.Struct):
        return {
            field.name: field.default_factory()
            if field.default is msgspec.NODEFAULT
            else field.default
            for field in msgspec.structs.fields(kind)
            if callable(field.default_factory) or field.default is not msgspec.NODEFAULT
        }
    assert dataclasses.is_dataclass(kind)
    return {field.name: field.default for field in dataclasses.fields(kind)}


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    assert len(kinds) == 1, f"a setting has one type, not {hint}"
    return kinds[0], True


def _docs_of(kind: type) -> dict[str, str]:
    """The strings below the fields in the class's source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except OSError:  # an installation without sources works too, with less help
        return {}
    [body] = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    docs = {}
    for field, below in itertools.pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.replace("``", "").split())
    return docs


def _bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(text)
    return word in TRUE_WORDS


_SCALARS: dict[Any, Callable[[str], Any]] = {bool: _bool, int: int, float: float, str: str}
_NAMES = {bool: "on or off", int: "an integer", float: "a number", str: "a text"}


def _integers(texts: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(part) for text in texts for part in text.split(","))


def _sequences(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    return tuple(_integers([part]) for text in texts for part in text.split(";"))


def _biases(texts: Sequence[str]) -> dict[int, float]:
    biases = {}
    for text in texts:
        for part in text.split(","):
            token, _, bias = part.partition("=")
            biases[int(token)] = float(bias)
    return biases


def _strings(texts: Sequence[str]) -> tuple[str, ...]:
    """Each text is one string; in quotes it is a JSON string, so that it may hold ``\\n``."""
    strings = []
    for text in texts:
        value = json.loads(text) if text[:1] == text[-1:] == '"' and len(text) > 1 else text
        strings.append(value)
    return tuple(strings)


_COMPOUND: dict[Any, tuple[str, Callable[[Sequence[str]], Any]]] = {
    tuple[str, ...]: ('a text, or a JSON string such as "\\n"', _strings),
    tuple[int, ...]: ("token ids such as 1,2,3", _integers),
    tuple[tuple[int, ...], ...]: ("sequences of token ids such as 1,2;3", _sequences),
    dict[int, float]: ("token ids with biases such as 42=5,7=-1.5", _biases),
}
"""The compact forms: what they look like, and how they are read."""


def to_texts(value: Any) -> list[str]:
    """What a person would have written for a value that a TOML file holds."""
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, list):
        return [",".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
    return [str(value)]
