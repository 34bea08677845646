"""The loss against repetitions; where PyTorch is, which nothing else here needs."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="the extra train")

from model import Stories  # noqa: E402
from repetition import Continuation  # noqa: E402
from unloop import ROUNDS, STEPS_A_ROUND, between, padded, rate_at, unlikelihood  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST = Continuation([0, 5, 6], [7, 8, 7, 8], [False, False, True, True])
SECOND = Continuation([0], [9, 9], [False, True])


def test_rows_are_padded_and_next_tokens_marked() -> None:
    ids, repeated = padded([FIRST, SECOND])
    assert ids.tolist() == [[0, 5, 6, 7, 8, 7, 8], [0, 9, 9, 0, 0, 0, 0]]
    marked = [ids[row, 1 + column].item() for row, column in repeated.nonzero().tolist()]
    assert marked == [7, 8, 9]
    assert repeated.nonzero().tolist() == [[0, 4], [0, 5], [1, 1]]


def test_the_loss_is_the_mean_of_minus_log_of_one_less_p() -> None:
    torch.manual_seed(1)
    model = Stories().eval()
    expected = []
    with torch.no_grad():
        for ids, positions in (([0, 5, 6, 7, 8, 7, 8], (5, 6)), ([0, 9, 9], (2,))):
            shares = model.logits(model(torch.tensor([ids])))[0].double().softmax(-1)
            expected += [-math.log(1 - shares[at - 1, ids[at]].item()) for at in positions]
        found = unlikelihood(model, [FIRST, SECOND]).item()
    assert found == pytest.approx(sum(expected) / 3, rel=1e-3)


def test_a_step_against_a_token_makes_it_less_likely() -> None:
    torch.manual_seed(1)
    model = Stories()
    weights = list(model.parameters())
    losses = []
    for _ in range(4):
        loss = unlikelihood(model, [FIRST, SECOND])
        # PyTorch's own optimisers import its compiler first, which takes a second.
        slopes = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight -= slope
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [rate_at(step) for step in range(ROUNDS * STEPS_A_ROUND)]
    top = rates.index(max(rates))
    assert 0 < top < 20
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_weights_go_part_of_the_way() -> None:
    before, after = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([5.0, 0.0])}
    assert between(before, after, 0.75)["w"].tolist() == [4.0, 0.5]
