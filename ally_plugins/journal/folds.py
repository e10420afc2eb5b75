"""Records that repeat become one with a count: a plugin that is refused 10,000 times writes one line a second."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import attrs

from .values import Record

__all__ = ["FOLD_S", "Folds"]

FOLD_S: Final = 1.0  # how long the first of a kind waits for others; the key has the second, so more would fold no more
_MAX: Final = 1000  # different kinds that wait at once, which bounds memory


@attrs.define
class Folds:
    """Records that wait to be counted. Not thread-safe: the writer holds its lock around each call."""

    _waiting: dict[Hashable, tuple[Record, int]] = attrs.field(factory=dict)
    _since: float | None = None

    @property
    def due_at(self) -> float | None:
        """When the oldest must be written, on the clock that `add` was given."""
        return None if self._since is None else self._since + FOLD_S

    def add(self, record: Record, fold: Hashable, now: float) -> bool:
        """Count a record with those of the same plugin, session, kind, `fold` and second; return whether `take` is due.

        `now` is in seconds of a steady clock. It is due when no further kind of record has room.
        """
        key = (record.kind, record.plugin, record.session_id, fold, record.at // 1000)
        first, count = self._waiting.get(key, (record, 0))
        self._waiting[key] = (first, count + 1)
        self._since = now if self._since is None else self._since
        return len(self._waiting) >= _MAX

    def take(self) -> list[Record]:
        """Return and forget all that waits: of each kind the first record, with `count` added to its data."""
        records = [attrs.evolve(r, data={**r.data, "count": count}) for r, count in self._waiting.values()]
        self._waiting.clear()
        self._since = None
        return records
