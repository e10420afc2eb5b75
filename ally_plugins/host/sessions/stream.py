"""The host's own listeners: `ActivityStream` calls them as events are emitted, by type and then those of `*`.

Plugins get events by the `forward` that the root is given. Listeners run in the emitter's thread and should be quick;
what may be slow belongs in a plugin, behind a lane.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Final, Protocol, TypeAlias

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.events import EVENT_TYPES, Event, is_event_type, with_parent

__all__ = ["ActivityStream", "HostStream", "Listener", "json_lines"]

ANY: Final = "*"

Listener: TypeAlias = Callable[[Event], object]
_Table: TypeAlias = dict[str, tuple["_Subscription", ...]]

_log: Final = logging.getLogger(__name__)


class TextWriter(Protocol):
    """What text is written to: `sys.stdout`, or a file."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Give what was written to the system."""


class _Subscription:
    """One call of `subscribe`: the same listener subscribed twice is two of them."""

    __slots__ = ("listener",)

    def __init__(self, listener: Listener) -> None:
        self.listener: Final = listener


class ActivityStream:
    """Calls listeners of events; may be used from any thread. Scoped streams pass their events on to their parent.

    `forward` receives every event that reaches the root, after the root's listeners; it is how plugins get them.
    """

    __slots__ = ("_forward", "_lock", "_parent", "_parent_id", "_table")

    def __init__(self, forward: Listener | None = None) -> None:
        self._forward: Final = forward
        self._parent: ActivityStream | None = None
        self._parent_id = ""
        # The table is never changed, only replaced, so that emit needs no lock and a listener may unsubscribe
        # while it is called; the lock keeps two subscribers from losing one another.
        self._table: _Table = {}
        self._lock: Final = threading.Lock()

    def emit(self, event: Event) -> None:
        """Call the listeners of the event's type, then those of `*`; those of streams nearer the root come first.

        A listener that raises is logged and the others are still called; only KeyboardInterrupt propagates. Listeners
        that are subscribed or unsubscribed meanwhile count from the next event on.
        """
        parent = self._parent
        if parent is not None:
            # The parent comes first: behind a session's scope, that is what stamps the event.
            event = with_parent(event, self._parent_id)
            parent.emit(event)
        if table := self._table:
            for subscription in table.get(event.type, ()) + table.get(ANY, ()):
                _call(subscription.listener, event)
        if parent is None and self._forward is not None:
            _call(self._forward, event)

    def subscribe(self, event_type: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every event of a type, or of every type for `*`; return what ends that.

        What is returned may be called more than once, and from the listener itself. Raises EventError, with the
        nearest name, for a type that does not exist (`<plugin>:<type>` is always accepted), and for a listener that is
        a coroutine function.
        """
        if iscoroutinefunction(listener):
            raise EventError(f"listener {listener!r} is a coroutine function and nobody would await it; use a def")
        if event_type != ANY and not is_event_type(str(event_type)):
            raise EventError(f"there is no event type {event_type!r}; {_suggest(event_type)}", found=event_type)
        subscription = _Subscription(listener)
        with self._lock:
            self._table = {**self._table, event_type: (*self._table.get(event_type, ()), subscription)}
        return lambda: self._remove(event_type, subscription)

    def create_scoped(self, parent_id: str) -> ActivityStream:
        """Return a stream whose events get `parent_id`, where they have none, and then come through this one too.

        A scope within a scope keeps the nearest parent. It has listeners of its own and needs no closing.
        """
        scoped = ActivityStream()
        scoped._parent = self
        scoped._parent_id = parent_id
        return scoped

    def _remove(self, event_type: str, subscription: _Subscription) -> None:
        with self._lock:
            rest = tuple(other for other in self._table.get(event_type, ()) if other is not subscription)
            others = {key: value for key, value in self._table.items() if key != event_type}
            self._table = {**others, event_type: rest} if rest else others


class HostStream(ActivityStream):
    """The root of a host or session: what is emitted on it goes to `route`, that is to a session.

    The session stamps it and calls `notify_listeners`. So every listener gets each event once, stamped, wherever it was
    emitted.
    """

    __slots__ = ("_route",)

    def __init__(self, route: Callable[[Event], None]) -> None:
        super().__init__()
        self._route: Final = route

    @override
    def emit(self, event: Event) -> None:
        """Emit the event in the session, which has the listeners called. Raises SessionError when there is none."""
        self._route(event)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody has subscribed, to whatever type."""
        return bool(self._table)

    def notify_listeners(self, event: Event) -> None:
        """Call the listeners of an event that a session has stamped."""
        if self._table:
            super().emit(event)


def json_lines(file: TextWriter) -> Listener:
    """Return a listener that writes each event to a text file as one line of JSON, in the form of the wire.

    `host.stream.subscribe("DECISION", json_lines(sys.stdout))` is a log of decisions for whatever collects a service's
    output. It writes in the emitter's thread: a file that takes no more stops that thread, and nothing is let through.
    A line that cannot be written is logged; the journal has each decision all the same.
    """

    def write(event: Event) -> None:
        file.write(encode(event).decode() + "\n")
        file.flush()  # a collector reads a pipe, which would otherwise be told of a decision some 8 KiB later

    return write


def _call(listener: Listener, event: Event) -> None:
    try:
        listener(event)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  # a listener that calls sys.exit ends itself, not the host
        _log.exception("listener %r failed on %s", listener, event.type)


def _suggest(name: str) -> str:
    import difflib

    nearest = difflib.get_close_matches(str(name).upper(), EVENT_TYPES, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(EVENT_TYPES)}"
    return f"{hint} ('*' is all, '<plugin>:<type>' is a plugin's own)"
