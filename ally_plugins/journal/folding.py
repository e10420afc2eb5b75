"""Records that repeat become one with a count: a plugin that is refused 10,000 times writes one line a second."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import attrs

from .values import Record

__all__ = ["FOLD_S", "Folds"]

FOLD_S: Final = 1.0  # how long the first of a kind waits for others
_MAX: Final = 1000  # different kinds that wait at once, which bounds memory


@attrs.define
class Folds:
    """What waits for its count. Not safe for threads by itself."""

    _waiting: dict[Hashable, tuple[Record, int]] = attrs.field(factory=dict)
    _since: float | None = None

    @property
    def due_at(self) -> float | None:
        """When the oldest must be written, on the clock that `add` was given."""
        return None if self._since is None else self._since + FOLD_S

    def add(self, record: Record, fold: Hashable, now: float) -> bool:
        """Fold a record into those of the same plugin, session, kind, `fold` and second; return if there is no room."""
        key = (record.kind, record.plugin, record.session_id, fold, record.at // 1000)
        first, count = self._waiting.get(key, (record, 0))
        self._waiting[key] = (first, count + 1)
        self._since = now if self._since is None else self._since
        return len(self._waiting) >= _MAX

    def take(self) -> list[Record]:
        """Take all that waits, each as its first record with the `count` in its data."""
        records = [attrs.evolve(r, data={**r.data, "count": count}) for r, count in self._waiting.values()]
        self._waiting.clear()
        self._since = None
        return records
