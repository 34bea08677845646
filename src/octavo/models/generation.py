"""What a model's makers say about generating with it: end tokens and default sampling values.

They come from ``generation_config.json``, and the end tokens, where it has none, from
``config.json``. Whether the defaults are used is up to whoever builds sampling parameters.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.core.errors import InvalidRequest, ModelError
from octavo.core.json_file import read_json_object
from octavo.core.request import SamplingParams

GENERATION_FILE = "generation_config.json"
CONFIG_FILE = "config.json"
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
)
"""Of generation_config.json; SamplingParams has the same names and meanings."""
_INTEGER_FIELDS = frozenset({"top_k"})
_MAX_TOKEN_ID = 2**31 - 1
_HINT = "mend the file by hand, or delete the field to fall back to the default"


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How a model wants to be sampled."""

    end_token_ids: tuple[int, ...]
    """Tokens that end an answer, each once; empty where the model names none."""
    do_sample: bool | None
    """What the makers chose, if they did: to sample, or to take the most likely token."""
    sampling: Mapping[str, float]
    """Those of SAMPLING_FIELDS that the file sets, as keyword arguments for SamplingParams."""

    def params(self, **values: Any) -> SamplingParams:
        """What the model's makers suggest, with some values put in its place.

        Raises:
            InvalidRequest: there is no such parameter, or a value is out of its range.
        """
        suggested = dict(self.sampling)
        if self.do_sample is False:
            suggested["temperature"] = 0.0
        return SamplingParams(**(suggested | values))

    @classmethod
    def read(cls, folder: Path) -> GenerationConfig:
        """The generation settings of a model folder.

        Raises:
            ModelError: config.json is missing, either file is not a JSON object, or a field is of
                the wrong type or out of range.
        """
        own_path, base_path = folder / GENERATION_FILE, folder / CONFIG_FILE
        base = read_json_object(base_path)
        own = read_json_object(own_path) if os.path.lexists(own_path) else {}
        return cls(
            # An empty list counts as absent, as null does.
            end_token_ids=_token_ids(own, own_path) or _token_ids(base, base_path),
            do_sample=_do_sample(own, own_path),
            sampling=_sampling(own, own_path),
        )


def _token_ids(values: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    field = values.get("eos_token_id")
    if field is None:
        return ()
    ids = field if isinstance(field, list) else [field]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= _MAX_TOKEN_ID:
            raise ModelError(
                f"{path}: eos_token_id must be a token id or a list of them, got {_shown(field)}",
                hint=_HINT,
            )
    return tuple(dict.fromkeys(ids))


def _do_sample(values: Mapping[str, Any], path: Path) -> bool | None:
    value = values.get("do_sample")
    if value is None or isinstance(value, bool):
        return value
    raise ModelError(f"{path}: do_sample must be true or false, got {_shown(value)}", hint=_HINT)


def _sampling(values: Mapping[str, Any], path: Path) -> dict[str, float]:
    sampling: dict[str, float] = {}
    for name in SAMPLING_FIELDS:
        value = values.get(name)
        if value is None:
            continue
        # 50.0 is written for 50 by tools that know no integers.
        if name in _INTEGER_FIELDS and isinstance(value, float) and value.is_integer():
            value = int(value)
        sampling[name] = value
    try:
        SamplingParams(**sampling)  # type: ignore[arg-type]  # it checks the types and the ranges
    except InvalidRequest as error:
        raise ModelError(f"{path}: {error.message}", hint=_HINT) from error
    return sampling


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
