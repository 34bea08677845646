"""Philox4x32-10: one 64-bit random number for each (seed, choice, position), without any state.

A counter-based generator is a function, so a request that is resumed, moved or batched elsewhere
draws the same numbers. What a number is used for belongs to ``sampler.py``.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np

from octavo.backends.base import U32, U64

_NUM_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW_WORD = np.uint64(0xFFFFFFFF)
_WORD_BITS = np.uint64(32)


def philox4x32(counters: U32, keys: U32) -> U32:
    """Philox4x32 with ten rounds; the words of a counter and of a key are in ascending order.

    Args:
        counters: (numbers, 4)
        keys: (numbers, 2)

    Returns:
        (numbers, 4), each row a bijection of its counter under its key.
    """
    words = counters.T.astype(np.uint64)  # (4, numbers): 32-bit words, with room for products
    even, odd, key = words[0::2], words[1::2], keys.T.astype(np.uint64)  # (2, numbers) each
    for _ in range(_NUM_ROUNDS):
        products = even * _MULTIPLIERS
        even = (products[::-1] >> _WORD_BITS) ^ odd ^ key
        odd = products[::-1] & _LOW_WORD
        key = (key + _KEY_STEPS) & _LOW_WORD
    return np.stack([even[0], odd[0], even[1], odd[1]], axis=1).astype(np.uint32)


def random_u64(seeds: U64, choices: U32, positions: U32) -> U64:
    """The random number of each (seed, choice, position), uniform over [0, 2**64).

    The key is the seed, low word first; the counter is (position, choice, 0, 0); the number is the
    first two words of the output, low word first.

    Args:
        seeds: (rows,)
        choices: (rows,)
        positions: (rows,)

    Returns:
        (rows,)
    """
    zeros = np.zeros_like(positions)
    counters = np.stack([positions, choices, zeros, zeros], axis=1)
    keys = np.stack([seeds & _LOW_WORD, seeds >> _WORD_BITS], axis=1).astype(np.uint32)
    words = philox4x32(counters, keys).astype(np.uint64)
    numbers: U64 = words[:, 0] | (words[:, 1] << _WORD_BITS)
    return numbers
