"""Where a lane is in the events of one session, and what led to those that it delivered lately."""

from __future__ import annotations

from typing import Final

from attrs import define

from ally_plugins.events import EventsDropped, UserMessage, stamp

from .ring import Ring, Run

__all__ = ["Cursor"]

RECENT: Final = 256
"""Events after which a plugin is not taken to answer any more to what other plugins led to."""


@define(eq=False)
class Cursor:
    """`position` is the number of the last event of the session that was delivered. Lives while the session is open."""

    ring: Ring
    position: int
    recent_origin: tuple[str, ...] = ()
    """The longest chain among the events that were lately delivered."""
    recent_left: int = 0

    def is_recent(self, chain: tuple[str, ...]) -> None:
        """Remember a chain that was delivered."""
        if chain and len(chain) >= len(self.recent_origin):
            self.recent_origin, self.recent_left = chain, RECENT

    def grow_old(self, run: Run) -> None:
        """Count a run of events; what the person says starts afresh."""
        self.recent_left -= len(run.events)
        if self.recent_left <= 0 or UserMessage in run.types:
            self.recent_origin = ()

    def skip_dropped(self, plugin: str, session_id: str) -> EventsDropped:
        """Go on after what the ring has let go, and return the event that says so, stamped."""
        (last, timestamp), first = self.ring.oldest(), self.position + 1
        self.position = last
        event = EventsDropped(plugin_name=plugin, count=last - first + 1, ranges=((first, last),))
        stamp(event, last, timestamp, session_id, (), None)  # in the place of the last that was lost
        return event
