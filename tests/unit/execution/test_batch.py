"""Batches: which token stands in which row, which pages it reads, how its row is sampled."""

import numpy as np
import pytest

from octavo.core.request import Request, SamplingParams
from octavo.core.step import SlotEntry, StepPlan, TokenRange
from octavo.execution.batch import build_batch
from octavo.execution.slots import SeenTokens, SlotTable

VOCAB = 50
END = 2


def make_slots(num_groups: int = 1) -> SlotTable:
    return SlotTable(4, 64, VOCAB, num_groups, (END,))


def enter(
    slots: SlotTable,
    slot: int,
    prompt: list[int],
    output: list[int] | None = None,
    **params: object,
) -> None:
    fields = {"max_tokens": 20, "seed": 10 + slot, **params}
    request = Request(
        request_id=f"r{slot}", prompt_ids=tuple(prompt), params=SamplingParams(**fields)
    )
    slots.enter(SlotEntry(slot, request, 0, (*prompt, *(output or []))))


def test_rows_are_ragged_and_in_the_order_of_the_ranges() -> None:
    slots = make_slots()
    enter(slots, 0, [10, 11, 12, 13])
    enter(slots, 3, [30, 31], [32, 33])
    plan = StepPlan(
        step=1, ranges=[TokenRange(3, 3, 1, samples=True), TokenRange(0, 1, 2, samples=False)]
    )
    built = build_batch(plan, slots)
    batch = built.batch
    assert batch.token_ids.tolist() == [33, 11, 12]
    assert batch.positions.tolist() == [3, 1, 2]
    assert batch.row_starts.tolist() == [0, 1, 3]
    assert batch.context_lens.tolist() == [3, 1]
    assert batch.sample_rows.tolist() == [0]
    assert built.sample_ranges == [0]
    assert batch.sampling.seeds.tolist() == [13]
    assert batch.sampling.positions.tolist() == [4]


def test_page_tables_are_cut_to_the_longest_sequence() -> None:
    slots = make_slots(num_groups=2)
    enter(slots, 0, list(range(40)))
    enter(slots, 1, [1, 2, 3])
    slots.pages[0][0, :3] = [5, 6, 7]
    slots.pages[1][0, :3] = [8, 9, 10]
    slots.pages[0][1, :1] = [4]
    plan = StepPlan(step=1, ranges=[TokenRange(0, 0, 33, False), TokenRange(1, 0, 3, True)])
    first, second = build_batch(plan, slots).batch.page_tables
    assert first.tolist() == [[5, 6, 7], [4, 0, 0]]
    assert second.tolist() == [[8, 9, 10], [0, 0, 0]]


def test_padding_adds_rows_that_touch_only_the_page_of_nobody() -> None:
    slots = make_slots()
    enter(slots, 0, [10, 11, 12])
    slots.pages[0][0, 0] = 5
    plan = StepPlan(step=1, ranges=[TokenRange(0, 0, 3, True)], padding=[2, 1])
    batch = build_batch(plan, slots).batch
    assert batch.token_ids.tolist() == [10, 11, 12, 0, 0, 0]
    assert batch.row_starts.tolist() == [0, 3, 5, 6]
    assert batch.page_tables[0].tolist() == [[5], [0], [0]]
    assert batch.sample_rows.tolist() == [2]
    assert len(batch.sampling.seeds) == 1


def test_prompt_scores_stop_before_the_last_prompt_token() -> None:
    slots = make_slots()
    enter(slots, 0, [10, 11, 12, 13], [14], prompt_logprobs=2)
    plan = StepPlan(step=1, ranges=[TokenRange(0, 1, 4, True, score_from=1)])
    built = build_batch(plan, slots)
    assert built.batch.score_rows.tolist() == [0, 1]  # positions 1 and 2
    assert built.batch.score_targets.tolist() == [12, 13]
    assert built.batch.score_num_top.tolist() == [2, 2]
    assert built.score_ranges == [0, 0]


def test_rows_without_extras_have_empty_lists() -> None:
    slots = make_slots()
    enter(slots, 0, [1])
    sampling = build_batch(StepPlan(1, ranges=[TokenRange(0, 0, 1, True)]), slots).batch.sampling
    assert sampling.bias_starts.tolist() == [0, 0]
    assert sampling.seen_starts.tolist() == [0, 0]
    assert sampling.mask_of_row.tolist() == [-1]
    assert sampling.masks.shape == (0, 2)


