"""Names: what decides the bits of a page, folded into 128 bits.

A full page is named by a digest that chains its parent's name with its own token ids; the chain
starts from everything else that decides its bits (the numerics id, the tenant, the adapter).
Equal names therefore mean equal bytes, in the pool, in a tier, or after a restart. BLAKE2b is used
throughout; nothing here depends on Python's own ``hash``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

DIGEST_SIZE = 16
PageName = bytes  # 16 bytes; the KV group is kept beside it, not inside


def _digest(parts: Iterable[bytes], *, person: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=DIGEST_SIZE, person=person)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))  # so that ("ab", "c") is not ("a", "bc")
        state.update(part)
    return state.digest()


def numerics_id(facts: Mapping[str, str]) -> bytes:
    """The id of everything that decides the bits of keys and values besides the tokens.

    ``facts`` holds, by name: weights (content hash), weight_format, rope (settings and
    max_model_len), kv_format, backend (name and kernel version), instruction_set. Order is free.
    """
    parts = [f"{name}={facts[name]}".encode() for name in sorted(facts)]
    return _digest(parts, person=b"octavo-numerics")


def chain_root(numerics: bytes, *, tenant: str, adapter: str) -> PageName:
    """The name that stands before the first page of every sequence of this tenant and adapter."""
    return _digest((numerics, tenant.encode(), adapter.encode()), person=b"octavo-root")


def page_name(parent: PageName, token_bytes: bytes) -> PageName:
    """The name of a full page: its parent's name and its token ids (little-endian int32)."""
    return _digest((parent, token_bytes), person=b"octavo-page")
