"""What the host has sent and no hook has seen yet: events and requests, in order.

The host must always be read, or the answers to this daemon's own calls would wait behind events. So a plugin that is
slower than its events is bounded here: the oldest are let go, and an EVENTS_DROPPED in their place says which. Durable
events stay: the host sends no more of them than it awaits acknowledgements for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.events import EventsDropped, stamp

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.requests import HookRequest

__all__ = ["CAPACITY", "Backlog"]

CAPACITY: Final = 8_192
"""Events that wait; as many as the host itself keeps for a lane."""

Params = dict[str, Any]
"""An `on_event` as it came; it is read when its turn has come, and not at all when no hook wants it."""


class Backlog:
    """The queue of one lane; it is true while something waits."""

    def __init__(self, plugin: str, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self._plugin = plugin
        self._capacity = capacity
        self._items: deque[Params | EventsDropped | HookRequest] = deque()
        self._events = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add_event(self, params: Params) -> None:
        """Take the params of an `on_event`."""
        self._items.append(params)
        self._events += 1
        if self._events > self._capacity:
            self._drop_oldest()

    def add_request(self, request: HookRequest, *, is_first: bool = False) -> None:
        """Take a request; its turn comes after what came before it, or with `is_first` before everything."""
        if is_first:
            self._items.appendleft(request)
        else:
            self._items.append(request)

    def take(self) -> Params | EventsDropped | HookRequest:
        """Return what is next."""
        item = self._items.popleft()
        # Only events count: a request is bounded by the host, which waits for its answer.
        if item.__class__ is dict:
            self._events -= 1
        return item

    def take_events(self, limit: int, is_wanted: Callable[[Params], bool]) -> Iterator[Params]:
        """Yield the events that come next, up to a request or one that is not wanted."""
        while limit > 0 and self._items:
            item = self._items[0]
            if not isinstance(item, dict) or not is_wanted(item):
                return
            limit -= 1
            self._events -= 1
            self._items.popleft()
            yield item

    def clear(self) -> list[HookRequest]:
        """Forget everything; return the requests, which are to be answered."""
        left = [item for item in self._items if not isinstance(item, (dict, EventsDropped))]
        self._items.clear()
        self._events = 0
        return left

    def _drop_oldest(self) -> None:
        """Let the oldest quarter of the events go, so that the cost is spread."""
        kept: list[Params | EventsDropped | HookRequest] = []
        lost: dict[str, _Lost] = {}
        room = self._capacity // 4
        for item in self._items:
            if isinstance(item, EventsDropped):
                lost.setdefault(item.session_id, _Lost()).add_all(item, len(kept))
            # Not one that cannot be named in EVENTS_DROPPED: nobody would know that it is missing.
            elif room and isinstance(item, dict) and item.get("offset") is None and _is_numbered(item):
                room -= 1
                self._events -= 1
                self.dropped += 1
                lost.setdefault(item["session_id"], _Lost()).add(item["seq"], item["timestamp"], len(kept))
            else:
                kept.append(item)
        # From the back, so that an insertion does not move the places in front of it.
        for session_id, each in sorted(lost.items(), key=lambda found: -found[1].place):
            kept.insert(each.place, each.as_event(self._plugin, session_id))
        self._items = deque(kept)


class _Lost:
    """What one session lost; `place` is where the last of it stood."""

    def __init__(self) -> None:
        self.place = 0
        self._ranges: list[list[int]] = []
        self._timestamp = 0

    def add(self, seq: int, timestamp: int, place: int) -> None:
        self._add_range(seq, seq)
        self._timestamp, self.place = timestamp, place

    def add_all(self, event: EventsDropped, place: int) -> None:
        for first, last in event.ranges:
            self._add_range(first, last)
        self._timestamp, self.place = event.timestamp, place

    def _add_range(self, first: int, last: int) -> None:
        if self._ranges and self._ranges[-1][1] == first - 1:
            self._ranges[-1][1] = last
        else:
            self._ranges.append([first, last])

    def as_event(self, plugin: str, session_id: str) -> EventsDropped:
        ranges = tuple((first, last) for first, last in self._ranges)
        count = sum(last - first + 1 for first, last in ranges)
        event = EventsDropped(plugin_name=plugin, count=count, ranges=ranges)
        stamp(event, ranges[-1][1], self._timestamp, session_id, (), None)  # in the place of the last one
        return event


def _is_numbered(params: Params) -> bool:
    kinds = (("seq", int), ("timestamp", int), ("session_id", str))
    return all(type(params.get(name)) is kind for name, kind in kinds)
