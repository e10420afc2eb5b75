"""How far one plugin's durable events are done, session by session, and which of them this host feeds.

A host feeds the sessions that it has. Those that belong to none go to the one host that leads, which also moves the
bookmark of them all: everything before it is done, whoever did it. What is done beyond it has a mark for each session.

Pure: what is on disk is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import Factory, define, field, frozen

from .offsets import Place

__all__ = ["Look", "Progress"]


@frozen
class Look:
    """What is on disk: the bookmark, the marks beyond it, and who has which session."""

    bookmark: Place | None
    marks: Mapping[str, Place]
    own: frozenset[str]
    others: frozenset[str]


@define(eq=False)
class Progress:
    """The progress of one feed. `base` is the bookmark that is known to be on disk, `leads` whether this host leads."""

    base: Place
    leads: bool
    acknowledged: Place = Factory(lambda self: self.base, takes_self=True)
    """What was sent here before it is acknowledged, but for what was sent late, and is in flight."""
    done: dict[str, Place] = field(init=False, factory=dict)
    """How far each session is done, where that is beyond `base`; by whichever host."""
    marked: dict[str, Place] = field(init=False, factory=dict)
    """What of it is on disk."""
    closing: set[str] = field(init=False, factory=set)
    """Sessions that are about to be let go: nothing more of them is sent."""
    released: set[str] = field(init=False, factory=set)
    """Sessions that were let go a moment ago: whoever opens them next feeds what is left, else the host that leads."""
    _sent: dict[str, Place] = field(init=False, factory=dict)
    _skipped: dict[str, tuple[Place, Place]] = field(init=False, factory=dict)
    """From where to where each session was left to others."""
    _own: frozenset[str] = field(init=False, default=frozenset())
    _others: frozenset[str] = field(init=False, default=frozenset())

    def is_fed_here(self, session_id: str) -> bool:
        """Say whether this host feeds the events of a session."""
        if session_id in self.closing or session_id in self.released:
            return False
        return session_id in self._own or (self.leads and session_id not in self._others)

    def admits(self, session_id: str, place: Place) -> bool:
        """Say whether the event before a place is to be sent now; one that is left to others is remembered."""
        if place <= self._known(session_id):
            return False
        if self.is_fed_here(session_id):
            return True
        # From the first on: there it is taken up should the session come to this host.
        first, _ = self._skipped.get(session_id, (place.before(), place))
        self._skipped[session_id] = (min(first, place.before()), place)
        return False

    def _known(self, session_id: str) -> Place:
        return max(self.base, self.done.get(session_id, self.base), self._sent.get(session_id, self.base))

    def send(self, session_id: str, place: Place) -> None:
        """Note that the event before a place was sent."""
        self._sent[session_id] = max(place, self._sent.get(session_id, place))

    def finish(self, session_id: str, place: Place) -> None:
        """Note that an event was acknowledged."""
        self.done[session_id] = max(place, self.done.get(session_id, place))
        self.acknowledged = max(self.acknowledged, place)

    def forget_sent(self) -> None:
        """Send what was not acknowledged anew: its reader is gone."""
        self._sent.clear()

    def take(self, look: Look) -> Place | None:
        """Take what is on disk by now; return the place to go back to, for sessions that have come to this host."""
        if look.bookmark is not None:
            self.base = max(self.base, look.bookmark)
        for session_id, mark in look.marks.items():
            self.done[session_id] = max(mark, self.done.get(session_id, mark))
            self.marked[session_id] = max(mark, self.marked.get(session_id, mark))
        self._own, self._others = look.own, look.others
        # Opened here again: no other host is left time to open it.
        self.released -= look.own
        back: Place | None = None
        for session_id, (first, last) in list(self._skipped.items()):
            if last <= self._known(session_id):
                del self._skipped[session_id]
            elif self.is_fed_here(session_id):
                del self._skipped[session_id]
                back = first if back is None else min(back, first)
        return back

    def let_go(self, session_id: str) -> None:
        """Note that a session belongs to this host no longer. No look that was begun before may be taken after it."""
        self.closing.discard(session_id)
        self.released.add(session_id)
        self._own -= {session_id}

    def place_to_restart(self, position: Place, unfinished: Iterable[tuple[str, Place]]) -> Place:
        """Return from where everything has to be read again that was not acknowledged.

        `position` is how far was read, `unfinished` what was sent, by session and place.
        """
        pending = [place.before() for session, place in unfinished if place > self.done.get(session, self.base)]
        return min([self.acknowledged, position, *pending])

    def bookmark(self, position: Place, unfinished: Iterable[tuple[str, Place]]) -> Place:
        """Return the place before which everything is done, here and by other hosts."""
        # What other hosts have yet to do keeps it back; their marks say how far they are.
        left = (max(first, self.done.get(session, first)) for session, (first, _) in self._skipped.items())
        return max(self.base, min([self.place_to_restart(position, unfinished), *left]))

    def unmarked(self, bookmark: Place) -> dict[str, Place]:
        """Return what is done beyond a bookmark, and is not on disk."""
        return {
            session: place
            for session, place in self.done.items()
            if place > bookmark and place > self.marked.get(session, bookmark)
        }

    def move_base(self, bookmark: Place) -> dict[str, Place]:
        """Take a bookmark that is on disk now; return the marks that it covers, which need not be kept."""
        self.base = max(self.base, bookmark)
        covered = {session: place for session, place in self.marked.items() if place <= self.base}
        for table in (self.done, self._sent, self.marked):
            for session in [session for session, place in table.items() if place <= self.base]:
                del table[session]
        return covered

    def is_saved(self, session_id: str, place: Place) -> bool:
        """Say whether it is on disk that an event is done."""
        return place <= self.base or place <= self.marked.get(session_id, self.base)
