"""Rows of logits → tokens and logprobs, in NumPy: the reference backend's sampler.

It is also the slow twin of the native one, so every step is defined to the bit: elementwise
float32 operations, the canonical ``exp`` and ``log`` of the kernels, and sums of integers only
(``candidates.py``). A row's result therefore depends on nothing but the row. What is computed is
written down in ``docs/concepts/sampling.md``; here is how. Stops and text belong elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from octavo.backends.base import F32, I32, Bools, SamplingBatch, ScoredRows
from octavo.backends.candidates import (
    WEIGHT_ONE,
    Filters,
    Kernels,
    best_first,
    exponentials,
    find_candidates,
    integer_weights,
)
from octavo.backends.philox import random_u64
from octavo.backends.sampling_failures import (
    ALL_IMPOSSIBLE,
    INFINITE,
    NO_CANDIDATE,
    NO_TOKEN_LEFT,
    NOT_A_NUMBER,
    OVERFLOW,
    UNKNOWN_TOKEN,
)

_SMALLEST_TEMPERATURE = np.finfo(np.float32).tiny
"""Below it a temperature counts as 0, so that no denormal number is ever a divisor."""

_CHUNK_ELEMENTS = 2**14
"""Logits worked on at once where rows are plain: enough to hide the calls, few enough to stay
in the cache."""

RowIndices = NDArray[np.intp]


class _RowError(Exception):
    """Why no token can be drawn from one row."""


def sample(
    logits: F32, sampling: SamplingBatch, kernels: Kernels
) -> tuple[I32, ScoredRows, dict[int, str]]:
    """Draw a token from each row, and score it where logprobs are wanted.

    A row that cannot be drawn from fails alone.

    Args:
        logits: (rows, vocab) as the model gave them; not changed. -inf is a token that cannot be.
        sampling: how each of the rows draws.
        kernels: canonical ``exp`` and ``log``.

    Returns:
        Token ids (rows,), -1 where the row failed; their scores, 0 and empty where the row failed
        or wants none; and why a row failed, by its index.
    """
    highest = logits.argmax(axis=1)  # the lowest id in a tie; a NaN counts as highest
    peaks = logits[np.arange(len(logits)), highest]
    errors = _unusable(peaks)
    token_ids = np.full(len(logits), -1, np.int32)

    healthy = np.isfinite(peaks)
    plain = _plain(sampling)
    greedy = sampling.temperature < _SMALLEST_TEMPERATURE
    unfiltered = _unfiltered(sampling, logits.shape[1])
    token_ids[healthy & plain & greedy] = highest[healthy & plain & greedy]
    numbers = [0] * len(logits)  # greedy rows use none
    if not greedy.all():
        numbers = random_u64(sampling.seeds, sampling.choices, sampling.positions).tolist()
    # A difference beyond float32 is a weight of 0; what penalties make infinite is found.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for chunk in _chunks(np.flatnonzero(healthy & plain & ~greedy & unfiltered), logits):
            temperatures = sampling.temperature[chunk, None]
            log_weights = (logits[chunk] - peaks[chunk, None]) / temperatures
            reached = integer_weights(exponentials(log_weights, kernels)).cumsum(axis=1)
            for row, sums in zip(chunk.tolist(), reached, strict=True):
                token_ids[row] = draw(sums, numbers[row])
        for row in np.flatnonzero(healthy & ~(plain & (greedy | unfiltered))).tolist():
            try:
                token_ids[row] = _choose(logits[row], row, sampling, numbers[row], kernels)
            except _RowError as error:
                errors[row] = str(error)
            except Exception as error:  # a bug met by one row must not stop the others
                errors[row] = f"sampling failed: {error!r}"
    wanted = np.flatnonzero((token_ids >= 0) & (sampling.num_logprobs >= 0))
    scores = _scores(logits, wanted, peaks, token_ids, sampling.num_logprobs, kernels)
    return token_ids, scores, errors


def score(
    logits: F32, targets: I32, num_top: I32, kernels: Kernels
) -> tuple[ScoredRows, dict[int, str]]:
    """Logprobs of known tokens, and of the most likely ones, under raw logits.

    The order of the most likely is that of the logits, the lower id first where these are equal.

    Args:
        logits: (rows, vocab); not changed.
        targets: (rows,) the token to score in each row.
        num_top: (rows,) how many of the most likely tokens to add, >= 0.
        kernels: canonical ``exp`` and ``log``.

    Returns:
        The scores, 0 and empty where the row failed; and why a row failed, by its index.
    """
    peaks = logits.max(axis=1)
    healthy = np.flatnonzero(np.isfinite(peaks))
    return _scores(logits, healthy, peaks, targets, num_top, kernels), _unusable(peaks)


def draw(reached: NDArray[np.int64], number: int) -> int:
    """The first index at which the running sum of weights passes number / 2**64 of the total.

    Exact: an index of weight w is drawn by w in ``reached[-1]`` of the numbers, up to rounding to a
    multiple of 2**-64; one of weight 0 never is.

    Args:
        reached: (weights,) running sums in ascending token id, the last one > 0.
        number: in [0, 2**64)
    """
    target = (number * int(reached[-1])) >> 64
    return int(reached.searchsorted(target, side="right"))


def rows_between(sampling: SamplingBatch, start: int, stop: int) -> SamplingBatch:
    """The rows [start, stop) of a batch, for executables that hold few rows of logits at once.

    Shares memory with the batch.
    """
    if start == 0 and stop == len(sampling.seeds):
        return sampling
    rows, starts = slice(start, stop), slice(start, stop + 1)
    return SamplingBatch(
        seeds=sampling.seeds[rows],
        choices=sampling.choices[rows],
        positions=sampling.positions[rows],
        temperature=sampling.temperature[rows],
        top_k=sampling.top_k[rows],
        top_p=sampling.top_p[rows],
        min_p=sampling.min_p[rows],
        typical_p=sampling.typical_p[rows],
        repetition_penalty=sampling.repetition_penalty[rows],
        presence_penalty=sampling.presence_penalty[rows],
        frequency_penalty=sampling.frequency_penalty[rows],
        num_logprobs=sampling.num_logprobs[rows],
        seen_starts=sampling.seen_starts[starts],  # still offsets into all the values
        seen_ids=sampling.seen_ids,
        seen_counts=sampling.seen_counts,
        bias_starts=sampling.bias_starts[starts],
        bias_ids=sampling.bias_ids,
        bias_values=sampling.bias_values,
        mask_of_row=sampling.mask_of_row[rows],
        masks=sampling.masks,
    )


def _choose(logits: F32, row: int, sampling: SamplingBatch, number: int, kernels: Kernels) -> int:
    """The token of one row with all its parameters. ``logits``: (vocab,), the highest is finite.

    Raises:
        _RowError: nothing can be drawn.
    """
    logits = _processed(logits, row, sampling)
    highest = int(logits.argmax())
    if logits[highest] == -np.inf:
        raise _RowError(NO_TOKEN_LEFT)
    if not np.isfinite(logits[highest]):
        raise _RowError(OVERFLOW)
    if sampling.temperature[row] < _SMALLEST_TEMPERATURE:
        return highest
    filters = Filters(
        temperature=float(sampling.temperature[row]),
        top_k=int(sampling.top_k[row]),
        top_p=float(sampling.top_p[row]),
        min_p=float(sampling.min_p[row]),
        typical_p=float(sampling.typical_p[row]),
    )
    candidates = find_candidates(logits, filters, kernels)
    if not candidates.weights.any():
        raise _RowError(NO_CANDIDATE)
    return int(candidates.ids[draw(candidates.weights.cumsum(), number)])


def _processed(logits: F32, row: int, sampling: SamplingBatch) -> F32:
    """Penalties, biases and the mask of a row on a copy of its logits: (vocab,).

    Raises:
        _RowError: an id is not a token.
    """
    logits = logits.copy()
    seen = slice(sampling.seen_starts[row], sampling.seen_starts[row + 1])
    ids, counts = sampling.seen_ids[seen], sampling.seen_counts[seen]
    biased = slice(sampling.bias_starts[row], sampling.bias_starts[row + 1])
    for named in (ids, sampling.bias_ids[biased]):
        if len(named) and not 0 <= named.min() <= named.max() < len(logits):
            raise _RowError(UNKNOWN_TOKEN)
    if len(ids):
        values, repetition = logits[ids], sampling.repetition_penalty[row]
        values = np.where(values < 0, values * repetition, values / repetition)
        values -= np.where(counts > 0, sampling.presence_penalty[row], np.float32(0.0))
        values -= counts.astype(np.float32) * sampling.frequency_penalty[row]
        logits[ids] = values
    logits[sampling.bias_ids[biased]] += sampling.bias_values[biased]
    if sampling.mask_of_row[row] >= 0:
        words = sampling.masks[sampling.mask_of_row[row]].astype("<u4")  # bytes: lowest bits first
        allowed = np.unpackbits(words.view(np.uint8), count=len(logits), bitorder="little")
        logits[allowed == 0] = -np.inf
    return logits


def _scores(
    logits: F32, rows: RowIndices, peaks: F32, tokens: I32, num_top: I32, kernels: Kernels
) -> ScoredRows:
    """Scores of ``tokens`` (all rows) in the given rows; the others' stay 0 and empty."""
    logprobs = np.zeros(len(logits), np.float32)
    top_ids = [np.empty(0, np.int32)] * len(logits)
    top_logprobs = [np.empty(0, np.float32)] * len(logits)
    with np.errstate(over="ignore"):
        for chunk in _chunks(rows, logits):
            log_weights = logits[chunk] - peaks[chunk, None]
            totals = integer_weights(exponentials(log_weights, kernels)).sum(axis=1)
            log_totals = np.empty(len(chunk), np.float32)
            kernels.log((totals / WEIGHT_ONE).astype(np.float32), log_totals)
            logprobs[chunk] = log_weights[np.arange(len(chunk)), tokens[chunk]] - log_totals
            for index, row in enumerate(chunk.tolist()):
                if num_top[row] > 0:
                    top = best_first(logits[row], int(num_top[row]))
                    top_ids[row] = top.astype(np.int32)
                    top_logprobs[row] = log_weights[index, top] - log_totals[index]
    return ScoredRows(logprobs, top_ids, top_logprobs)


