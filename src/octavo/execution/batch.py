"""StepPlan → Batch: ragged arrays, no padding (unless padding is what is being measured).

Everything that every row has is picked from the slot table by index, a few NumPy calls a step
whatever the number of rows. Only rows with penalties, biases or masks are visited one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.backends.base import Batch, SamplingBatch
from octavo.core.kv_layout import pages_for
from octavo.core.step import StepPlan
from octavo.execution.slots import SeenTokens, SlotTable

_NO_TOKENS = np.zeros(0, np.int32)


@dataclass(slots=True)
class BuiltBatch:
    """A batch, and which range of the plan each of its sampled and scored rows came from."""

    batch: Batch
    sample_ranges: list[int]  # (samples,) index into plan.ranges
    score_ranges: list[int]  # (scores,) index into plan.ranges, one entry a scored row


def build_batch(plan: StepPlan, slots: SlotTable) -> BuiltBatch:
    """The arrays of one step. ``slots`` already reflects the plan's leaving and entering."""
    ranges = plan.ranges
    count_of = [part.count for part in ranges] + plan.padding
    num_real, num_seqs = len(ranges), len(count_of)
    slot = np.zeros(num_seqs, np.int64)
    start = np.zeros(num_seqs, np.int32)
    slot[:num_real] = [part.slot for part in ranges]
    start[:num_real] = [part.start for part in ranges]
    count = np.array(count_of, np.int32)
    row_starts = np.zeros(num_seqs + 1, np.int32)
    np.cumsum(count, out=row_starts[1:])

    seq_of_row = np.repeat(np.arange(num_seqs), count)
    rows = np.arange(row_starts[-1], dtype=np.int32)
    positions = rows - (row_starts[:-1] - start)[seq_of_row]
    num_pages = pages_for(int((start + count).max()))
    token_ids = slots.tokens[slot[seq_of_row], positions]
    page_tables = [table[slot, :num_pages] for table in slots.pages]
    if plan.padding:  # wasted rows: token 0, written to the page that belongs to nobody
        token_ids[row_starts[num_real] :] = 0
        for table in page_tables:
            table[num_real:] = 0

    sample_ranges = [index for index, part in enumerate(ranges) if part.samples]
    score_rows, score_ranges = _scored_rows(plan, slots, row_starts)
    sample_slots = slot[sample_ranges]
    score_slots = slot[score_ranges]
    return BuiltBatch(
        Batch(
            token_ids=token_ids,
            positions=positions,
            row_starts=row_starts,
            context_lens=start,
            page_tables=page_tables,
            page_copies=np.array(plan.page_copies, np.int32).reshape(-1, 3),
            sample_rows=row_starts[1:][sample_ranges] - 1,
            sampling=_sampling(slots, sample_slots),
            score_rows=score_rows,
            score_targets=slots.tokens[score_slots, positions[score_rows] + 1],
            score_num_top=slots.num_prompt_logprobs[score_slots],
        ),
        sample_ranges,
        score_ranges,
    )


def _scored_rows(
    plan: StepPlan, slots: SlotTable, row_starts: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Rows whose next token is a prompt token with logprobs due, and the ranges they are in."""
    rows: list[int] = []
    owners: list[int] = []
    for index, part in enumerate(plan.ranges):
        if part.score_from < 0:
            continue
        last = min(part.start + part.count, int(slots.num_prompt_tokens[part.slot]) - 1)
        first_row = int(row_starts[index]) + part.score_from - part.start
        scored = range(first_row, first_row + last - part.score_from)
        rows.extend(scored)
        owners.extend([index] * len(scored))
    return np.array(rows, np.int32), owners


def _sampling(slots: SlotTable, rows: np.ndarray) -> SamplingBatch:
    """The sampling arrays of these slots, one row each."""
    bias_starts, bias_ids, bias_values = [0], list[int](), list[float]()
    seen_starts, seen = [0], list[SeenTokens]()
    masks: list[np.ndarray] = []
    mask_of_row = np.full(len(rows), -1, np.int32)
    for row, slot in enumerate(rows.tolist()):
        extras = slots.extras[slot]
        num_seen = 0
        if extras is not None:
            try:
                biases = slots.biases(slot)
            except Exception as error:  # a bug met by one row must not stop the others
                slots.failures[slot] = f"preparing the row failed: {error!r}"
                biases = {}
            bias_ids.extend(biases)
            bias_values.extend(biases.values())
            if extras.seen is not None:
                seen.append(extras.seen)
                num_seen = len(extras.seen.ids)
            if extras.mask is not None:
                mask_of_row[row] = len(masks)
                masks.append(extras.mask)
        bias_starts.append(len(bias_ids))
        seen_starts.append(seen_starts[-1] + num_seen)
    num_words = -(-slots.vocab_size // 32)
    return SamplingBatch(
        seeds=slots.seeds[rows],
        choices=slots.choices[rows],
        positions=slots.num_tokens[rows].astype(np.uint32),
        num_logprobs=slots.num_logprobs[rows],
        seen_starts=np.array(seen_starts, np.int32),
        seen_ids=np.concatenate([_NO_TOKENS, *(tokens.ids for tokens in seen)]),
        seen_counts=np.concatenate([_NO_TOKENS, *(tokens.counts for tokens in seen)]),
        bias_starts=np.array(bias_starts, np.int32),
        bias_ids=np.array(bias_ids, np.int32),
        bias_values=np.array(bias_values, np.float32),
        mask_of_row=mask_of_row,
        masks=np.array(masks, np.uint32).reshape(-1, num_words),
        **{name: values[rows] for name, values in slots.scalars.items()},
    )
