"""The files that describe a tokeniser, read, checked against each other, and merged.

Follows what ``transformers`` does with a fast tokeniser: tokenizer.json first; then the added
tokens of tokenizer_config.json, whose flags win, or those that only the older added_tokens.json
knows; tokens with a name, such as ``eos_token``, are special. Using the result belongs to
``tokenizer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from octavo.core.errors import ModelError
from octavo.core.json_file import read_json_object

NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MAX_FILE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the files of a folder say."""

    backend: tokenizers.Tokenizer
    names: dict[str, str]
    add_bos: bool
    add_eos: bool


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read a folder.

    Raises:
        ModelError: a file is missing, damaged, or at odds with another one.
    """
    backend = _read_backend(folder)
    config = _read_optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # a folder of the old kind
        config |= _read_optional(folder / "special_tokens_map.json")
    names = {name: text for name in NAMES if (text := _token_text(folder, name, config.get(name)))}
    special = {*names.values(), *_extra_special(folder, config)}
    for token_id, token in _tokens_to_add(backend, folder, config, special):
        _add(backend, folder, token_id, token)
    _mark_special(backend, special)
    backend.no_truncation()
    backend.no_padding()
    return TokenizerFiles(
        backend=backend,
        names=names,
        add_bos=config.get("add_bos_token") is True,
        add_eos=config.get("add_eos_token") is True,
    )


def _read_backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        older = [
            name
            for name in ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
            if (folder / name).is_file()
        ]
        hint = "is this a model folder?"
        if older:
            hint = (
                f"there is a {older[0]}: make tokenizer.json from it once, with transformers:"
                f" AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
        raise ModelError(f"{folder} has no tokenizer.json", hint=hint)
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ModelError(f"{path}: larger than {_MAX_FILE_BYTES} bytes, as no tokenizer.json is")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library knows no narrower class
        raise ModelError(
            f"{path} cannot be read: {error}",
            hint="the file is damaged, or for a newer version of the package tokenizers",
        ) from error


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _token_text(folder: Path, name: str, token: object) -> str | None:
    """The text of a token, which is given as such or as an object with its flags."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise ModelError(f"{folder}: {name} in the tokenizer's configuration is not a token")
    return token


def _extra_special(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    for key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = config.get(key) or []
        if isinstance(tokens, dict):  # name to token
            tokens = list(tokens.values())
        if not isinstance(tokens, list):
            raise ModelError(f"{folder}: {key} in the tokenizer's configuration is not a list")
        for token in tokens:
            if text := _token_text(folder, key, token):
                yield text


def _tokens_to_add(
    backend: tokenizers.Tokenizer, folder: Path, config: dict[str, Any], special: set[str]
) -> list[tuple[int, tokenizers.AddedToken]]:
    """Tokens that tokenizer.json does not know, or knows otherwise, by id."""
    added = backend.get_added_tokens_decoder().values()
    known = {token.content: _flags(token) for token in added}
    tokens: list[tuple[int, tokenizers.AddedToken]] = []
    try:
        if "added_tokens_decoder" in config:
            for token_id, token in config["added_tokens_decoder"].items():
                flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
                added_token = tokenizers.AddedToken(token["content"], **flags)
                if known.get(added_token.content) != _flags(added_token):
                    tokens.append((int(token_id), added_token))
        else:
            for text, token_id in _read_optional(folder / "added_tokens.json").items():
                is_special = text in special
                token = tokenizers.AddedToken(text, normalized=not is_special, special=is_special)
                if text not in known:
                    tokens.append((int(token_id), token))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder}: the added tokens in the tokenizer's configuration cannot be read",
            hint="each needs an id and its content",
        ) from error
    return sorted(tokens, key=lambda item: item[0])


def _flags(token: tokenizers.AddedToken) -> tuple[bool, ...]:
    return tuple(getattr(token, flag) for flag in _FLAGS)


def _add(
    backend: tokenizers.Tokenizer, folder: Path, token_id: int, token: tokenizers.AddedToken
) -> None:
    backend.add_tokens([token])
    given = backend.token_to_id(token.content)
    if given != token_id:
        raise ModelError(
            f"{folder}: the token {token.content!r} should have the id {token_id}, but after"
            f" tokenizer.json it gets {given}",
            hint="the tokenizer files come from different models: fetch them again",
        )


def _mark_special(backend: tokenizers.Tokenizer, special: set[str]) -> None:
    """Make tokens special that have a special name but are ordinary tokens so far."""
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for text in sorted(special):
        known = added.get(text)
        if known is None and backend.token_to_id(text) is not None:
            backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False)])
        elif known is not None and not known.special:
            flags = dict(zip(_FLAGS, _flags(known), strict=True)) | {"special": True}
            backend.add_special_tokens([tokenizers.AddedToken(text, **flags)])
