"""What a training computes; where PyTorch is, which nothing else here needs."""

from __future__ import annotations

import io
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra train")

import torch.nn.functional as F  # noqa: E402

import train  # noqa: E402
from corpus import Corpus  # noqa: E402
from made_stories import Teller  # noqa: E402
from make_tokenizer import make_tokenizer  # noqa: E402
from model import BLOCK, HEAD_DIM, HEADS, Stories, causal_attention  # noqa: E402
from train import (  # noqa: E402
    LONG_CONTEXT,
    SHORT_CONTEXT,
    STAGES,
    STEPS,
    TOKENS_A_STEP,
    Stage,
    mean_loss,
)

pytestmark = pytest.mark.usefixtures("one_thread")
BY_STAGE = pytest.mark.parametrize("stage", STAGES, ids=("first", "second", "third", "fourth"))


@pytest.mark.parametrize("tokens", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 44])
def test_attention_in_blocks_is_attention(tokens: int) -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 2, HEADS, tokens, HEAD_DIM)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(causal_attention(q, k, v), expected, rtol=1e-5, atol=2e-6)


def test_the_loss_is_a_mean_by_weight() -> None:
    torch.manual_seed(1)
    model = Stories().eval()
    tokens, next_tokens = torch.randint(0, 1536, (2, 2, 9))
    weights = torch.tensor([[0.0, 1, 1, 4, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 4, 4]])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(model(tokens))
    shares = logits.float().log_softmax(-1)
    total = 0.0
    for row in range(2):
        for at in range(9):
            total -= weights[row, at] * shares[row, at, next_tokens[row, at]]
    expected = (total / weights.sum()).item()
    assert mean_loss(model, tokens, next_tokens, weights).item() == pytest.approx(expected, 1e-5)


def test_stages_follow_each_other() -> None:
    assert STAGES[0].begins == 0
    assert [stage.ends for stage in STAGES[:-1]] == [stage.begins for stage in STAGES[1:]]
    assert STAGES[-1].ends == STEPS


@BY_STAGE
def test_the_rate_is_held_and_then_falls(stage: Stage) -> None:
    rates = [stage.rate_at(step) for step in range(stage.begins, stage.ends)]
    rising, held = stage.warm_up, stage.decay_from - stage.begins
    assert rates[:rising] == sorted(rates[:rising])
    assert set(rates[rising : held + 1]) == {stage.rate}
    falling = rates[held:]
    assert falling == sorted(falling, reverse=True)
    assert 0 < falling[-1] < 0.002 * stage.rate


@BY_STAGE
def test_stories_and_rows_change_at_their_steps(stage: Stage) -> None:
    made = Teller(random.Random(1))
    stories = [made.story().text for _ in range(50)]
    mixture = stage.mixture(stories, make_tokenizer(stories))
    for step, shares, context in (
        (stage.begins, stage.shares, SHORT_CONTEXT),
        (stage.decay_from - 1, stage.shares, SHORT_CONTEXT),
        (stage.decay_from, stage.later_shares, SHORT_CONTEXT),
        (stage.long_from, stage.later_shares, LONG_CONTEXT),
    ):
        batches = stage.batches(mixture, step)
        assert mixture.shares == shares
        assert {rows.tokens.shape[1] for rows in batches} == {context}
        assert sum(rows.tokens.size for rows in batches) == TOKENS_A_STEP


def with_momentum(model: Stories) -> list[torch.optim.Optimizer]:
    """Less work than those of a real training, and a state that has to be kept as well."""
    return [torch.optim.SGD(model.parameters(), momentum=0.9)]


def test_an_interrupted_training_ends_as_one_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a stage, and at the border of two."""
    few = replace(STAGES[0].shares, talk=0.3)
    stages = [
        replace(stage, begins=4 * number, ends=4 * number + 4, warm_up=1, shares=few)
        for number, stage in enumerate(STAGES[:2])
    ]
    stages = [replace(stage, decay_from=stage.begins + 2) for stage in stages]
    stages = [replace(stage, long_from=stage.begins + 3) for stage in stages]
    for name, value in {
        "STAGES": stages,
        "TOKENS_A_STEP": 128,
        "TOKENS_AT_ONCE": 64,
        "SHORT_CONTEXT": 32,
        "LONG_CONTEXT": 64,
        "LOG_EVERY": 2,
        "EVALUATE_EVERY": 2,
    }.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(train, "optimizers", with_momentum)
    teller = Teller(random.Random(1))
    stories = [teller.story().text for _ in range(60)]
    corpus, tokenizer = Corpus(stories[1:], stories[:1]), make_tokenizer(stories)

    def train_on(saved: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(1 if not saved.exists() else 99)
        train.train(Stories(0.1), tokenizer, corpus, saved, io.StringIO())
        state = torch.load(saved)
        assert state["step"] == stages[-1].ends
        return state["model"]

    saved = tmp_path / "training.pt"
    save_state = train.save_state

    def save_and_copy(*arguments: Any) -> None:
        save_state(*arguments)
        shutil.copyfile(saved, tmp_path / f"{arguments[3]}.pt")

    monkeypatch.setattr(train, "save_state", save_and_copy)
    expected = train_on(saved)
    monkeypatch.setattr(train, "save_state", save_state)
    for step in (2, 4, 6):
        found = train_on(tmp_path / f"{step}.pt")
        assert all(torch.equal(found[name], expected[name]) for name in expected), step
