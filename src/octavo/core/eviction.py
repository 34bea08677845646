"""Which cached entry goes first: one protocol, used by the page pool and by every storage tier.

A policy only orders keys. It neither owns the entries nor knows their bytes; whoever evicts asks
for ``victim()``, drops that entry, and tells the policy with ``remove``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)


class EvictionPolicy(Protocol[Key]):
    """Orders the keys that may be evicted. Keys in use are simply not in it."""

    def add(self, key: Key) -> None:
        """``key`` may be evicted from now on; it must not be present."""

    def touch(self, key: Key) -> None:
        """``key``, present, was used."""

    def remove(self, key: Key) -> None:
        """``key``, present, is evicted or in use again."""

    def victim(self) -> Key:
        """The key to evict next; it stays present. Raises LookupError when there is none."""

    def __len__(self) -> int: ...

    def __contains__(self, key: Key) -> bool: ...


class LeastRecentlyUsed(Generic[Key]):
    """Evicts the key that was added or touched longest ago."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Key, None] = OrderedDict()  # oldest first

    def add(self, key: Key) -> None:
        assert key not in self._keys
        self._keys[key] = None

    def touch(self, key: Key) -> None:
        self._keys.move_to_end(key)

    def remove(self, key: Key) -> None:
        del self._keys[key]

    def victim(self) -> Key:
        try:
            return next(iter(self._keys))
        except StopIteration:
            raise LookupError("nothing to evict") from None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        return key in self._keys