def row_biases(slots: SlotTable, slot: int) -> dict[int, float]:
    known = int(slots.num_tokens[slot])
    plan = StepPlan(1, ranges=[TokenRange(slot, known - 1, 1, True)])
    sampling = build_batch(plan, slots).batch.sampling
    return dict(zip(sampling.bias_ids.tolist(), sampling.bias_values.tolist(), strict=True))


def test_end_and_stop_tokens_are_banned_until_min_tokens() -> None:
    slots = make_slots()
    enter(slots, 0, [5], [], min_tokens=2, stop_token_ids=(7,), logit_bias={9: 1.5})
    banned = {END: -np.inf, 7: -np.inf, 9: 1.5}
    assert row_biases(slots, 0) == banned
    slots.append(0, 20)
    assert row_biases(slots, 0) == banned
    slots.append(0, 21)
    assert row_biases(slots, 0) == {9: 1.5}


def test_ignore_eos_leaves_the_end_token_alone() -> None:
    slots = make_slots()
    enter(slots, 0, [5], min_tokens=2, stop_token_ids=(7,), ignore_eos=True)
    assert row_biases(slots, 0) == {7: -np.inf}


def test_bad_words_ban_their_last_token_once_the_rest_stands_there() -> None:
    slots = make_slots()
    enter(slots, 0, [5], bad_words=((8,), (6, 7), (5, 6, 9)))
    assert row_biases(slots, 0) == {8: -np.inf}
    slots.append(0, 6)
    assert row_biases(slots, 0) == {8: -np.inf, 7: -np.inf, 9: -np.inf}


def test_penalties_count_the_output_and_know_the_prompt() -> None:
    slots = make_slots()
    enter(slots, 0, [5, 6, 5], [6, 9], presence_penalty=0.5)
    slots.append(0, 9)
    sampling = build_batch(StepPlan(1, ranges=[TokenRange(0, 5, 1, True)]), slots).batch.sampling
    seen = dict(zip(sampling.seen_ids.tolist(), sampling.seen_counts.tolist(), strict=True))
    assert seen == {5: 0, 6: 1, 9: 2}


def test_allowed_tokens_become_a_bit_mask() -> None:
    slots = make_slots()
    enter(slots, 0, [1], allowed_token_ids=(0, 33, 49))
    enter(slots, 1, [1])
    plan = StepPlan(1, ranges=[TokenRange(1, 0, 1, True), TokenRange(0, 0, 1, True)])
    sampling = build_batch(plan, slots).batch.sampling
    assert sampling.mask_of_row.tolist() == [-1, 0]
    assert sampling.masks.tolist() == [[1, (1 << 1) | (1 << 17)]]


def test_a_slot_that_was_left_remembers_nothing() -> None:
    slots = make_slots()
    enter(slots, 0, [1, 2], logit_bias={3: 1.0}, logprobs=4)
    slots.pages[0][0, 0] = 9
    slots.leave(0)
    enter(slots, 0, [4])
    assert slots.pages[0][0, 0] == 0
    assert slots.extras[0] is None
    assert slots.num_logprobs[0] == -1
    assert slots.num_tokens[0] == 1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_scalars_follow_their_slot(temperature: float) -> None:
    slots = make_slots()
    enter(slots, 0, [1], top_k=3)
    enter(slots, 2, [1], temperature=temperature, top_p=0.5)
    plan = StepPlan(1, ranges=[TokenRange(2, 0, 1, True), TokenRange(0, 0, 1, True)])
    sampling = build_batch(plan, slots).batch.sampling
    assert sampling.temperature.tolist() == [np.float32(temperature), 1.0]
    assert sampling.top_k.tolist() == [0, 3]
    assert sampling.top_p.tolist() == [0.5, 1.0]


def test_seen_tokens_grow_with_the_output() -> None:
    seen = SeenTokens([4, 4, 9], [9])
    for token in range(200):
        seen.count(token)
    counts = dict(zip(seen.ids.tolist(), seen.counts.tolist(), strict=True))
    assert counts == {**dict.fromkeys(range(200), 1), 9: 2}
