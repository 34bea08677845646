"""Two tiny tokenisers, written as files, and the real ones where this machine has them.

``byte_level`` spells every byte, as GPT-2, Llama 3 and Qwen do; ``sentencepiece`` has a leading
space and falls back to bytes, as Llama 2 and Mistral do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.text.pieces import byte_alphabet

SHARED_DATA = Path(__file__).parents[4] / "shared" / "data"
"""Real tokenisers lie beside the checkout, not in it."""

# Ids of the byte-level one: a byte is its own id, merges follow, then these.
BOS, END, THINK = 300, 301, 302


def added_token(token_id: int, content: str, **flags: bool) -> dict[str, Any]:
    names = ("single_word", "lstrip", "rstrip", "normalized")
    token: dict[str, Any] = {"id": token_id, "content": content, "special": True}
    return token | dict.fromkeys(names, False) | flags


def byte_level_json() -> dict[str, Any]:
    characters = {byte: character for character, byte in byte_alphabet().items()}
    vocab = {characters[byte]: byte for byte in range(256)}
    merges = ["h e", "l l", "he ll", "Ġ w", "ð Ł", "s t", "st o", "sto p"]
    for merge in merges:
        vocab[merge.replace(" ", "")] = len(vocab)
    # The added tokens begin at a round number; nothing is known between.
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": vocab | {"<|bos|>": BOS, "<|end|>": END, "<think>": THINK},
            "merges": merges,
        },
    } | {
        "added_tokens": [
            added_token(BOS, "<|bos|>"),
            added_token(END, "<|end|>"),
            added_token(THINK, "<think>", special=False),
        ]
    }


def sentencepiece_json() -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?<>/|é"]
    merges = ["▁ h", "▁h e", "l l", "▁ w", "▁ ▁"]
    tokens += [merge.replace(" ", "") for merge in merges]
    return {
        "version": "1.0",
        "added_tokens": [
            added_token(0, "<unk>"),
            added_token(1, "<s>"),
            added_token(2, "</s>", rstrip=True),
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": merges,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def write_folder(
    folder: Path, tokenizer: dict[str, Any], config: dict[str, Any] | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def real_folder(name: str) -> Path:
    """The folder of a real tokeniser; skips the test where there is none."""
    folder = SHARED_DATA / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"needs the real tokeniser {name} in {SHARED_DATA.name}/ beside the checkout")
    return folder
