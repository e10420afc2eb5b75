"""The events of one session that its readers have not all seen: appended from any thread, read by cursors.

A reader keeps the number of the last event it has read. When more than `capacity` events wait, the oldest are let go;
a reader that had not read them gets None, and `base` says up to which they are gone. What everybody has read is let go
when the session is idle.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from attrs import field, frozen

from ally_plugins.contract.values.events import Event

__all__ = ["CAPACITY", "EventRun", "Ring"]

CAPACITY: Final = 8192
"""Events that may wait in one session: eight seconds of a very busy one, a few megabytes of ordinary events."""


RUNS_KEPT: Final = 16
"""Runs that stay computed: lanes read the same ones, each at its own time."""


@frozen
class EventRun:
    """Consecutive events, and what a lane has to know of them before it delivers: computed once for all lanes."""

    events: list[Event]
    types: frozenset[type[Event]]
    is_plain: bool
    """No plugin led to any of them, so that none has to be kept from its own author."""
    lines: dict[object, Any] = field(factory=dict, eq=False, repr=False)
    """Their JSON lines for daemons, encoded once for all: by event, and joined by the set of types that are wanted."""


class Ring:
    """The waiting events of a session; `head` is the number of the newest, `base` of the last that was let go.

    Events come from any thread: whoever changes `items`, `head` and `base` holds `lock`, and so does whoever needs them
    to agree. Reading is the loop's.
    """

    __slots__ = ("_runs", "base", "capacity", "head", "items", "keeps_json", "lock")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.lock = threading.Lock()
        self.items: list[Event] = []
        self.base = 0
        self.head = 0
        self.keeps_json = False
        """Whether there are daemons, which read the same JSON of an event as the journal; the first one says so."""
        self._runs: dict[tuple[int, int], EventRun] = {}

    def trim(self) -> list[Event]:
        """Let a quarter go, so that the cost is spread, when the ring is over its capacity; return it. Under `lock`."""
        surplus = len(self.items) - self.capacity
        count = surplus + self.capacity // 4
        gone = self.items[:count]
        del self.items[:count]
        self.base += count
        return gone

    def forget_until(self, number: int) -> None:
        """Let go what every reader has read. Under `lock`."""
        count = number - self.base
        if count > 0:
            del self.items[:count]
            self.base += count

    def read(self, cursor: int, limit: int, until: int | None = None) -> EventRun | None:
        """Return at most `limit` events after number `cursor`, None when some of them have been let go.

        `until` is the number of the last one wanted.
        """
        with self.lock:  # once a run: an emitting thread may be in the middle of letting events go
            if cursor < self.base:
                return None
            end = max(cursor, min(cursor + limit, self.head if until is None else until))
            if (run := self._runs.get((cursor, end))) is not None:
                return run
            events = self.items[cursor - self.base : end - self.base]
        # Outside of the lock: runs are the loop's alone, and threads that emit need not wait for this.
        return self._keep(cursor, end, events)

    def event(self, number: int) -> Event | None:
        """Return the event with this number, None when it has been let go or is not there yet."""
        with self.lock:
            place = number - self.base - 1
            return self.items[place] if 0 <= place < len(self.items) else None

    def oldest(self) -> tuple[int, int]:
        """Return the number of the last event that was let go, and the time of the oldest that is there (0 if none)."""
        with self.lock:
            return self.base, self.items[0].timestamp if self.items else 0

    def _keep(self, cursor: int, end: int, events: list[Event]) -> EventRun:
        # Lists are faster than generators here, and this runs for every run of events.
        is_plain = not any([event.origin for event in events])  # noqa: C419
        run = EventRun(events, frozenset([event.__class__ for event in events]), is_plain)
        if len(self._runs) >= RUNS_KEPT:
            self._runs.clear()
        self._runs[cursor, end] = run
        return run

    def forget_runs(self) -> None:
        """Let go of the events that were read lately."""
        self._runs.clear()
