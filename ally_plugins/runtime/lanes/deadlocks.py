"""Whose lane waits for whose, so that no circle of plugins is closed in which each waits for the next.

A hook that makes a call which asks other plugins holds its own lane until they have answered. Not safe for threads:
the loop's alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

__all__ = ["Waits"]


class Waits:
    """The waits of one host's plugins, as they are now."""

    def __init__(self) -> None:
        # Counted, since a plugin may wait for another one in several calls at once, which end one by one.
        self._waits: Final[Counter[tuple[str, str]]] = Counter()

    def begin(self, held: Iterable[str], plugin: str) -> None:
        """Note that the lanes that are held wait for a plugin to answer."""
        for name in held:
            self._waits[name, plugin] += 1

    def end(self, held: Iterable[str], plugin: str) -> None:
        """Note that it has answered, or that nobody waits for it any more."""
        for name in held:
            self._waits[name, plugin] -= 1
            if not self._waits[name, plugin]:
                del self._waits[name, plugin]

    def find(self, plugin: str, held: Iterable[str]) -> str | None:
        """Return which of the held lanes a plugin waits for, directly or through others, None when for none of them."""
        wanted, seen, left = frozenset(held), {plugin}, [plugin]
        while left:
            name = left.pop()
            if name in wanted:
                return name
            after = {other for waiting, other in self._waits if waiting == name} - seen
            seen |= after
            left += after
        return None
