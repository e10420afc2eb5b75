"""Which contents a journal says were removed: by `prune`, as too old, as too many, or with their session."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from .values import PRUNED

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Removals"]


@attrs.define
class _Steps:
    """Removals of one kind, for a quick look at any record: what each allows, those after it allow too."""

    numbers: list[int] = attrs.field(factory=list)
    before: list[int] = attrs.field(factory=list)

    def add(self, n: int, before: int) -> None:
        """Add the record `n`, which allows it of what is older than `before`; in order of `n`."""
        self.numbers.append(n)
        self.before.append(before)

    def close(self) -> None:
        """Make of each limit the latest of those from there on."""
        for place in range(len(self.before) - 2, -1, -1):
            self.before[place] = max(self.before[place], self.before[place + 1])

    def allow(self, n: int, at: int) -> bool:
        """Say whether a record behind `n` allows it of what is from `at`."""
        place = bisect_right(self.numbers, n)
        return place < len(self.numbers) and at < self.before[place]


@attrs.define
class Removals:
    """What the records of a journal allow to be missing. That they were not altered is `verify`'s to find out."""

    _everything: _Steps = attrs.field(factory=_Steps)
    _contents: dict[frozenset[bytes], _Steps] = attrs.field(factory=dict)
    """By the kinds of records that stay: versions differ in them. Numbers are those of the last records meant."""
    _sessions: dict[bytes, int] = attrs.field(factory=dict)

    @classmethod
    def read(cls, db: sqlite3.Connection) -> Removals:
        """Read what a journal records of its removals. Raises sqlite3.Error."""
        removals = cls()
        spans: list[tuple[int, int, frozenset[bytes]]] = []
        query = "SELECT n, CAST(data AS BLOB) FROM records WHERE kind = ? AND data IS NOT NULL ORDER BY n"
        for n, data in db.execute(query, (PRUNED,)):
            # What is damaged allows nothing; the walk over all records names it.
            with suppress(ValueError, TypeError, KeyError, AttributeError, UnicodeEncodeError):
                removals._add(n, orjson.loads(data), spans)
        for upto, before, kept in sorted(spans, key=lambda span: span[0]):
            removals._contents.setdefault(kept, _Steps()).add(upto, before)
        for steps in (removals._everything, *removals._contents.values()):
            steps.close()
        return removals

    def _add(self, n: int, said: Any, spans: list[tuple[int, int, frozenset[bytes]]]) -> None:
        before = int(said["before"])
        if "session" in said:
            self._sessions[said["session"].encode()] = n
        elif "upto" in said:
            kept = frozenset(kind.encode() for kind in said["but"])
            spans.append((min(int(said["upto"]) + 1, n), before, kept))
        else:
            self._everything.add(n, before)

    def allow(self, n: int, at: int, kind: bytes, session_id: bytes | None) -> bool:
        """Say whether the content of a record may be missing."""
        if session_id is not None and self._sessions.get(session_id, 0) > n:
            return True
        if self._everything.allow(n, at):
            return True
        return any(kind not in kept and steps.allow(n, at) for kept, steps in self._contents.items())
