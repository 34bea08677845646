"""Trains a finished model on, so that it repeats itself less: see README.md beside this file.

    python tools/train_builtin/unloop.py ../shared/data/text build/builtin

Round by round, Octavo continues beginnings of training stories with the likeliest tokens. What
repeats in these continuations is made less likely, while ordinary rows keep the rest as it is:
sequence-level unlikelihood (S. Welleck et al., *Neural Text Generation with Unlikelihood
Training*, ICLR 2020). At the end the weights go only part of the way, which gives up little of the
gain and keeps more of the model (M. Wortsman et al., *Robust Fine-Tuning of Zero-Shot Models*, CVPR
2022). Nothing is trained on the held-out stories, nor on the beginnings of the tests.
"""

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from corpus import read_corpus
from export import rounded, write_folder
from model import Stories
from repetition import Beginnings, Continuation, continued, sentence_ending
from train import DROPOUT, SEED, STAGES, STEPS, held_out_bits, mean_loss

ROUNDS = 6
BEGINNINGS_A_ROUND = 384
STEPS_A_ROUND = 30
ROWS, CONTEXT = 8, 512
REPEATING_ROWS = 16
RATE = 2e-4
WARM_UP = 10
UNLIKELIHOOD = 0.1
"""Weight of its term beside the likelihood of ordinary rows."""
SHARE = 0.6
"""Of the way from the weights before to the weights after, so much is gone."""


def padded(continuations: Sequence[Continuation]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of [rows, tokens], and of [rows, tokens - 1] which next ones repeat."""
    longest = max(len(each.given) + len(each.tokens) for each in continuations)
    ids = torch.zeros(len(continuations), longest, dtype=torch.int64)
    repeated = torch.zeros(len(continuations), longest, dtype=torch.bool)
    for row, each in enumerate(continuations):
        text = each.given + each.tokens
        ids[row, : len(text)] = torch.tensor(text)
        repeated[row, len(each.given) : len(text)] = torch.tensor(each.repeated)
    return ids, repeated[:, 1:]


def unlikelihood(model: Stories, continuations: Sequence[Continuation]) -> torch.Tensor:
    """The mean of ``-log(1 - p)`` over the tokens that repeat; nothing, where none does."""
    if not continuations:
        return torch.zeros(())
    ids, repeated = padded(continuations)
    hidden = model(ids[:, :-1])[repeated]
    nats = F.cross_entropy(model.logits(hidden).float(), ids[:, 1:][repeated], reduction="none")
    # 1 - p from -log p, exact also where p is nearly 1, and bounded there.
    return -torch.log(-torch.expm1(-nats.clamp(min=1e-4))).mean()


def rate_at(step: int) -> float:
    """As a share of RATE: up, and then down to nothing at the end of the last round."""
    return min((step + 1) / WARM_UP, 1 - step / (ROUNDS * STEPS_A_ROUND))


def between(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Weights on the straight line from one model to another."""
    return {name: torch.lerp(before[name], after[name], share) for name in before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="the folder with the TinyStories files")
    parser.add_argument("run", type=Path, help="the folder that train.py wrote")
    arguments = parser.parse_args()
    run: Path = arguments.run
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    chance = random.Random(SEED)
    corpus = read_corpus(arguments.text)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    state = torch.load(run / "training.pt")
    if state["step"] != STEPS:
        raise SystemExit(f"this training is not at its end: step {state['step']} of {STEPS}")
    model = Stories(DROPOUT)
    model.load_state_dict(state["model"])
    stepper = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    mixture = STAGES[-1].mixture(corpus.train, tokenizer, SEED + STEPS)
    mixture.shares = STAGES[-1].later_shares
    beginnings = Beginnings(corpus.train, tokenizer, SEED)
    ending = sentence_ending(tokenizer)
    folder = run / "unloop"
    rows: list[dict[str, float]] = []
    began, step = time.monotonic(), 0

    def look(number: int) -> tuple[list[Continuation], dict[str, float]]:
        """Continuations that repeat something, and figures of the model as it is now."""
        write_folder(rounded(model.state_dict()), run / "tokenizer.json", folder)
        found = continued(folder, beginnings.draw(BEGINNINGS_A_ROUND), ending)
        repeating = [each for each in found if any(each.repeated)]
        num_repeated = sum(sum(each.repeated) for each in found)
        row: dict[str, float] = {
            "round": number,
            "repeating": round(len(repeating) / len(found), 4),
            "repeated_tokens": round(num_repeated / sum(len(each.tokens) for each in found), 4),
            "held_out_bits": round(held_out_bits(model, tokenizer, corpus.held_out), 4),
        }
        print(f"{time.monotonic() - began:7.0f} s  {row}", flush=True)
        return repeating, row

    for number in range(ROUNDS):
        repeating, row = look(number)
        losses: list[tuple[float, float]] = []
        for _ in range(STEPS_A_ROUND):
            stepper.param_groups[0]["lr"] = RATE * rate_at(step)
            wanted = mean_loss(model, *map(torch.from_numpy, mixture.rows(ROWS, CONTEXT)))
            chosen = chance.sample(repeating, min(REPEATING_ROWS, len(repeating)))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                unwanted = unlikelihood(model, chosen)
            (wanted + UNLIKELIHOOD * unwanted).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stepper.step()
            stepper.zero_grad()
            losses.append((wanted.item(), unwanted.item()))
            step += 1
        row["loss"], row["unlikelihood"] = (
            round(math.fsum(part) / len(losses), 4) for part in zip(*losses, strict=True)
        )
        rows.append(row)
    model.load_state_dict(between(state["model"], model.state_dict(), SHARE))
    rows.append(look(ROUNDS)[1])
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "unloop.jsonl").write_text(log, encoding="utf-8")
    shutil.rmtree(folder)
    torch.save({"step": STEPS, "model": model.state_dict()}, run / "unlooped.pt")


if __name__ == "__main__":
    main()
