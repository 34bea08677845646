"""From the words of a command line to a model: its folder, its text side, its engine, its params.

Loading happens in the main thread, so that Ctrl-C ends it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.cli.precision import precision_note
from octavo.cli.settings import Flags, given
from octavo.core.config import EngineConfig
from octavo.engine.load import LoadedEngine, load_engine
from octavo.models.folder import resolve
from octavo.runtime.model_text import ModelText

SYSTEM_IS_DROPPED = "this model's chat template leaves system messages out"
"""What to tell somebody who gives one."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to answer; whoever takes the engine closes it."""

    name: str
    engine: LoadedEngine
    text: ModelText
    note: str | None
    """What was given up of the checkpoint's precision."""


def load_model(
    name: str,
    tokenizer: str | None,
    engine: Flags | None,
    defaults: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Find a model and load it.

    Args:
        name: a folder, a hub id or ``builtin``.
        tokenizer: a folder to take the tokeniser from; None: the model's own.
        engine: what the user set of ``EngineConfig``.
        defaults: of the command, for what the user left open; the rest is ``EngineConfig``'s.

    Raises:
        ConfigError: a setting is wrong.
        ModelError: the model cannot be used.
    """
    config = EngineConfig.from_options({**(defaults or {}), **given(engine)})
    folder = resolve(name, weights=config.load_format != "dummy")
    text = ModelText.load(folder, tokenizer)
    loaded = load_engine(folder, config)
    return LoadedModel(name, loaded, text, precision_note(folder, config))
