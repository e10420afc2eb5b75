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
        self, plugin: Plugin, lane: RemoteLane, types: Iterable[str], journal: Journal, reading: JournalReader
    ) -> None:
        super().__init__(plugin, lane, types, journal, reading)
        self._daemon: Final = lane
        self._link: Link | None = None
        self._in_flight: Final[deque[tuple[Place, str]]] = deque()  # with the ids that the daemon may name as causes
        self._sent: Final[dict[Place, None]] = {}  # on this connection or an earlier one

    @override
    def disconnected(self) -> None:
        """Forget what was sent: the daemon is gone, and the next connection begins at the bookmark."""
        self._link = None
        self._forget_in_flight(None)

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
        self._forget_in_flight(None)
        self._link = link
        self._walk, self._position, self._is_behind = None, self.acknowledged, True

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
        self._in_flight.append((one.place, event.id))
        self._sent[one.place] = None
        self._daemon.note(event.id, Scope(name, event.session_id, event.origin, frozenset((name,)), cause=event.id))
        self._daemon.note_origin(event.session_id, event.origin)

    @override
    def _was_sent(self, place: Place) -> bool:
        return place in self._sent

    @override
    def _is_idle(self) -> bool:
        return not self._in_flight

    @override
    def _on_saved(self) -> None:
        """Move the window: only once it is on disk, so that at most a window of acknowledgements is on its way."""
        self._forget_in_flight(self._saved)
        while self._sent and (first := next(iter(self._sent))) <= self._saved:
            del self._sent[first]
        self._changed.set()

    def _forget_in_flight(self, place: Place | None) -> None:
        """Forget what is in flight up to a place, or all of it, with the causes that the daemon could name."""
        while self._in_flight and (place is None or self._in_flight[0][0] <= place):
            self._daemon.forget(self._in_flight.popleft()[1])
