"""Durable events for a daemon: written with their offsets, a window ahead of what it has acknowledged."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import EncodeError
from ally_plugins.contract.values.scope import Scope
from ally_plugins.wire.eventlines import FRAME_BYTES, event_lines, with_offset
from ally_plugins.wire.limits import DEFAULT_LIMITS

from .feed import PORTION, Feed

if TYPE_CHECKING:
    from ally_plugins.host.daemons.lane import RemoteLane
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.runtime.lanes.link import Link
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .offsets import Place, PlacedEvent

__all__ = ["WINDOW", "ProcessFeed"]

_log: Final = logging.getLogger(__name__)

WINDOW: Final = 256
"""Events that may be sent beyond the last one acknowledged: at most so many come again after a daemon's end."""


class ProcessFeed(Feed):
    """Sends again, on each new connection, everything after what was last acknowledged.

    An event that crashes the daemon comes again after each restart, until the supervisor gives up: skipping one would
    break the promise of delivery. One that is larger than a daemon reads is skipped, with a warning.
    """

    def __init__(
        self,
        plugin: Plugin,
        lane: RemoteLane,
        types: Iterable[str],
        journal: Journal,
        reading: JournalReader,
        host_id: str,
    ) -> None:
        super().__init__(plugin, lane, types, journal, reading, host_id)
        self._daemon: Final = lane
        self._link: Link | None = None
        # With the ids that the daemon may name as causes.
        self._in_flight: Final[deque[tuple[str, Place, str]]] = deque()
        self._lost: Final[list[tuple[str, Place]]] = []  # what was in flight to a daemon that is gone
        self._sent: Final[dict[Place, str]] = {}  # on this connection, in the order of sending, with the session
        self._sent_before: Final[dict[Place, str]] = {}  # on earlier ones

    @override
    def disconnected(self) -> None:
        """Forget what was sent: the daemon is gone, and the next connection begins at the bookmark."""
        self._link = None
        self._lose_in_flight()

    @property
    @override
    def needs_polling(self) -> bool:
        """Whether it waits for something that calls no `wake`, such as a daemon that does not read."""
        link = self._daemon.link
        return super().needs_polling or (link is not None and self._daemon.is_ready and not link.can_write)

    @override
    def _can_deliver(self) -> bool:
        """Say whether events can be written; a new connection starts again after the last acknowledgement."""
        link = self._daemon.link
        if link is None or not (self._daemon.is_ready and self._daemon.is_open):
            return False
        if link is not self._link:
            self._restart_on(link)
        return link.can_write and link.takes_lines and self._room() > 0

    def _restart_on(self, link: Link) -> None:
        self._link = link
        self._position = self.progress.place_to_restart(self._position, self._unfinished())
        self._walk, self._is_behind = None, True
        self._lose_in_flight()
        self._lost.clear()
        self.progress.forget_sent()
        # A plugin may keep its offsets over a restart, and acknowledge one before it was sent again.
        self._sent_before.update(self._sent)
        self._sent.clear()

    @override
    def _room(self) -> int:
        return min(PORTION, WINDOW - len(self._in_flight))

    @override
    async def _deliver(self, found: list[PlacedEvent]) -> None:
        link = self._link
        assert link is not None  # noqa: S101 - `_can_deliver` has just seen to it
        texts: list[bytes] = []
        for one in found:
            try:
                text = with_offset(one.encoded, str(one.place))
            # What is skipped is not in flight, so that the bookmark goes past it.
            except EncodeError as error:
                _log.warning("%r does not get the event %s: %s", self.plugin.name, one.event.id, error)
                continue
            if (size := len(text) + FRAME_BYTES) > DEFAULT_LIMITS.frame_bytes:
                warning = "the event %s takes %d bytes, more than a daemon reads (%d); %r does not get it"
                _log.warning(warning, one.event.id, size, DEFAULT_LIMITS.frame_bytes, self.plugin.name)
                continue
            texts.append(text)
            self._send(one)
        if texts:
            link.write(event_lines(texts))
            self._daemon.delivered += len(texts)

    def _send(self, one: PlacedEvent) -> None:
        event, name = one.event, self.plugin.name
        self._in_flight.append((event.session_id, one.place, event.id))
        self._sent[one.place] = event.session_id
        self.plugin.receipts.add(event.session_id, None, None, (event.seq,))
        self._daemon.note(event.id, Scope(name, event.session_id, event.origin, frozenset((name,)), cause=event.id))
        self._daemon.note_origin(event.session_id, event.origin)

    @override
    def _was_sent(self, place: Place) -> bool:
        return place in self._sent or place in self._sent_before

    @override
    def _finish_until(self, place: Place) -> None:
        # In the order of sending: events of a session that came to this host late have earlier places.
        for one, session_id in (self._sent if place in self._sent else self._sent_before).items():
            self._finish(session_id, one)
            if one == place:
                return

    @override
    def _unfinished(self) -> list[tuple[str, Place]]:
        return [*self._at_work(), *self._lost]

    @override
    def _at_work(self) -> list[tuple[str, Place]]:
        return [(session_id, place) for session_id, place, _ in self._in_flight]

    @override
    def _is_idle(self) -> bool:
        return not self._in_flight and not self._lost

    @override
    def _on_saved(self) -> None:
        """Move the window: only once it is on disk, so that at most a window of acknowledgements is on its way."""
        is_saved = self.progress.is_saved
        while self._in_flight and is_saved(*self._in_flight[0][:2]):
            self._daemon.forget(self._in_flight.popleft()[2])
        for sent in (self._sent, self._sent_before):
            for place, session_id in list(sent.items()):
                if not is_saved(session_id, place):
                    break
                del sent[place]
        self._changed.set()

    def _lose_in_flight(self) -> None:
        """Note that what is in flight has no reader any more, and forget the causes that the daemon could name."""
        while self._in_flight:
            session_id, place, event_id = self._in_flight.popleft()
            self._lost.append((session_id, place))
            self._daemon.forget(event_id)
        self._note_progress()
