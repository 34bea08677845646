"""Stop strings in a stream of text: nothing that may belong to one is given out too early.

The rule, which does not depend on how the text was cut into pieces: the text ends at the leftmost
place where a stop string begins; of several that begin there, the shortest is the one reported
(it is complete first, and the text before it is the same).

All stop strings are looked for at once with the automaton of Aho and Corasick ("Efficient string
matching", CACM 18, 1975), so the time is linear in the text. Its depth is the length of the
longest end of the text that begins a stop string: just what has to be held back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string that was found, in characters from the start of the stream."""

    start: int
    stop: str

    @property
    def end(self) -> int:
        return self.start + len(self.stop)


class StopStrings:
    """Stop strings made ready to be looked for; shared by the choices of a request.

    Args:
        stops: at least one string, none of them empty.
    """

    __slots__ = ("_children", "_deeper", "_depths", "_fallbacks", "_first", "_found", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        assert stops, "without stop strings there is nothing to look for"
        assert all(stops), "empty stop strings are refused before they come here"
        self._stops = tuple(stops)
        # Node 0 is the root. A node is a beginning of some stop string.
        self._children: list[dict[str, int]] = [{}]
        self._depths = [0]
        self._fallbacks = [0]  # the node of the longest proper end that is a node too
        self._found = [""]  # the longest stop string that ends at the node
        for stop in stops:
            self._insert(stop)
        self._link()
        first = "".join(sorted({stop[0] for stop in stops}))
        self._first = re.compile(f"[{re.escape(first)}]")

    def _insert(self, stop: str) -> None:
        node = 0
        for character in stop:
            child = self._children[node].get(character)
            if child is None:
                child = len(self._children)
                self._children[node][character] = child
                self._children.append({})
                self._depths.append(self._depths[node] + 1)
                self._fallbacks.append(0)
                self._found.append("")
            node = child
        self._found[node] = stop

    def _link(self) -> None:
        """Set the fallbacks, nearer nodes first."""
        queue = list(self._children[0].values())
        for node in queue:  # grows while it is read
            if not self._found[node]:
                self._found[node] = self._found[self._fallbacks[node]]
            for character, child in self._children[node].items():
                self._fallbacks[child] = self._next(self._fallbacks[node], character)
                queue.append(child)

    def _next(self, node: int, character: str) -> int:
        """The node of the longest end of (text of node + character)."""
        while True:
            child = self._children[node].get(character)
            if child is not None:
                return child
            if node == 0:
                return 0
            node = self._fallbacks[node]

    def finder(self) -> StopFinder:
        """A new search, at the start of a stream."""
        return StopFinder(self)


class StopFinder:
    """One search through one stream.

    ``match`` is the result, None as long as there is none. ``candidate`` is the best found so far:
    the search goes on past it only while a string that began further left may still be completed.
    """

    __slots__ = ("_held", "_node", "_num_seen", "_stops", "candidate", "match")

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._node = 0
        self._num_seen = 0  # characters read
        self._held = ""  # the last of them, not given out yet
        self.candidate: StopMatch | None = None
        self.match: StopMatch | None = None

    def feed(self, text: str, *, counts: bool = True) -> str:
        """Read on, and give out what certainly comes before any stop string.

        ``counts=False`` ignores stop strings that are completed within this text (but not those
        that only begin in it). Once there is a match, nothing more may be fed.
        """
        assert self.match is None
        stops = self._stops
        if self._node == 0 and stops._first.search(text) is None:
            self._num_seen += len(text)
            return text
        base = self._num_seen - len(self._held)  # place of the first held character
        self.match = match = self._scan(text, counts)
        text = self._held + text
        if match is not None:
            self._held = ""
            return text[: match.start - base]
        num_safe = len(text) - stops._depths[self._node]
        self._held = text[num_safe:]
        return text[:num_safe]

    def finish(self) -> str:
        """The text is over: settle for the candidate, if any, and give out the rest before it."""
        if self.match is not None:
            return ""
        released = self._held
        if self.candidate is not None:
            self.match = self.candidate
            released = released[: self.match.start - (self._num_seen - len(self._held))]
        self._held = ""
        return released

    def _scan(self, text: str, counts: bool) -> StopMatch | None:
        """Walk the automaton over ``text``, or over as much of it as decides the search."""
        stops = self._stops
        children, fallbacks, depths = stops._children, stops._fallbacks, stops._depths
        first_place = self._num_seen
        self._num_seen += len(text)
        node, index = self._node, 0
        while index < len(text):
            if node == 0:
                beginning = stops._first.search(text, index)
                if beginning is None:
                    break
                index = beginning.start()
            character = text[index]
            while node and character not in children[node]:
                node = fallbacks[node]
            node = children[node].get(character, 0)
            index += 1
            place = first_place + index
            found = stops._found[node]
            if found and counts:
                start = place - len(found)
                if self.candidate is None or start < self.candidate.start:
                    self.candidate = StopMatch(start, found)
            while node and not children[node]:  # complete: only a later beginning can go on
                node = fallbacks[node]
            # Whatever might still be completed began at place - depth.
            if self.candidate is not None and place - depths[node] >= self.candidate.start:
                return self.candidate
        self._node = node
        return None
