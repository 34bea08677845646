"""From what a user calls a model, a path, a hub id or ``builtin``, to a local folder.

Whatever is wrong is found out here as far as names go; nothing in the folder is parsed, except
the shard index of a hub repository, to download no more than what is needed. Talking to the hub
is ``hub``'s business.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from octavo.core.checks import shown
from octavo.core.errors import ModelError, ModelNotFound
from octavo.models.builtin import BUILTIN, builtin_folder
from octavo.models.hub import HubId, download, looks_like_hub_id
from octavo.weights.foreign import HEAD_BYTES, refuse_foreign

CONFIG_FILE = "config.json"
_MAX_LISTED = 1_000
_HINT = f"give a folder, a hub id (owner/name), or {BUILTIN!r} for the built-in model"


def resolve(model: str | Path, *, weights: bool = True) -> Path:
    """The folder of a model.

    Args:
        model: ``builtin`` for the built-in model (``./builtin`` is a folder of that name); a folder
            that has a config.json; or, where nothing of that name exists, a hub id, ``owner/name``
            or ``owner/name@revision``.
        weights: download the weights too, if it is a hub id.

    Raises:
        ModelNotFound: no such folder and no such repository, or the hub cannot be reached and its
            cache does not have the model.
        UnsupportedModel: a GGUF file.
        ModelError: a file instead of a folder, a pickled checkpoint, a folder without a
            config.json, a repository without safetensors.
    """
    if not isinstance(model, str | Path):
        raise ModelNotFound(
            f"{shown(model)} is not the name of a model",
            hint=_HINT,
        )
    if model == BUILTIN:  # and not Path("builtin"), which is a path whatever it is called
        return _checked_folder(builtin_folder())
    name = os.fspath(model)
    if not name or "\0" in name:
        raise ModelNotFound(f"{name!r} is not the name of a model", hint=_HINT)
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # no home folder, or no such user
        raise ModelNotFound(f"{name}: {error}", hint="write the path out in full") from error
    try:
        if path.is_dir():
            return _checked_folder(path)
        if path.exists():
            raise _file_instead_of_folder(path)
    except PermissionError as error:
        raise ModelError(
            f"{path}: may not be read", hint="check the permissions of the folder and its parents"
        ) from error
    except OSError as error:  # a name that is too long, a dead mount
        raise ModelNotFound(
            f"{name[:200]}: {error.strerror or error}",
            hint=_HINT,
        ) from error
    if isinstance(model, str) and looks_like_hub_id(name):
        return _from_hub(name, path, weights=weights)
    raise ModelNotFound(
        f"{name}: no such folder",
        hint=_similar_folder(path) or _HINT,
    )


def _from_hub(name: str, path: Path, *, weights: bool) -> Path:
    hub_id = HubId.parse(name)
    try:
        folder = download(hub_id, weights=weights)
    except ModelNotFound as error:
        similar = _similar_folder(path)  # it may have been meant as a path
        if similar is None:
            raise
        raise ModelNotFound(
            f"{error.message}; nor is there a folder of that name", hint=similar
        ) from error
    if not (folder / CONFIG_FILE).exists():
        raise ModelError(
            f"{hub_id}: the repository has no {CONFIG_FILE}",
            hint="repositories of GGUF files or of adapters alone cannot be used yet",
        )
    return folder


def _checked_folder(folder: Path) -> Path:
    if (folder / CONFIG_FILE).is_file():
        return folder
    paths = sorted(folder.iterdir())
    for path in paths[:_MAX_LISTED]:
        if path.suffix.lower() == ".gguf":
            refuse_foreign(path, b"")
    inner = _folders_with_config(paths) or _folders_with_config(
        sorted(folder.glob("snapshots/*"))  # a repository inside the hub's cache
    )
    if (folder / "adapter_config.json").exists():
        hint = "this is an adapter (LoRA): give the folder of its base model"
    elif inner:
        hint = f"did you mean {str(inner[0])!r}?"
    else:
        hint = "a model folder holds config.json, tokenizer.json and *.safetensors"
    raise ModelNotFound(f"{folder}: the folder has no {CONFIG_FILE}", hint=hint)


def _folders_with_config(paths: list[Path]) -> list[Path]:
    return [path for path in paths[:_MAX_LISTED] if (path / CONFIG_FILE).is_file()]


def _file_instead_of_folder(path: Path) -> ModelError:
    head = b""
    if path.is_file():  # and not a pipe, which would block
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    refuse_foreign(path, head)
    belongs = path.suffix == ".safetensors" or path.name == CONFIG_FILE
    return ModelNotFound(
        f"{path}: a file, not a model's folder",
        hint=f"give the folder: {str(path.parent)!r}" if belongs else "give a model's folder",
    )


def _similar_folder(path: Path) -> str | None:
    """A hint that names the sibling most like ``path``, else None."""
    try:
        siblings = [entry.name for entry in os.scandir(path.parent) if entry.is_dir()]
    except OSError:
        return None
    folded = {_folded(sibling): sibling for sibling in siblings[:_MAX_LISTED]}
    close = difflib.get_close_matches(_folded(path.name), list(folded), n=1, cutoff=0.75)
    if not close:
        return None
    return f"did you mean {str(path.with_name(folded[close[0]]))!r}?"


def _folded(name: str) -> str:
    """Without what is easily mistaken: case and separators."""
    return re.sub(r"[-_. ]+", "-", name).lower()
