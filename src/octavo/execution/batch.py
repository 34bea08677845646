"""StepPlan → Batch: ragged arrays, no padding (unless padding is what is being measured).

Everything that every row has is picked from the slot table by index, a few NumPy calls a step
whatever the number of rows. Only rows with penalties, biases or masks are visited one by one.

Most steps decode the sequences of the step before, one token each. Then only tokens and positions
are new, and the rest is kept: what NumPy does for a row or two is little, but beside a model whose
weights go through the caches in every step, its code comes from memory each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.backends.base import I32, Batch, SamplingBatch
from octavo.core.kv_layout import PAGE_SIZE, pages_for
from octavo.core.step import StepPlan
from octavo.execution.slots import SeenTokens, SlotTable

_NO_TOKENS = np.zeros(0, np.int32)


@dataclass(slots=True)
class BuiltBatch:
    """A batch, and which range of the plan each of its sampled and scored rows came from."""

    batch: Batch
    sample_ranges: list[int]  # (samples,) index into plan.ranges
    score_ranges: list[int]  # (scores,) index into plan.ranges, one entry a scored row
    drawn: I32 | None = None
    """The tokens that came of it, where all rows brought one: put here by whoever computed it."""


class Batches:
    """The batches of one slot table, plan after plan.

    Nothing is kept across a plan in which any sequence leaves or enters, and no page table across
    one in which any page is assigned.
    """

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self._decode: _Decode | None = None
        self.num_kept = 0
        """Batches for which the arrays of an earlier one could be kept."""

    def build(self, plan: StepPlan) -> BuiltBatch:
        """The arrays of one step. The slots already reflect the plan's leaving and entering, and
        its pages. No array is ever written to again, but the next batch may be the same one with
        other arrays in it."""
        decode = self._decode
        if plan.leave or plan.enter:
            decode = self._decode = None
        elif decode is not None and plan.page_assignments:
            decode.num_pages = 0
        slots = _decoded_slots(plan)
        if slots is None:
            return build_batch(plan, self._slots)
        if decode is not None and decode.slots == slots:
            self.num_kept += 1
            return decode.next_batch(plan, self._slots)
        built = build_batch(plan, self._slots)
        self._decode = _Decode.of(built, slots, self._slots)
        return built


def _decoded_slots(plan: StepPlan) -> list[int] | None:
    """The slots of a step that computes one token of each sequence and draws the next; None for
    every other step. Nothing is scored in it: a token of the prompt follows none of its rows."""
    if plan.padding or plan.page_copies:
        return None
    slots = [part.slot for part in plan.ranges if part.count == 1 and part.samples]
    return slots if len(slots) == len(plan.ranges) else None


@dataclass(slots=True)
class _Decode:
    """What steps that decode the same slots, in the same order, have in common."""

    slots: list[int]
    built: BuiltBatch
    """Given out for every one of them: the arrays that depend on parameters alone stay."""
    is_plain: bool
    """Whether the ragged ones stay, too: no row has anything in them."""
    next_starts: list[int]
    """Where the tokens that the last step drew are."""
    num_pages: int = 0
    """The width of its page tables; none if pages were assigned since."""

    @classmethod
    def of(cls, built: BuiltBatch, slots: list[int], table: SlotTable) -> _Decode:
        is_plain = all(table.extras[slot] is None for slot in slots)
        return cls(slots, built, is_plain, built.batch.sampling.positions.tolist())

    def next_batch(self, plan: StepPlan, slots: SlotTable) -> BuiltBatch:
        built = self.built
        batch, sampling, token_ids = built.batch, built.batch.sampling, built.drawn
        starts = [part.start for part in plan.ranges]
        if token_ids is None or starts != self.next_starts:
            token_ids = np.array([*map(slots.tokens.item, self.slots, starts)], np.int32)
        num_pages = max(starts) // PAGE_SIZE + 1
        if num_pages != self.num_pages:
            batch.page_tables = [table[self.slots, :num_pages] for table in slots.pages]
            self.num_pages = num_pages
        self.next_starts = [start + 1 for start in starts]
        batch.token_ids = token_ids
        # The one token is the next one of its sequence.
        batch.positions = batch.context_lens = np.array(starts, np.int32)
        sampling.positions = np.array(self.next_starts, np.uint32)
        if not self.is_plain:
            for name, values in _ragged(slots, self.slots).items():
                setattr(sampling, name, values)
        built.drawn = None
        return built


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
        last = min(part.start + part.count, slots.num_prompt_tokens[part.slot] - 1)
        first_row = int(row_starts[index]) + part.score_from - part.start
        scored = range(first_row, first_row + last - part.score_from)
        rows.extend(scored)
        owners.extend([index] * len(scored))
    return np.array(rows, np.int32), owners


def _sampling(slots: SlotTable, rows: np.ndarray) -> SamplingBatch:
    """The sampling arrays of these slots, one row each."""
    rows_list = rows.tolist()
    return SamplingBatch(
        seeds=slots.seeds[rows],
        choices=slots.choices[rows],
        positions=np.array([slots.num_tokens[slot] for slot in rows_list], np.uint32),
        num_logprobs=slots.num_logprobs[rows],
        **_ragged(slots, rows_list),
        **{name: values[rows] for name, values in slots.scalars.items()},
    )


def _ragged(slots: SlotTable, rows: list[int]) -> dict[str, Any]:
    """The sampling arrays to which a row may bring any number of entries."""
    bias_starts, bias_ids, bias_values = [0], list[int](), list[float]()
    seen_starts, seen = [0], list[SeenTokens]()
    masks: list[np.ndarray] = []
    mask_of_row = np.full(len(rows), -1, np.int32)
    for row, slot in enumerate(rows):
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
    return {
        "seen_starts": np.array(seen_starts, np.int32),
        "seen_ids": np.concatenate([_NO_TOKENS, *(tokens.ids for tokens in seen)]),
        "seen_counts": np.concatenate([_NO_TOKENS, *(tokens.counts for tokens in seen)]),
        "bias_starts": np.array(bias_starts, np.int32),
        "bias_ids": np.array(bias_ids, np.int32),
        "bias_values": np.array(bias_values, np.float32),
        "mask_of_row": mask_of_row,
        "masks": np.array(masks, np.uint32).reshape(-1, num_words),
    }
