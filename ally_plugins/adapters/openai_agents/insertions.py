"""Plugins' messages among the items of a run, which the framework keeps by itself and sends anew with each request.

What was put among them is put there again, by the item behind which it stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from attrs import define, field, frozen

from .items import Item

__all__ = ["Insertions"]


@frozen
class _Place:
    """Behind `count` items of the framework's, the last of which is `last`; None where there was none."""

    count: int
    last: Item | None

    @classmethod
    def end_of(cls, items: Sequence[Item]) -> _Place:
        return cls(len(items), items[-1] if items else None)

    def index(self, items: Sequence[Item]) -> int | None:
        """Return how many items stand before it now, None when the item that it follows is gone."""
        if self.last is None or (self.count <= len(items) and items[self.count - 1] == self.last):
            return self.count
        return next((n for n in range(len(items), 0, -1) if items[n - 1] == self.last), None)


@define(eq=False)
class Insertions:
    """What was put among the framework's items in one run, and what took the place of the first of them."""

    added: list[tuple[_Place, Item]] = field(init=False, factory=list)
    _start: tuple[_Place, list[Item]] | None = field(init=False, default=None)

    def among(self, items: Sequence[Item]) -> list[Item]:
        """Return the items with what was put among them; where the item before it is gone, it comes last."""
        found: defaultdict[int, list[Item]] = defaultdict(list)
        for place, item in self.added:
            at = place.index(items)
            found[len(items) if at is None else at].append(item)
        first, start = (self._start[0].index(items), self._start[1]) if self._start is not None else (0, [])
        made = list(start) if first is not None else []
        for n in range(first or 0, len(items) + 1):
            made += found[n]
            made += items[n : n + 1]
        return made

    def add(self, items: Sequence[Item], new: Iterable[Item]) -> None:
        """Put new items behind all that there are now."""
        place = _Place.end_of(items)
        self.added += [(place, item) for item in new]

    def replace(self, items: Sequence[Item], start: list[Item]) -> None:
        """Let `start` stand in the place of all items that there are now."""
        self._start, self.added = (_Place.end_of(items), start), []
