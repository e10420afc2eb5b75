"""Where a lane is in the events of one session, and what led to those that it delivered lately."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from ally_plugins.contract.values.events import Event, EventsDropped, UserMessage, stamp

from .ring import EventRun, Ring

__all__ = ["Cursor"]

RECENT: Final = 256
"""Events after which a plugin is not taken to answer any more to what other plugins led to: three of the largest turns
of the recorded sessions, which have up to 92 events in a turn and 79 in the 30 s that a hook has for one."""

CHAINS: Final = 1024
"""Events that plugins led to whose chains are kept beside the ring, for daemons that answer late; some 100 kB. In the
30 s that a hook has for an event, three plugins at the limit of their budgets (600 a minute) emit 900."""


@define(eq=False)
class Cursor:
    """`position` is the number of the last event of the session that was delivered. Lives while the session is open."""

    ring: Ring
    position: int
    recent_origin: tuple[str, ...] = ()
    """The longest chain among the events that were lately delivered."""
    recent_events_left: int = 0
    _chains: dict[int, tuple[str, ...]] = field(init=False, factory=dict)
    _chains_from: int = field(init=False)
    """From this event on `_chains` has every chain there was."""

    def __attrs_post_init__(self) -> None:
        self._chains_from = self.position + 1

    def remember_origin(self, chain: tuple[str, ...]) -> None:
        """Remember a chain that was delivered."""
        # The longest: what the plugin does next may answer any of these events, and the hop limit must hold for each.
        if chain and len(chain) >= len(self.recent_origin):
            self.recent_origin, self.recent_events_left = chain, RECENT

    def age_origin(self, run: EventRun) -> None:
        """Count a run of events; what the person says starts afresh."""
        self.recent_events_left -= len(run.events)
        if self.recent_events_left <= 0 or UserMessage in run.types:
            self.recent_origin = ()

    def keep_chains(self, events: Iterable[Event]) -> None:
        """Remember what led to events that are delivered: they may be answered after the ring has let them go."""
        chains = self._chains
        for event in events:
            if event.origin:
                chains[event.seq] = event.origin
        while len(chains) > CHAINS:  # a dict keeps its order, so the first key is the oldest event
            oldest = next(iter(chains))
            del chains[oldest]
            self._chains_from = oldest + 1

    def origin_of(self, number: int) -> tuple[str, ...]:
        """Return the chain that led to an event that was delivered; for one of long ago, the longest lately."""
        event = self.ring.event(number)
        if event is not None:
            return event.origin
        return self._chains.get(number, ()) if number >= self._chains_from else self.recent_origin

    def skip_dropped(self, plugin: str, session_id: str) -> EventsDropped:
        """Go on after what the ring has let go, and return the event that says so, stamped."""
        (last, timestamp), first = self.ring.oldest(), self.position + 1
        self.position = last
        event = EventsDropped(plugin_name=plugin, count=last - first + 1, ranges=((first, last),))
        stamp(event, last, timestamp, session_id, (), None)  # in the place of the last that was lost
        return event
