"""JSON that came with a model, read with bounds and with errors that name the file.

Only the reading is here; what the fields mean belongs to whoever asks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from octavo.core.errors import ModelError

MAX_FILE_BYTES = 32 * 2**20
"""Far above any configuration or shard index in the wild."""


def read_json_object(
    path: Path, *, max_bytes: int = MAX_FILE_BYTES, strict: bool = False
) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file cannot be read, is larger than ``max_bytes``, or see
            :func:`parse_json_object`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror or error}",
            hint="check that the file is there and that you may read it",
        ) from error
    if len(data) > max_bytes:
        raise ModelError(
            f"{path}: larger than {max_bytes} bytes, which no such file should be",
            hint="is this really the file that its name says?",
        )
    return parse_json_object(data, str(path), strict=strict)


def parse_json_object(data: bytes, source: str, *, strict: bool = False) -> dict[str, Any]:
    """The object that ``data`` (UTF-8) holds; ``source`` names it in errors.

    ``strict`` also refuses what readers disagree about: a key given twice, NaN and infinities.

    Raises:
        ModelError: not UTF-8, not JSON, nested too deeply, or not an object.
    """
    hint = "the file is damaged or was edited by hand: fetch it again"
    try:
        text = data.decode("utf-8" if strict else "utf-8-sig")
        if strict:
            value = json.loads(
                text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
            )
        else:
            value = json.loads(text)
    except UnicodeDecodeError as error:
        raise ModelError(f"{source}: not UTF-8 at byte {error.start}", hint=hint) from error
    except RecursionError:
        raise ModelError(f"{source}: JSON nested too deeply", hint=hint) from None
    except ValueError as error:  # JSONDecodeError, our own two below, integers of 4,301 digits
        raise ModelError(f"{source}: not valid JSON: {error}", hint=hint) from error
    if not isinstance(value, dict):
        raise ModelError(f"{source}: holds a JSON {type(value).__name__}, not an object", hint=hint)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{key[:200]!r} is given twice")
        result[key] = value
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
