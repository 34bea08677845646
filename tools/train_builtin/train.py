"""Trains the built-in model: see README.md beside this file.

    python tools/train_builtin/train.py ../shared/data/text build/builtin

An interrupted run goes on where it last saved, with the tokeniser that it began with. The schedule
holds the rate, and then lets it fall to nothing.
"""

import argparse
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from batches import FIRST_SHARES, Mixture, Rows
from corpus import Corpus, read_corpus
from made_stories import Teller
from make_tokenizer import END_OF_TEXT, make_tokenizer, save
from model import Stories

SEED = 20261121
STEPS = 4000
TOKENS_A_STEP = 16_384
TOKENS_AT_ONCE = 8_192
SHORT_CONTEXT, LONG_CONTEXT = 512, 1024
LONG_FROM = 3400
"""The step from which on rows are long."""
WARM_UP = 60
DECAY_FROM = 1600
"""From here on the rate falls to nothing."""
FIRST_MENTION = 4.0
"""What the first mention of something that was asked for counts in the loss."""
RATE = 3e-3
WEIGHT_DECAY = 0.1
DROPOUT = 0.05
"""Of the embeddings; in every layer it would take much longer: docs/log.md."""
LATER_SHARES = replace(FIRST_SHARES, made=0.8, chat=0.0, talk=0.07)
"""What there is how much of while the rate falls: more stories are made ones, as what is learned
last stays best, and they hang together. How people ask is a matter of form, which is learned
soon."""
LOG_EVERY = 20
EVALUATE_EVERY = 100


def rate_at(step: int) -> float:
    """As a share of RATE."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return min(1.0, (STEPS - step) / (STEPS - DECAY_FROM))


def held_out_bits(model: Stories, tokenizer: Tokenizer, stories: list[str]) -> float:
    """Bits per character of stories that stand alone, in float32."""
    model.eval()
    nats, characters = 0.0, 0
    begin = tokenizer.token_to_id(END_OF_TEXT)
    with torch.no_grad():
        for story in stories:
            ids = [begin, *tokenizer.encode(story, add_special_tokens=False).ids][:LONG_CONTEXT]
            row = torch.tensor([ids])
            logits = model.logits(model(row[:, :-1]))
            nats += F.cross_entropy(logits[0], row[0, 1:], reduction="sum").item()
            characters += len(tokenizer.decode(ids))
    model.train()
    return nats / math.log(2) / characters


def optimizers(model: Stories) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="the folder with the TinyStories files")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    corpus = read_corpus(arguments.text)
    if (out / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    else:
        teller = Teller(random.Random(SEED))
        made = [teller.story().text for _ in range(len(corpus.train))]
        tokenizer = make_tokenizer([*corpus.train, *made])
        save(tokenizer, out)
    model = Stories(DROPOUT)
    num_weights = sum(weight.numel() for weight in model.parameters())
    print(f"{len(corpus.train)} stories, {num_weights:,} parameters", flush=True)
    with (out / "loss.jsonl").open("a") as log:
        train(model, tokenizer, corpus, out / "training.pt", log)


def mean_loss(model: Stories, tokens: Tensor, next_tokens: Tensor, weights: Tensor) -> Tensor:
    """In nats a token, by weight. All are [rows, context], as those of ``batches.Rows``."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(model(tokens))
    nats = F.cross_entropy(logits.float().flatten(0, 1), next_tokens.flatten(), reduction="none")
    return (nats * weights.flatten()).sum() / weights.sum()


def train(model: Stories, tokenizer: Tokenizer, corpus: Corpus, saved: Path, log: TextIO) -> None:
    """All steps that ``saved`` has not done, as if it had never been interrupted."""
    steppers = optimizers(model)
    mixture = Mixture(corpus.train, tokenizer, SEED, first_mention=FIRST_MENTION)
    compiled_loss = torch.compile(mean_loss, dynamic=False)
    first = 0
    if saved.exists():
        state = torch.load(saved)
        first = state["step"]
        model.load_state_dict(state["model"])
        for stepper, values in zip(steppers, state["steppers"], strict=True):
            stepper.load_state_dict(values)
        for step in range(first):
            batches_of(mixture, step)
        if mixture.state() != state.get("data"):
            raise SystemExit(f"{saved}: saved by a training on other data, or in another order")
        torch.set_rng_state(state["random"])
    began, losses = time.monotonic(), []
    for step in range(first, STEPS):
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = RATE * rate_at(step)
        batches = batches_of(mixture, step)
        for rows in batches:
            loss = compiled_loss(model, *map(torch.from_numpy, rows))
            (loss / len(batches)).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        done = step + 1
        if done % LOG_EVERY == 0:
            row = {
                "step": done,
                "tokens": done * TOKENS_A_STEP,
                "loss": round(float(np.mean(losses)), 4),
            }
            losses.clear()
            if done % EVALUATE_EVERY == 0:
                row["held_out_bits"] = round(held_out_bits(model, tokenizer, corpus.held_out), 4)
                state = {
                    "step": done,
                    "model": model.state_dict(),
                    "steppers": [stepper.state_dict() for stepper in steppers],
                    "random": torch.get_rng_state(),
                    "data": mixture.state(),
                }
                torch.save(state, saved.with_suffix(".part"))
                saved.with_suffix(".part").rename(saved)
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(f"{time.monotonic() - began:7.0f} s  {row}", flush=True)


def batches_of(mixture: Mixture, step: int) -> list[Rows]:
    """What a step is trained on, for one pass after the other."""
    mixture.shares = LATER_SHARES if step >= DECAY_FROM else FIRST_SHARES
    context = LONG_CONTEXT if step >= LONG_FROM else SHORT_CONTEXT
    rows = TOKENS_AT_ONCE // context
    return [mixture.rows(rows, context) for _ in range(TOKENS_A_STEP // TOKENS_AT_ONCE)]


if __name__ == "__main__":
    main()
