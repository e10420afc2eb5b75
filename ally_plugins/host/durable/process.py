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

    from .places import Place, PlacedEvent

__all__ = ["WINDOW", "ProcessFeed"]

_log: Final = logging.getLogger(__name__)

WINDOW: Final = 256
"""Events that may be sent beyond the last one acknowledged: what comes again, at most, after a daemon's end."""


class ProcessFeed(Feed):
    """Sends again, on each new connection, everything after what was last acknowledged.

    A daemon that an event makes end each time is ended by it each time, until its supervisor gives up on it: only its
    author can say which event that is. An event that is larger than what a daemon reads is passed over, with a warning.
    """

    def __init__(
        self, plugin: Plugin, lane: RemoteLane, types: Iterable[str], journal: Journal, reading: JournalReader
    ) -> None:
        super().__init__(plugin, lane, types, journal, reading)
        self._daemon: Final = lane
        self._link: Link | None = None
        self._flying: Final[deque[tuple[Place, str]]] = deque()  # with the ids that the daemon may name as causes
        self._sent: Final[dict[Place, None]] = {}  # on this connection or an earlier one

    @override
    def disconnected(self) -> None:
        """Take note that the daemon is gone; also a link that is used again begins anew."""
        self._link = None
        self._land(None)

    @property
    @override
    def is_held_up(self) -> bool:
        """Whether it waits for something that nobody may tell of, such as a daemon that does not read."""
        link = self._daemon.link
        return super().is_held_up or (link is not None and self._daemon.is_ready and not link.can_write)

    @override
    def _may_go(self) -> bool:
        """Say whether events can be written; on a new connection, those after the last word come again first."""
        link = self._daemon.link
        if link is None or not (self._daemon.is_ready and self._daemon.is_open):
            return False
        if link is not self._link:
            self._begin_anew(link)
        return link.can_write and link.takes_lines and self._room() > 0

    def _begin_anew(self, link: Link) -> None:
        self._land(None)
        self._link = link
        self._walk, self._position, self._is_behind = None, self.acknowledged, True

    @override
    def _room(self) -> int:
        return min(PORTION, WINDOW - len(self._flying))

    @override
    async def _deliver(self, found: list[PlacedEvent]) -> None:
        link = self._link
        assert link is not None  # noqa: S101 - `_may_go` has just seen to it
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
        self._flying.append((one.place, event.id))
        self._sent[one.place] = None
        self._daemon.note(event.id, Scope(name, event.session_id, event.origin, frozenset((name,)), cause=event.id))
        self._daemon.note_origin(event.session_id, event.origin)

    @override
    def _was_sent(self, place: Place) -> bool:
        return place in self._sent

    @override
    def _is_idle(self) -> bool:
        return not self._flying

    @override
    def _written(self) -> None:
        """Move the window on: only now, so that no more acknowledgements are on their way than it has places."""
        self._land(self._kept)
        while self._sent and (first := next(iter(self._sent))) <= self._kept:
            del self._sent[first]
        self._changed.set()

    def _land(self, place: Place | None) -> None:
        """Wait no more for what was sent up to a place, or for anything."""
        while self._flying and (place is None or self._flying[0][0] <= place):
            self._daemon.forget(self._flying.popleft()[1])
