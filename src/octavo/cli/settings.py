"""The flags of the engine and of sampling, derived from ``EngineConfig`` and ``SamplingParams``.

A command takes them as one parameter each; only what somebody set is ``given``, and the settings
classes fill in and check the rest:

    def command(model: str, /, *, engine: EngineFlags | None = None) -> int:
        llm = LLM(model, **given(engine))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from cyclopts import Group, Parameter

from octavo.cli.fields import Setting, settings_of
from octavo.core.config import EngineConfig
from octavo.core.request import SamplingParams

ENGINE = settings_of(EngineConfig)
SAMPLING = settings_of(SamplingParams)
TABLES = {"engine": ENGINE, "sampling": SAMPLING}
"""Of a TOML file, besides one a command."""
COMPLETION_MAX_TOKENS = 256
"""Of a completion on the command line, unless the user wants another number."""

QUEUE_BOUNDS = {"max_waiting_requests": 1_000, "max_waiting_tokens": 1_000_000}
"""Of a server, unless the operator wants others: what waits longer would have been given up."""


class Flags:
    """What somebody set of a settings class; None stands for what nobody did."""

    settings: ClassVar[tuple[Setting, ...]]

    def given(self) -> dict[str, Any]:
        """The values that were set, as keyword arguments for the settings class.

        Raises:
            ConfigError: a value of several parts is not in its compact form.
        """
        values = {}
        for setting in self.settings:
            value = getattr(self, setting.name)
            if value is not None:
                values[setting.name] = setting.parse_all(value) if setting.is_compound else value
        return values


def given(flags: Flags | None) -> dict[str, Any]:
    """What was set; flags of which none was are None."""
    return {} if flags is None else flags.given()


def show_value(value: Any) -> str:
    """A value as the help shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None or value in ((), {}) else str(value)


def _flags_of(
    name: str,
    settings: tuple[Setting, ...],
    title: str,
    sort_key: int,
    *,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, str] | None = None,
) -> type[Flags]:
    """A dataclass of optional flags; ``defaults`` are shown instead of the settings' own."""
    kept = tuple(setting for setting in settings if setting.name not in leave_out)
    shown = defaults or {}
    kind = dataclasses.make_dataclass(
        name,
        [
            (one.name, _annotation(one, shown.get(one.name)), dataclasses.field(default=None))
            for one in kept
        ],
        bases=(Flags,),
        namespace={"settings": kept, "__module__": __name__},
        frozen=True,
        kw_only=True,
    )
    return Parameter(name="*", group=Group(title, sort_key=sort_key))(kind)


def _annotation(setting: Setting, default: str | None) -> Any:
    kind = list[str] if setting.is_compound else setting.kind
    if default is None and setting.default is not None:
        default = show_value(setting.default)  # what None stands for is in the docstring
    shown = setting.doc if default is None else f"{setting.doc} [default: {default}]"
    negative = None if setting.kind is bool else ""
    return Annotated[kind | None, Parameter(help=shown.strip(), negative=negative)]


if TYPE_CHECKING:
    EngineFlags = Flags
    ServerEngineFlags = Flags
    CompletionFlags = Flags
    ChatFlags = Flags
else:
    EngineFlags = _flags_of("EngineFlags", ENGINE, "Engine", 10)
    ServerEngineFlags = _flags_of(
        "ServerEngineFlags",
        ENGINE,
        "Engine",
        10,
        defaults={name: str(bound) for name, bound in QUEUE_BOUNDS.items()},
    )
    CompletionFlags = _flags_of(
        "CompletionFlags",
        SAMPLING,
        "Sampling",
        20,
        defaults={"max_tokens": str(COMPLETION_MAX_TOKENS)},
    )
    ChatFlags = _flags_of(
        "ChatFlags",
        SAMPLING,
        "Sampling",
        20,
        leave_out=("n", "logprobs", "prompt_logprobs"),
        defaults={"max_tokens": "as many as fit"},
    )
