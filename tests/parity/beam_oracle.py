"""transformers' beam search on one prompt: its best sequences and their scores."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.beam_cases import BeamCase
from tests.parity.oracle import Oracle

Sequences = list[tuple[list[int], float]]


def beam_search(folder: Path, case: BeamCase) -> Sequences:
    """Token ids after the prompt, with the end token, and scores; best first."""
    oracle = Oracle(folder, max_model_len=512)
    prompt_ids = case.prompt_ids()
    end_ids = list(case.end_token_ids)
    filler = 10**6  # stands after sequences that are shorter than the longest one
    with torch.no_grad():
        found = oracle.model.generate(
            torch.tensor([prompt_ids]),
            attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
            num_beams=case.width,
            do_sample=False,
            max_new_tokens=case.max_tokens,
            length_penalty=case.length_penalty,
            early_stopping=case.early_stopping,
            num_return_sequences=case.width,
            eos_token_id=end_ids or None,
            pad_token_id=filler,
            return_dict_in_generate=True,
            output_scores=True,
        )
    rows = found.sequences[:, len(prompt_ids) :].tolist()
    scores = found.sequences_scores.tolist()
    return [
        ([token_id for token_id in row if token_id != filler], score)
        for row, score in zip(rows, scores, strict=True)
    ]
