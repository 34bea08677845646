"""The safetensors files of one model folder, as one set of tensors.

A folder has ``model.safetensors``, or ``model.safetensors.index.json`` and the shards that it
names (the layout that Hugging Face's ``save_pretrained`` writes). Which of its tensors a model
wants is the business of ``checkpoint``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from octavo.core.errors import ModelError, UnsupportedModel
from octavo.core.json_file import read_json_object
from octavo.weights.foreign import CONVERT_HINT, PICKLE_SUFFIXES
from octavo.weights.safetensors import SafetensorsFile, TensorInfo, open_safetensors

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_INDEX_HINT = "the index and the shards do not belong together: download the folder again"
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor and the file that it lies in."""

    file: SafetensorsFile
    info: TensorInfo


def open_folder(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model folder, by name; headers are read and checked, numbers are not.

    As in transformers, a single file goes before an index.

    Raises:
        ModelError: no safetensors here, or a file, shard or index that cannot be used.
    """
    single = folder / SINGLE_FILE
    if os.path.lexists(single):  # a dangling link is an error, not an absence
        file = open_safetensors(single)
        return {name: StoredTensor(file, info) for name, info in file.tensors.items()}
    index = folder / INDEX_FILE
    if os.path.lexists(index):
        return _open_shards(folder, read_index(index))
    raise _no_safetensors(folder)


def stored_bytes(folder: Path) -> dict[str, int]:
    """Bytes of a folder's tensors by type, as in ``BF16``; empty where there are no safetensors.

    Raises:
        ModelError: as :func:`open_folder`, where there is something to open.
    """
    if not any(os.path.lexists(folder / name) for name in (SINGLE_FILE, INDEX_FILE)):
        return {}
    counts: Counter[str] = Counter()
    for stored in open_folder(folder).values():
        counts[stored.info.dtype] += stored.info.num_bytes
    return dict(counts)


def read_index(path: Path) -> dict[str, str]:
    """The file name of each tensor's shard, as an index lists them.

    Raises:
        ModelError: no valid index, or a shard that is not a plain ``*.safetensors`` file name.
    """
    hint = "the index is damaged: download it again"
    weight_map = read_json_object(path, strict=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{path}: has no weight_map", hint=hint)
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ModelError(
                f"{path}: tensor {tensor[:200]!r}: its shard is not a string", hint=hint
            )
        # A path could leave the folder: only a name is taken.
        if shard != Path(shard).name or "\\" in shard or "\0" in shard:
            raise ModelError(
                f"{path}: tensor {tensor[:200]!r}: shard {shard[:200]!r} is a path,"
                " not the name of a file in this folder",
                hint="do not use this folder: an honest index holds no paths",
            )
        if not shard.endswith(".safetensors"):
            raise ModelError(
                f"{path}: tensor {tensor[:200]!r}: shard {shard[:200]!r} is not safetensors",
                hint=CONVERT_HINT,
            )
    return weight_map


def _open_shards(folder: Path, shard_of: Mapping[str, str]) -> dict[str, StoredTensor]:
    names = sorted(set(shard_of.values()))
    missing = [repr(name[:200]) for name in names if not os.path.lexists(folder / name)]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(names)} shards are missing: {_listed(missing)}",
            hint="the download did not finish: fetch the folder again",
        )
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        file = open_safetensors(folder / name)
        for tensor, info in file.tensors.items():
            if tensor in tensors:
                other = tensors[tensor].file.path.name
                raise ModelError(
                    f"{folder}: tensor {tensor!r} is in two shards, {other} and {name}",
                    hint=_INDEX_HINT,
                )
            tensors[tensor] = StoredTensor(file, info)
    _check_index(folder, shard_of, tensors)
    return tensors


def _check_index(
    folder: Path, shard_of: Mapping[str, str], tensors: Mapping[str, StoredTensor]
) -> None:
    """Each listed tensor is where the index says. An unlisted one is kept: it is simply extra."""
    absent = [
        f"{tensor!r} (not in {shard})"
        for tensor, shard in shard_of.items()
        if tensor not in tensors
    ]
    if absent:
        raise ModelError(
            f"{folder}: the index lists tensors that no shard has: {_listed(absent)}",
            hint=_INDEX_HINT,
        )
    wrong = [
        f"{tensor!r} (in {tensors[tensor].file.path.name}, not in {shard})"
        for tensor, shard in shard_of.items()
        if tensors[tensor].file.path.name != shard
    ]
    if wrong:
        raise ModelError(
            f"{folder}: the index puts tensors in the wrong shard: {_listed(wrong)}",
            hint=_INDEX_HINT,
        )


def _listed(items: list[str]) -> str:
    rest = len(items) - _MAX_LISTED
    return ", ".join(items[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _no_safetensors(folder: Path) -> ModelError:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        return ModelError(
            f"{folder}: cannot be read: {error.strerror or error}",
            hint="give the model's folder",
        )
    pickles = [path.name for path in paths if path.suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        return ModelError(
            f"{folder}: has no {SINGLE_FILE}, only {_listed(pickles)};"
            " pickled checkpoints are refused, since loading one can run any code",
            hint=CONVERT_HINT,
        )
    if any(path.suffix.lower() == ".gguf" for path in paths):
        return UnsupportedModel(
            f"{folder}: has no {SINGLE_FILE}; GGUF files cannot be read yet",
            hint="GGUF comes later; for now use the Hugging Face folder of the same model",
        )
    others = [path.name for path in paths if path.suffix == ".safetensors"]
    found = f", only {_listed(others)}" if others else ""
    return ModelError(
        f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}{found}",
        hint=f"rename or link the weights to {SINGLE_FILE}"
        if others
        else 'give the folder that holds the weights, or use load_format="dummy" for random ones',
    )
