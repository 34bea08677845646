"""Why no token can be drawn from a row: the sentences, for every sampler."""

from __future__ import annotations

NOT_A_NUMBER = "the model's logits are not numbers (NaN)"
INFINITE = "one of the model's logits is infinite"
ALL_IMPOSSIBLE = "the model gives every token the probability 0"
NO_TOKEN_LEFT = "biases, banned and allowed ids leave no token that may be chosen"
OVERFLOW = "penalties made a logit infinite"
UNKNOWN_TOKEN = "sampling failed: a penalty or a bias is for a token that the model does not have"
NO_CANDIDATE = "sampling failed: the filters leave no token"

BY_CODE = (
    "",  # it did not fail
    NOT_A_NUMBER,
    INFINITE,
    ALL_IMPOSSIBLE,
    NO_TOKEN_LEFT,
    OVERFLOW,
    UNKNOWN_TOKEN,
    NO_CANDIDATE,
)
"""In the order of RowError in csrc/sampler/sampler.h."""
