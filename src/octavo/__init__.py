"""A paged, batching LLM inference and serving engine: a model folder in, exact tokens out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.core.errors import OctavoError
    from octavo.core.request import Priority, SamplingParams
    from octavo.runtime.async_client import Answer, AsyncClient
    from octavo.runtime.beam_search import BeamOutput, BeamSequence
    from octavo.runtime.llm import LLM
    from octavo.runtime.outputs import ChoiceDelta, ChoiceOutput, RequestOutput

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncClient",
    "SamplingParams",
    "Priority",
    "RequestOutput",
    "ChoiceOutput",
    "ChoiceDelta",
    "Answer",
    "BeamOutput",
    "BeamSequence",
    "OctavoError",
]

_HOMES = {
    "LLM": "octavo.runtime.llm",
    "AsyncClient": "octavo.runtime.async_client",
    "Answer": "octavo.runtime.async_client",
    "BeamOutput": "octavo.runtime.beam_search",
    "BeamSequence": "octavo.runtime.beam_search",
    "SamplingParams": "octavo.core.request",
    "Priority": "octavo.core.request",
    "RequestOutput": "octavo.runtime.outputs",
    "ChoiceOutput": "octavo.runtime.outputs",
    "ChoiceDelta": "octavo.runtime.outputs",
    "OctavoError": "octavo.core.errors",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that ``import octavo`` is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
