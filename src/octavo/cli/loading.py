"""From the words of a command line to a model: its folder, its text side, its engine, its params.

Loading happens in the main thread, so that Ctrl-C ends it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.cli.settings import Flags, given
from octavo.core.config import EngineConfig
from octavo.core.errors import ConfigError
from octavo.core.request import SamplingParams
from octavo.engine.load import LoadedEngine, load_engine
from octavo.models.folder import resolve
from octavo.models.generation import GenerationConfig
from octavo.runtime.model_text import ModelText


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to answer; whoever takes the engine closes it."""

    name: str
    engine: LoadedEngine
    text: ModelText


def load_model(
    name: str | None,
    tokenizer: str | None,
    engine: Flags | None,
    defaults: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Find a model and load it.

    Args:
        name: a folder or a hub id.
        tokenizer: a folder to take the tokeniser from; None: the model's own.
        engine: what the user set of ``EngineConfig``.
        defaults: of the command, for what the user left open; the rest is ``EngineConfig``'s.

    Raises:
        ConfigError: no model was named, or a setting is wrong.
        ModelError: the model cannot be used.
    """
    name = require_model(name)
    config = EngineConfig.from_options({**(defaults or {}), **given(engine)})
    folder = resolve(name, weights=config.load_format != "dummy")
    text = ModelText(folder, None if tokenizer is None else Path(tokenizer))
    return LoadedModel(name, load_engine(folder, config), text)


def require_model(name: str | None) -> str:
    """The model's name. Raises ConfigError where there is none."""
    if name:
        return name
    raise ConfigError(
        "no model is given",
        hint="name a model folder, or a model on the hub as owner/name, which is then downloaded:"
        " octavo run owner/name; python -m octavo.demo shows a tiny random one",
    )


def sampling_params(
    generation: GenerationConfig, values: Mapping[str, Any], *, max_tokens: int
) -> SamplingParams:
    """What the user set, on top of what the model's makers suggest.

    Raises:
        InvalidRequest: a value is out of its range.
    """
    suggested = dict(generation.sampling)
    if generation.do_sample is False:
        suggested["temperature"] = 0.0
    return SamplingParams(**{"max_tokens": max_tokens, **suggested, **values})
