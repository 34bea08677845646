"""What pages contain, and where a content is found again.

A ``PageNode`` stands for one content: a page of tokens behind everything that came before it. It
exists once for each content, so that two nodes are the same content exactly if they are the same
object; its name, a hash, is how the content is known outside of this process. Which pages are
free or held is not known here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from weakref import WeakValueDictionary

from octavo.core.hashing import PageName, chain_root, page_name
from octavo.core.kv_layout import PAGE_SIZE

_pack_page = struct.Struct(f"<{PAGE_SIZE}i").pack  # little-endian int32, as names are defined


@dataclass(slots=True, eq=False, weakref_slot=True)
class PageNode:
    """The content of one full page and of all pages before it."""

    name: PageName
    parent: PageNode | None
    """None for the root of a tenant and adapter, which is no page."""
    content: bytes
    """The page's tokens; for a root, what its chain starts from."""


class PageNames:
    """Gives every content its one node.

    A name that is already taken by another content (a collision of hashes) gives no node at all:
    such a page can be neither found nor published, and no sequence is ever served the keys and
    values of tokens that are not its own. Nodes live as long as a page, a sequence or a longer
    content refers to them.
    """

    def __init__(
        self,
        numerics: bytes,
        *,
        name_page: Callable[[PageName, bytes], PageName] = page_name,
    ) -> None:
        self._numerics = numerics
        self._name_page = name_page
        self._nodes: WeakValueDictionary[PageName, PageNode] = WeakValueDictionary()

    def root(self, *, tenant: str, adapter: str) -> PageNode | None:
        """The node before the first page of every sequence of this tenant and adapter."""
        name = chain_root(self._numerics, tenant=tenant, adapter=adapter)
        return self._node(name, None, f"{len(tenant)}:{tenant}{adapter}".encode())

    def child(self, parent: PageNode, token_ids: SequenceOf[int]) -> PageNode | None:
        """The node of a page of ``PAGE_SIZE`` tokens behind ``parent``; None at a collision."""
        content = _pack_page(*token_ids)
        return self._node(self._name_page(parent.name, content), parent, content)

    def _node(self, name: PageName, parent: PageNode | None, content: bytes) -> PageNode | None:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = PageNode(name, parent, content)
        elif node.parent is not parent or node.content != content:
            return None
        return node


class PrefixIndex:
    """Where the contents of one KV group are: node to page and back, at most one page a node."""

    def __init__(self) -> None:
        self._pages: dict[PageNode, int] = {}
        self._nodes: dict[int, PageNode] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, page: int) -> bool:
        """Whether the content of this page has a name."""
        return page in self._nodes

    def find(self, node: PageNode) -> int | None:
        """The page with this content."""
        return self._pages.get(node)

    def insert(self, node: PageNode, page: int) -> None:
        """``page`` has this content. If another page has it too, that one stays the known one."""
        assert page not in self._nodes, f"page {page} has a name already"
        if node not in self._pages:
            self._pages[node] = page
            self._nodes[page] = node

    def remove(self, page: int) -> None:
        """``page``, named, is about to be overwritten."""
        del self._pages[self._nodes.pop(page)]

    def items(self) -> Iterator[tuple[PageNode, int]]:
        return iter(self._pages.items())
