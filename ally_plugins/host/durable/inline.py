"""Durable events for a plugin in the host's own process: its hooks are called in its lane, one after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.scope import Scope
from ally_plugins.runtime.lanes.observers import Observers
from ally_plugins.runtime.lanes.requests import Crash

from .feed import Feed

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.runtime.lanes.lane import Lane
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .offsets import Place, PlacedEvent

__all__ = ["InlineFeed"]


class InlineFeed(Feed):
    """Acknowledges an event once its hooks have returned.

    A hook that raises or is too late counts as a crash, and its event is acknowledged all the same: one that always
    crashes it would come again for ever. An event whose hook is interrupted by the stop of plugin or host is not
    acknowledged.
    """

    def __init__(
        self,
        plugin: Plugin,
        lane: Lane,
        types: Iterable[str],
        journal: Journal,
        reading: JournalReader,
        host_id: str,
    ) -> None:
        super().__init__(plugin, lane, types, journal, reading, host_id)
        self._inline: Final = lane
        self._waiting: Final[deque[tuple[str, Place]]] = deque()
        # Of every type: grants are looked at for each event, since they change while the feed lives.
        self._table: Final = Observers.compile(plugin.implementations, lambda _: True)

    @override
    def _can_deliver(self) -> bool:
        return self._lane.is_open

    @override
    async def _deliver(self, found: list[PlacedEvent]) -> None:
        self._waiting.extend((one.event.session_id, one.place) for one in found)
        for one in found:
            if self.is_closing or not self._lane.is_open:
                return  # what waits stays unfinished
            # Asked again: a grant may have been revoked while the hooks of earlier events ran.
            if self._wants(one.event) and not await self._call(one.event):
                return
            self._waiting.popleft()
            self._finish(one.event.session_id, one.place)
            self._save_soon()

    @override
    def _unfinished(self) -> list[tuple[str, Place]]:
        return list(self._waiting)

    @override
    def _is_idle(self) -> bool:
        return self._lane.is_open and not self.is_closing

    async def _call(self, event: Event) -> bool:
        """Call the hooks for an event; return false when the plugin's end interrupted them."""
        name = self.plugin.name
        handlers = self._table.handlers(event.__class__)
        self._inline.delivered += bool(handlers)
        for hook, function, is_async in handlers:
            scope = Scope(name, event.session_id, event.origin, frozenset((name,)), event)
            start = time.perf_counter()
            try:
                await self._lane.submit(
                    hook, function, (event,), is_async=is_async, scope=scope, deadline=self.plugin.deadline(hook)
                )
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                if not self._lane.is_open:
                    return False
                self.plugin.crashed(Crash(name, hook, error, event))
            self.plugin.receipts.add(event.session_id, hook, time.perf_counter() - start, (event.seq,))
        return True
