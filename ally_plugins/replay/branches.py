"""Which records of a recording were taken back: a person went back in the conversation, and it went on from there.

Programs that can rewind leave both ways in the file, as a tree: each record names the one that it follows. What
happened is the way from the beginning to the last record.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REWOUND", "Abandoned", "Branches"]

REWOUND: Final = "rewound"
"""What records that were taken back are counted under."""

# Bounds what is remembered of records. Who goes back further than this is taken to go on: nothing is left out then.
_REMEMBERED: Final = 16_384


@frozen
class Abandoned:
    """The places of the records that were taken back, as ranges that begin and end with them, in order."""

    begins: list[int] = field(factory=list)
    ends: list[int] = field(factory=list)

    def __contains__(self, place: int) -> bool:
        index = bisect_right(self.begins, place) - 1
        return index >= 0 and place <= self.ends[index]

    def add(self, begin: int, end: int) -> None:
        """Add a range that ends behind all others; those that it covers become part of it."""
        while self.begins and self.begins[-1] >= begin:
            self.begins.pop()
            self.ends.pop()
        if self.begins and self.ends[-1] >= begin - 1:
            self.ends[-1] = end
        else:
            self.begins.append(begin)
            self.ends.append(end)


@frozen
class _Node:
    place: int
    parent: str | None
    is_turn: bool
    is_anchor: bool
    may_branch: bool


@define
class Branches:
    """Follows the tree of one recording. Lives as long as its first reading; `abandoned` is the outcome.

    `receive_record` takes each record that has a name, in the order of the file.
    """

    abandoned: Abandoned = field(factory=Abandoned)
    path: dict[str, _Node] = field(factory=dict)

    def receive_record(
        self, place: int, name: str, parent: str | None, *, is_turn: bool, is_anchor: bool, may_branch: bool
    ) -> None:
        """Follow one record. `place` is its number in the file; `parent` is None for the first of a conversation.

        `is_turn`: a branch that is taken back begins with such a record. `is_anchor`: it belongs to the conversation,
        and is no remark that hangs on it. `may_branch`: it goes on from its parent, and takes back what is behind that;
        a record that may not is one of several answers to one question, such as the result of a parallel call.
        """
        if name in self.path:
            return  # a copy, which a resumed session writes
        last = next(reversed(self.path), None)
        if may_branch and last is not None and not (last == parent and self.path[last].is_anchor):
            self._branch(place, parent)
        self.path[name] = _Node(place, parent, is_turn, is_anchor, may_branch)
        if len(self.path) > 2 * _REMEMBERED:
            self.path = dict(list(self.path.items())[-_REMEMBERED:])

    def _branch(self, place: int, parent: str | None) -> None:
        anchor, chain = self._anchor_of(parent)
        if anchor is not None and anchor not in self.path:
            return  # of another file, or too far back: all of it counts
        behind = list(self._since(anchor))
        turns = [node.place for node in behind if node.is_turn]
        if not turns or (anchor is None and not any(node.is_anchor and node.parent for node in behind)):
            return  # nothing was said there, or the file names no parents at all
        went_on = [node.place for node in behind if node.may_branch and self._anchor_of(node.parent)[0] == anchor]
        begin = min([turns[-1], *went_on])  # an answer that was given up, too
        chain.append(place)
        self.abandoned.add(begin, min(other for other in chain if other > begin) - 1)
        self.path = {name: node for name, node in self.path.items() if node.place < begin or node.place in chain}

    def _anchor_of(self, name: str | None) -> tuple[str | None, list[int]]:
        """Return the record of the conversation that a record hangs on, and the places of the remarks in between."""
        chain: list[int] = []
        while name is not None and (node := self.path.get(name)) is not None and not node.is_anchor:
            if node.parent is None:
                break  # a new beginning, such as a compaction
            chain.append(node.place)
            name = node.parent
        return name, chain

    def _since(self, name: str | None) -> Iterator[_Node]:
        """Yield what is behind a record on the path, latest first; all of the path for None."""
        for other in reversed(self.path):
            if other == name:
                return
            yield self.path[other]
