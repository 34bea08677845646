"""The pages of one KV group: which are free, which are held, and by how many.

A page is always exactly one of free, cached (nobody holds it, but its content has a name and may
be found again) and held. What a page contains is not known here; names belong to ``prefix``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from octavo.core.eviction import EvictionPolicy

NOBODY = 0
"""The page that belongs to nobody. In a page table it stands where no page is needed."""


class PagePool:
    """Hands out pages 1 .. num_pages - 1, each to one holder or, shared, to several.

    Args:
        num_pages: pages of the group, the one that belongs to nobody included.
        eviction: which cached page is given up first when no free one is left.
        forget: told of each cached page that is given up, before it is handed out again.
    """

    def __init__(
        self,
        num_pages: int,
        *,
        eviction: EvictionPolicy[int],
        forget: Callable[[int], None],
    ) -> None:
        self.num_pages = num_pages
        self.num_evictions = 0
        self._free = list(range(num_pages - 1, NOBODY, -1))  # a stack: warm pages go first
        self._references = [0] * num_pages
        self._cached = eviction
        self._forget = forget

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_held(self) -> int:
        return self.num_pages - 1 - len(self._free) - len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that ``take`` can hand out: the free ones, then the cached ones."""
        return len(self._free) + len(self._cached)

    def take(self) -> int:
        """A page with one holder and no name. Raises LookupError when none is available."""
        if self._free:
            page = self._free.pop()
        else:
            page = self._cached.victim()
            self._cached.remove(page)
            self._forget(page)
            self.num_evictions += 1
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One holder more for a page that is held or cached."""
        if self._references[page] == 0:
            self._cached.remove(page)
        self._references[page] += 1

    def release(self, page: int, *, keep: bool) -> bool:
        """One holder less. Whether that freed the page.

        A page without holders stays cached if ``keep`` says that its content may be wanted again.
        """
        self._references[page] -= 1
        if self._references[page] > 0:
            return False
        assert self._references[page] == 0, f"page {page} was released too often"
        if keep:
            self._cached.add(page)
            return False
        self._free.append(page)
        return True

    def references(self, page: int) -> int:
        """How many hold this page."""
        return self._references[page]

    def is_cached(self, page: int) -> bool:
        return page in self._cached

    def free_pages(self) -> Iterator[int]:
        """The free pages, for checks and for tests that poison what is free."""
        return iter(self._free)
