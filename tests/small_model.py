"""A tiny random model with a tokeniser and a chat template: a folder as a user would have it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tests.tiny import write_tiny_model

END = "<|end|>"
VOCAB = 257
ENDLESS = 60_000
"""Tokens of an answer that is not at its end when a test looks: alone, one took the native engine
79 s on two cores of an AMD EPYC."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_tokenizer(num_symbols: int = 256) -> Tokenizer:
    """One token a byte; with fewer symbols, bytes beyond are not in the vocabulary."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())[:num_symbols]
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_small_model(folder: Path, family: str = "llama", **options: object) -> Path:
    """One token a byte, and one that ends an answer."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    fields = {"vocab_size": VOCAB, "eos_token_id": VOCAB - 1, "bos_token_id": VOCAB - 1, **options}
    write_tiny_model(folder, family, **fields)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": END, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_endless_model(folder: Path) -> Path:
    """A small model with room for ``ENDLESS`` tokens: only an abort ends such an answer soon."""
    return write_small_model(folder, max_position_embeddings=2**16)
