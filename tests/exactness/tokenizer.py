"""A byte-level tokeniser for the workload's vocabulary, so that answers are text, too."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tests.exactness.workload import VOCAB


def write_tokenizer(folder: Path) -> Path:
    """Each token is one symbol of the byte alphabet; answers are mostly broken UTF-8, on purpose."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())[:VOCAB]
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