def _unusable(peaks: F32) -> dict[int, str]:
    """Why a row with this highest logit means nothing, by row, for those that are so."""
    errors = {}
    for row in np.flatnonzero(~np.isfinite(peaks)).tolist():
        if np.isnan(peaks[row]):
            errors[row] = NOT_A_NUMBER
        else:
            errors[row] = INFINITE if peaks[row] > 0 else ALL_IMPOSSIBLE
    return errors


def _plain(sampling: SamplingBatch) -> Bools:
    """(rows,) which rows have no penalties, biases or mask."""
    no_seen = np.diff(sampling.seen_starts) == 0
    no_bias = np.diff(sampling.bias_starts) == 0
    plain: Bools = no_seen & no_bias & (sampling.mask_of_row < 0)
    return plain


def _unfiltered(sampling: SamplingBatch, vocab_size: int) -> Bools:
    """(rows,) which rows keep every token."""
    unfiltered: Bools = (
        ((sampling.top_k <= 0) | (sampling.top_k >= vocab_size))
        & (sampling.top_p >= 1.0)
        & (sampling.min_p <= 0.0)
        & (sampling.typical_p >= 1.0)
    )
    return unfiltered


def _chunks(rows: RowIndices, logits: F32) -> Iterator[RowIndices]:
    """The rows, as many at a time as make up _CHUNK_ELEMENTS logits, at least one."""
    size = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
