"""What the journal has of one session's events, and what still waits: a burst's, and calls that are being decided."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.codec import encode, encoded
from ally_plugins.contract.values.errors import EncodeError
from ally_plugins.contract.values.eventjson import event_params
from ally_plugins.contract.values.events import Event, ToolCallEnd, ToolCallStart, dropped_in_place

from .undecided import UndecidedCalls, withheld

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.values import EventRow
    from ally_plugins.runtime.lanes.ring import Ring

__all__ = ["UNWRITTEN", "Recording"]

_log: Final = logging.getLogger(__name__)

UNWRITTEN: Final = 65_536
"""Events of one burst that wait for the journal beside the ring: some 50 MB, far more than an agent emits in a turn."""


class Recording:
    """Hands the journal what is in a session's ring, in the order of its numbers. It lives as long as the session.

    `recorded` is the number of the last event that the journal was given, `positions` returns how far each lane has
    read. `write` and `trim` are the loop's; the others may be called by any thread, where they do not ask for the
    ring's lock.
    """

    def __init__(
        self, session_id: str, ring: Ring, journal: Callable[[], Journal], positions: Callable[[], Iterable[int]]
    ) -> None:
        self.recorded = ring.head
        self.undecided: Final = UndecidedCalls()
        self._session_id: Final = session_id
        self._ring: Final = ring
        self._lock: Final = ring.lock
        self._journal: Final = journal
        self._positions: Final = positions
        self._overflow: list[Event] = []
        self._unencodable: set[type[Event]] = set()
        """Classes of which an event had no JSON form: later ones are logged as debug only."""

    @property
    def unwritten(self) -> int:
        """How many events the journal was not given yet."""
        return self._ring.head - self.recorded

    def keep(self, events: list[Event]) -> None:
        """Keep what a burst pushed out of the ring before the loop had a turn to write it. Under the ring's lock."""
        kept = [event for event in events if event.seq > self.recorded]
        room = UNWRITTEN - len(self._overflow)
        if len(kept) > room:
            _log.warning("session %r: %d events came too fast to be recorded", self._session_id, len(kept) - room)
        self._overflow += kept[:room]

    def begin(self, start: ToolCallStart) -> None:
        """Have a call that gates are about to decide on wait for that, with all that comes after it."""
        with self._lock:
            # Its number, unless another thread emits first; too small a one only keeps more back.
            self.undecided.begin(start, self._ring.head + 1)

    def end(self, end: ToolCallEnd) -> None:
        """Let the journal have a call that has ended."""
        with self._lock:
            self.undecided.end(end)

    def decide(self, call: ToolCall, *, is_sensitive: bool) -> None:
        """Let the journal have the start of a call that is decided; without what it holds where that is sensitive."""
        with self._lock:
            self.undecided.end(call)
            if is_sensitive:
                self.undecided.sensitive.add(call.call_id)
                ring = self._ring
                for place in range(max(self.recorded - ring.base, 0), len(ring.items)):
                    ring.items[place] = withheld(ring.items[place], call)
                # Runs hold the events as they were.
                ring.forget_runs()

    def write(self, *, is_whole: bool = True) -> bool:
        """Hand the journal what was emitted since the last call; the fan-out calls it on the host's loop.

        Unless `is_whole`, a tool call that is being decided on is left for later, with all after it; return whether
        nothing was.
        """
        ring = self._ring
        with self._lock:  # an event of another thread that is not in `events` must not count as recorded
            # What has left the ring cannot be withheld any more, so that nothing waits for its decision then.
            upto = ring.head if is_whole or self._overflow else min(ring.head, self.undecided.first() - 1)
            # An undecided start may have been written already, with a record that could not wait.
            upto = max(upto, self.recorded)
            events = self._overflow + ring.items[max(self.recorded - ring.base, 0) : max(upto - ring.base, 0)]
            self._overflow = []
            self.recorded = upto
            is_all = upto == ring.head
        if not events:
            return is_all
        try:
            rows = [_row(event, ring) for event in events]
        except EncodeError:
            rows = [self._row_or_placeholder(event) for event in events]
        self._journal().add_events(rows)
        # Not each time: every lane is asked for its position.
        if len(ring.items) > ring.capacity // 8:
            self.trim()
        return is_all

    def trim(self) -> None:
        """Free what every lane has read and the journal was given."""
        positions = [*self._positions(), self.recorded]
        with self._lock:
            self._ring.forget_until(min(positions))

    def _row_or_placeholder(self, event: Event) -> EventRow:
        """Return an event's row, or that of an EVENTS_DROPPED in its place when it has no JSON form."""
        try:
            return _row(event, self._ring)
        except EncodeError as error:
            level = logging.DEBUG if event.__class__ in self._unencodable else logging.WARNING
            self._unencodable.add(event.__class__)
            text = "the event %s (%s) is left out, of the journal and for plugins in processes (EVENTS_DROPPED): %s"
            _log.log(level, text, event.id, event.type, error)
            return _row(dropped_in_place(event), self._ring)


def _row(event: Event, ring: Ring) -> EventRow:
    """Return an event for the journal. Raises EncodeError."""
    # Kept with the event (`encoded`) only where daemons are to get the same JSON.
    kind, body = event.type, encoded(event) if ring.keeps_json else encode(event_params(event))
    if not isinstance(kind, str):
        raise EncodeError(f"its type is of the type {type(kind).__name__}; expected a string", path="type")
    return (event.session_id, event.seq, event.timestamp, kind, ">".join(event.origin) or None, body)
