"""transformers in float32 with plain attention: what logits and greedy tokens should be.

The only file of the tests that imports PyTorch for whole models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

F32 = NDArray[np.float32]

torch.set_num_threads(1)  # tiny models, and other tests beside this one


class Oracle:
    """A model folder loaded by transformers."""

    def __init__(self, folder: Path, *, max_model_len: int) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        )
        self.model.eval()
        _fix_rope(self.model, max_model_len)

    def logits(self, token_ids: list[int]) -> F32:
        """(tokens, vocab)"""
        with torch.no_grad():
            logits = self.model(torch.tensor([token_ids]), use_cache=False).logits
        return logits[0].numpy()

    def greedy(self, prompt_ids: list[int], num_tokens: int) -> tuple[list[int], float]:
        """The tokens that follow, and how far the second best logit was away at the least."""
        ids = list(prompt_ids)
        margin = float("inf")
        for _ in range(num_tokens):
            last = self.logits(ids)[-1]
            second, first = np.partition(last, -2)[-2:]
            margin = min(margin, float(first - second))
            ids.append(int(last.argmax()))
        return ids[len(prompt_ids) :], margin


def _fix_rope(model: Any, max_model_len: int) -> None:
    """Frequencies for ``max_model_len``, whatever the length of an input.

    transformers picks those of ``dynamic`` and ``longrope`` anew for each input.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    kind = getattr(rotary, "rope_type", None)
    if kind == "dynamic":
        frequencies, _ = ROPE_INIT_FUNCTIONS["dynamic"](model.config, seq_len=max_model_len)
        rotary.inv_freq = frequencies
        rotary.max_seq_len_cached = max_model_len
        rotary.original_max_seq_len = 0  # never go back
    elif kind == "longrope":
        frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](model.config, seq_len=max_model_len)
        rotary.original_inv_freq = frequencies
        rotary.long_inv_freq = frequencies
