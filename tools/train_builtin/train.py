"""Trains the built-in model: see README.md beside this file.

    python tools/train_builtin/train.py ../shared/data/text build/builtin

An interrupted run goes on where it last saved, with the tokeniser that it began with.
"""

import argparse
import json
import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from batches import (
    FIRST_MATERIAL,
    FIRST_SHARES,
    LATER_MATERIAL,
    OPEN_MATERIAL,
    Material,
    Mixture,
    Rows,
    Shares,
)
from corpus import Corpus, read_corpus
from made_stories import Teller
from make_tokenizer import END_OF_TEXT, make_tokenizer, save
from model import Stories

SEED = 20261121
TOKENS_A_STEP = 16_384
TOKENS_AT_ONCE = 8_192
SHORT_CONTEXT, LONG_CONTEXT = 512, 1024
FIRST_MENTION = 4.0
"""What the first mention of something that was asked for counts in the loss."""
WEIGHT_DECAY = 0.1
DROPOUT = 0.05
"""Of the embeddings; in every layer it would take much longer: docs/log.md."""
LOG_EVERY = 20
EVALUATE_EVERY = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps from ``begins`` to ``ends`` (without it), with fresh optimisers and a new mixture.

    The rate rises to ``rate`` in ``warm_up`` steps, is held, and falls to nothing from
    ``decay_from`` on, where ``later_shares`` come into force. From ``long_from`` on rows are long.
    """

    begins: int
    ends: int
    rate: float
    warm_up: int
    decay_from: int
    long_from: int
    shares: Shares
    later_shares: Shares
    material: Material

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rising = (step - self.begins + 1) / self.warm_up
        falling = (self.ends - step) / (self.ends - self.decay_from)
        return self.rate * min(1.0, rising, falling)

    def mixture(self, stories: list[str], tokenizer: Tokenizer, seed: int | None = None) -> Mixture:
        """What there is to learn from in this stage, from its first row on."""
        return Mixture(
            stories,
            tokenizer,
            SEED + self.begins if seed is None else seed,
            self.shares,
            self.material,
            first_mention=FIRST_MENTION,
        )

    def batches(self, mixture: Mixture, step: int) -> list[Rows]:
        """What a step is trained on, for one pass after the other."""
        mixture.shares = self.later_shares if step >= self.decay_from else self.shares
        context = LONG_CONTEXT if step >= self.long_from else SHORT_CONTEXT
        rows = TOKENS_AT_ONCE // context
        return [mixture.rows(rows, context) for _ in range(TOKENS_A_STEP // TOKENS_AT_ONCE)]


FIRST = Stage(
    begins=0,
    ends=4000,
    rate=3e-3,
    warm_up=60,
    decay_from=1600,
    long_from=3400,
    shares=FIRST_SHARES,
    # While the rate falls more stories are made ones, as what is learned last stays best, and they
    # hang together. How people ask is a matter of form, which is learned soon.
    later_shares=replace(FIRST_SHARES, made=0.8, chat=0.0, talk=0.07),
    material=FIRST_MATERIAL,
)
"""To write stories."""
SECOND_SHARES = Shares(
    made=0.88,
    chat=0.0,
    begun=0.3,
    made_chat=0.92,
    plain=0.4,
    things=0.0,
    talk=0.09,
    introduced=0.25,
)
SECOND = Stage(
    begins=FIRST.ends,
    ends=6400,
    rate=1e-3,
    warm_up=40,
    decay_from=4800,
    long_from=6100,
    shares=SECOND_SHARES,
    later_shares=replace(SECOND_SHARES, introduced=0.3, introduced_alone=0.2),
    material=LATER_MATERIAL,
)
"""To answer what is asked, and to go on with what is begun: more plots, most of them as answers."""
THIRD_SHARES = replace(SECOND.later_shares, begun=0.0, plain=0.55, introduced=0.35, after=0.4)
THIRD = Stage(
    begins=SECOND.ends,
    ends=7200,
    rate=6e-4,
    warm_up=20,
    decay_from=6420,
    long_from=7080,
    shares=THIRD_SHARES,
    later_shares=THIRD_SHARES,
    material=LATER_MATERIAL,
)
"""To go on with beginnings that are not quite those of a plot; as plots do, not as the corpus."""
FOURTH_SHARES = replace(
    THIRD_SHARES,
    made_chat=0.88,
    plain=0.5,
    introduced=0.3,
    introduced_alone=0.25,
    after=0.3,
    talk=0.1,
    drills=0.06,
)
FOURTH = Stage(
    begins=THIRD.ends,
    ends=12_200,
    rate=2e-3,
    warm_up=40,
    decay_from=8700,
    long_from=11_800,
    shares=FOURTH_SHARES,
    later_shares=replace(FOURTH_SHARES, drills=0.02),
    material=OPEN_MATERIAL,
)
"""To copy: plots with room for any word, names that nobody has, and drills."""
STAGES = (FIRST, SECOND, THIRD, FOURTH)
STEPS = STAGES[-1].ends


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
        torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01),
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
    state = torch.load(saved) if saved.exists() else {"step": 0}
    first = state["step"]
    if first:
        model.load_state_dict(state["model"])
    compiled_loss = torch.compile(mean_loss, dynamic=False)
    began, losses = time.monotonic(), []
    for stage in STAGES:
        if first >= stage.ends:
            continue
        steppers = optimizers(model)
        mixture = stage.mixture(corpus.train, tokenizer)
        if first > stage.begins:
            for stepper, values in zip(steppers, state["steppers"], strict=True):
                stepper.load_state_dict(values)
            for step in range(stage.begins, first):
                stage.batches(mixture, step)
            if mixture.state() != state.get("data"):
                raise SystemExit(f"{saved}: saved by a training on other data, or in another order")
        if "random" in state:  # once: from here on it goes on by itself
            torch.set_rng_state(state.pop("random"))
        for step in range(max(first, stage.begins), stage.ends):
            for stepper in steppers:
                for group in stepper.param_groups:
                    group["lr"] = stage.rate_at(step)
            batches = stage.batches(mixture, step)
            for rows in batches:
                loss = compiled_loss(model, *map(torch.from_numpy, rows))
                (loss / len(batches)).backward()
                losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad()
            done = step + 1
            if done % LOG_EVERY:
                continue
            row = {
                "step": done,
                "tokens": done * TOKENS_A_STEP,
                "loss": round(float(np.mean(losses)), 4),
            }
            losses.clear()
            if done % EVALUATE_EVERY == 0:
                row["held_out_bits"] = round(held_out_bits(model, tokenizer, corpus.held_out), 4)
                save_state(model, steppers, mixture, done, saved)
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(f"{time.monotonic() - began:7.0f} s  {row}", flush=True)
        first = stage.ends


def save_state(
    model: Stories,
    steppers: list[torch.optim.Optimizer],
    mixture: Mixture,
    done: int,
    saved: Path,
) -> None:
    """All that it takes to go on after so many steps, in place of what was saved before."""
    state = {
        "step": done,
        "model": model.state_dict(),
        "steppers": [stepper.state_dict() for stepper in steppers],
        "random": torch.get_rng_state(),
        "data": mixture.state(),
    }
    torch.save(state, saved.with_suffix(".part"))
    saved.with_suffix(".part").rename(saved)


if __name__ == "__main__":
    main()
