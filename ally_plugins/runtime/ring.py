"""The events of one session that its readers have not all seen: appended from any thread, read by cursors.

A reader keeps the number of the last event it has read. When more than `capacity` events wait, the oldest are let go,
and a reader that had not read them is told which. What everybody has read is let go when the session is idle.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from ally_plugins.events import Event

__all__ = ["CAPACITY", "Ring", "Run"]

CAPACITY: Final = 8192
"""Events that may wait in one session: eight seconds of a very busy one, a few megabytes of ordinary events."""


RUNS_KEPT: Final = 16
"""Runs that stay computed: lanes read the same ones, each at its own time."""


@frozen
class Run:
    """Consecutive events, and what a lane has to know of them before it delivers: computed once for all lanes."""

    events: list[Event]
    types: frozenset[type[Event]]
    is_plain: bool
    """No plugin led to any of them, so that none has to be kept from its own author."""


class Ring:
    """The waiting events of a session; `head` is the number of the newest, `base` of the last that was let go.

    Only `append` may be called from several threads, and its caller holds the session's lock; reading is the loop's.
    """

    __slots__ = ("_runs", "base", "capacity", "head", "items")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.items: list[Event] = []
        self.base = 0
        self.head = 0
        self._runs: dict[tuple[int, int], Run] = {}

    def trim(self) -> None:
        """Let a quarter go when the ring is over its capacity; a quarter, so that the cost is spread."""
        surplus = len(self.items) - self.capacity
        count = surplus + self.capacity // 4
        del self.items[:count]
        self.base += count

    def forget_until(self, number: int) -> None:
        """Let go what every reader has read."""
        count = number - self.base
        if count > 0:
            del self.items[:count]
            self.base += count

    def read(self, cursor: int, limit: int, until: int | None = None) -> Run:
        """Return at most `limit` events after number `cursor`, which must not be less than `base`.

        `until` is the number of the last one wanted.
        """
        end = min(cursor + limit, self.head if until is None else until)
        run = self._runs.get((cursor, end))
        if run is None:
            events = self.items[cursor - self.base : end - self.base]
            is_plain = not any([event.origin for event in events])
            run = Run(events, frozenset([event.__class__ for event in events]), is_plain)
            if len(self._runs) >= RUNS_KEPT:
                self._runs.clear()
            self._runs[cursor, end] = run
        return run

    def forget_runs(self) -> None:
        """Let go of the events that were read lately."""
        self._runs.clear()
