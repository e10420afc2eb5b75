"""The lane of a daemon: events and questions go out in order, as lines that all daemons share.

There is no task and no hook for each daemon: the session's pump wakes the lanes, each looks what its daemon wants of
the run of events, and writes it at once. An event is encoded once, whoever hears it; daemons with the same
subscriptions share the joined bytes too. A daemon that does not read stops its own lane, which then falls behind the
ring like any other. That hooks do not overlap is up to the daemon, which has everything in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.contract.values.codec import encoded
from ally_plugins.contract.values.errors import EncodeError, TimedOut
from ally_plugins.contract.values.eventjson import check_ids
from ally_plugins.contract.values.events import Event, PluginEvent, dropped_in_place
from ally_plugins.contract.values.scope import Scope
from ally_plugins.runtime.lanes.cursor import Cursor
from ally_plugins.runtime.lanes.link import DaemonGone, Link, NotSent, RemoteHook, tell
from ally_plugins.runtime.lanes.observers import Observers, is_own
from ally_plugins.runtime.lanes.requests import FutureRequest
from ally_plugins.wire.eventlines import FRAME_BYTES, event_lines

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.ring import Ring, Run

__all__ = ["DaemonLane"]

BATCH: Final = 512
"""Events that are joined into one write; with the write's own limit it bounds what waits for a slow daemon."""

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Bytes of one event, which may carry a tool's whole output; a larger one is told as dropped."""

_MISSING: Final = "missing"
"""Where a run keeps the numbers of its events that are told as dropped: they cannot be said, or are too large."""

DRAIN_LIMIT: Final = 30.0
"""Seconds that a daemon has to handle what it was sent, where somebody waits for that: as long as one hook may take."""

_numbers: Final = count(1)


@define(eq=False)
class _Asked:
    """A question that is on its way: the daemon names it as `cause` in what it does meanwhile."""

    request: FutureRequest
    cause: str
    future: asyncio.Future[Any] | None = None


class DaemonLane:
    """The lane of one daemon; it lives from the plugin's start to its stop, through every restart of the process."""

    def __init__(self, plugin: str, observers: Observers) -> None:
        self.plugin = plugin
        self.observers = observers
        self.delivered = 0
        self.dropped = 0
        self.link: Link | None = None
        self.was_active: Callable[[str, int], bool] | None = None
        """Says whether the plugin was active in a session at an event; without it, it always is."""
        self.is_ready = False
        """Whether events may flow: the daemon has answered `initialize`."""
        self._cursors: dict[str, Cursor] = {}
        self._confirmed: dict[str, int] = {}
        self._waiting: deque[_Asked] = deque()
        self._asked: dict[str, _Asked] = {}
        self._scopes: dict[str, Scope] = {}
        self._is_open = False
        self._drains = True
        self._gone = ""
        """What became of the process before; empty until one has ended."""

    # --- as any lane: what the session and the dispatcher call ---

    def start(self) -> None:
        """Take events from now on; they wait for the daemon."""
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether the lane takes events and requests; the process may be starting again meanwhile."""
        return self._is_open

    @property
    def is_busy(self) -> bool:
        """Whether the watchdog has to look: never, since deadlines of events are kept in the daemon."""
        return False

    def attach(self, session_id: str, ring: Ring) -> None:
        """Carry a session's events from here on."""
        ring.keeps_json = True
        self._cursors[session_id] = Cursor(ring, ring.head)
        self._confirmed[session_id] = ring.head

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events."""
        self._cursors.pop(session_id, None)
        self._confirmed.pop(session_id, None)

    def position(self, session_id: str) -> int | None:
        """Return the number of the last event of a session that was written, None when it is not attached."""
        cursor = self._cursors.get(session_id)
        return None if cursor is None else cursor.position

    def has_heard(self, session_id: str, number: int) -> bool:
        """Say whether the daemon has confirmed every event of a session up to this number."""
        return self._confirmed.get(session_id, 0) >= number

    def recent_origin(self, session_id: str) -> tuple[str, ...]:
        """Return the longest chain of plugins that led to what was lately delivered in a session."""
        cursor = self._cursors.get(session_id)
        return () if cursor is None else cursor.recent_origin

    def is_at(self, scope: Scope) -> bool:
        """Say whether a question is open that the scope belongs to."""
        return any(asked.request.scope is scope for asked in self._asked.values())

    def wake(self) -> None:
        """Write what is due in any session, if the daemon reads."""
        self._bring_up_to_date(self._cursors)

    def tell(self, session_id: str) -> bool:
        """Write what is due in a session that has emitted, if the daemon reads."""
        self._bring_up_to_date((session_id,))
        return False

    def _bring_up_to_date(self, sessions: Iterable[str]) -> None:
        link = self.link
        if link is None or not self.is_ready:
            return
        for session_id in sessions:
            cursor = self._cursors.get(session_id)
            if cursor is not None and cursor.position < cursor.ring.head:
                self._deliver(link, session_id, cursor, cursor.ring.head)
        while self._waiting and self._may_go(link, self._waiting[0]):
            self._send(link, self._waiting.popleft())

    def check(self, now: float) -> None:
        """Do nothing: a daemon that hangs is noticed by its health checks."""

    def submit(
        self,
        hook: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...] = (),
        *,
        is_async: bool = True,
        scope: Scope | None = None,
        session_id: str | None = None,
        deadline: float | None = None,
    ) -> asyncio.Future[Any]:
        """Ask the daemon, after the events emitted so far in a session; None asks whether it has handled them.

        The future has the answer, TimedOut after `deadline` seconds, or DaemonGone. Cancelling it takes the question
        back and tells the daemon.
        """
        loop = asyncio.get_running_loop()
        cursor = self._cursors.get(session_id) if session_id is not None else None
        scope = scope or Scope(self.plugin, session_id, held=frozenset((self.plugin,)))
        request = FutureRequest(
            hook, function, arguments, scope,
            cursor.ring if cursor else None, cursor.ring.head if cursor else 0, is_async=is_async,
        )  # fmt: skip
        if not self._is_open:
            request.settle(error=TimedOut(f"the lane of {self.plugin!r} is closed"))
            return request.future
        if function is None and (cursor is None or self._needs_no_confirmation(session_id or "", cursor)):
            request.settle()
            return request.future
        asked = _Asked(request, f"q{next(_numbers)}")
        if function is None:
            request.timer = loop.call_later(DRAIN_LIMIT, self._give_up_draining, request)
        elif deadline is not None:
            request.timer = loop.call_later(deadline, self._expire, asked, deadline)
        request.future.add_done_callback(partial(self._over, asked))
        if function is not None and not isinstance(function, RemoteHook):
            self._answer_here(asked, function)
        elif function is not None and self.link is None and self._gone:  # its plugin is just about to say so
            request.settle(error=DaemonGone(self._gone, plugin=self.plugin))
        else:
            self._waiting.append(asked)
            self.wake()
        return request.future

    def abandon(self) -> None:
        """Deliver nothing any more; what waits is answered."""
        self._is_open = False
        self._drop_all(TimedOut(f"the plugin {self.plugin!r} was stopped"))

    async def close(self) -> None:
        """End the lane; what waits is answered with TimedOut."""
        self.abandon()

    # --- what the supervisor calls ---

    def connect(self, link: Link) -> None:
        """Use this link from now on; events flow once `is_ready` is set and the lane is woken."""
        self.link, self.is_ready, self._drains = link, False, True

    def disconnect(self, reason: str) -> None:
        """Let go of the link; open questions are answered with DaemonGone, events wait for the next process."""
        self.link, self.is_ready = None, False
        self._gone = f"the process of {self.plugin!r} {reason}"
        self._drop_all(DaemonGone(self._gone, plugin=self.plugin))
        for session_id, cursor in self._cursors.items():
            self._confirmed[session_id] = cursor.position  # what it had not handled is lost with it

    # --- what the daemon's own calls need ---

    def note(self, cause: str, scope: Scope) -> None:
        """Remember what a tool call, action or task runs for, so that the daemon can name it as a cause."""
        self._scopes[cause] = scope

    def heard(self, session_id: str, chain: tuple[str, ...]) -> None:
        """Remember what led to an event that came another way, from the journal."""
        cursor = self._cursors.get(session_id)
        if cursor is not None:
            cursor.is_recent(chain)

    def forget(self, cause: str) -> None:
        """Forget a cause whose work has ended."""
        self._scopes.pop(cause, None)

    def scope_of(self, cause: str | None, session_id: str | None) -> Scope:
        """Return what a call of the daemon's is made for.

        A cause that is not known, or none: then it may be anything that the daemon was told lately, and whatever waits
        for its answers waits for this too.
        """
        if cause is not None:
            if (asked := self._asked.get(cause)) is not None:
                return asked.request.scope
            if (scope := self._scopes.get(cause)) is not None:
                return scope
            if (scope := self._scope_of_event(cause)) is not None:
                return scope
        held = frozenset[str]().union(*(asked.request.scope.held for asked in self._asked.values()))
        return Scope(self.plugin, session_id, self.recent_origin(session_id or ""), held)

    def was_told(self, event_id: str) -> bool:
        """Say whether an event has this id that the daemon may have been told of."""
        return self._find_event(event_id) is not None

    def _find_event(self, event_id: str) -> tuple[str, Cursor, int] | None:
        """Return the session, its cursor and the number that an id of an event stands for; None if it has no such."""
        session_id, _, number = event_id.rpartition(":")
        cursor = self._cursors.get(session_id)
        if cursor is None or not number.isascii() or not number.isdigit() or len(number) > 18:  # noqa: PLR2004
            return None
        seq = int(number)
        return (session_id, cursor, seq) if 0 < seq <= cursor.position else None

    def _scope_of_event(self, cause: str) -> Scope | None:
        found = self._find_event(cause)
        if found is None:
            return None
        session_id, cursor, seq = found
        return Scope(self.plugin, session_id, cursor.origin_of(seq), frozenset((self.plugin,)), cause=cause)

    # --- delivery ---

    def _deliver(self, link: Link, session_id: str, cursor: Cursor, until: int) -> None:
        while cursor.position < until and link.can_write:
            run = cursor.ring.read(cursor.position, BATCH, until)
            if run is None:
                event = cursor.skip_dropped(self.plugin, session_id)
                self.dropped += event.count
                self._write(link, [event])
                continue
            before = self.delivered
            self._deliver_run(link, run, cursor)
            if self.delivered == before and self._confirmed[session_id] == cursor.position:
                self._confirmed[session_id] = cursor.position + len(run.events)  # nothing of it concerned the daemon
            cursor.position += len(run.events)

    def _deliver_run(self, link: Link, run: Run, cursor: Cursor) -> None:
        if cursor.recent_origin:
            cursor.grow_old(run)
        wanted = run.types & self.observers.types
        if not wanted:
            return
        if run.is_plain and link.takes_lines and PluginEvent not in wanted and self.was_active is None:
            lines, number, missing = _shared(run, wanted)
            link.write(lines)
            self.delivered += number
            self.dropped += missing
            return
        events = [e for e in run.events if self.observers.wants(e) and not is_own(e, self.plugin)]
        if (was_active := self.was_active) is not None:
            events = [event for event in events if was_active(event.session_id, event.seq)]
        if events:
            if not run.is_plain:
                cursor.is_recent(max((event.origin for event in events), key=len))
                cursor.keep_chains(events)
            self._write(link, events, run)

    def _write(self, link: Link, events: list[Event], run: Run | None = None) -> None:
        self.delivered += len(events)
        if link.takes_lines:
            link.write(event_lines([_json_of(run, event) for event in events]))
            self.dropped += _count_missing(run, events)
        else:
            link.write_events(events)

    def _needs_no_confirmation(self, session_id: str, cursor: Cursor) -> bool:
        if self.link is None or not self.is_ready or not self._drains:
            return True
        self.wake()
        return self.has_heard(session_id, cursor.ring.head)

    # --- questions ---

    def _may_go(self, link: Link, asked: _Asked) -> bool:
        """Say whether the events before a question have been written."""
        request = asked.request
        cursor = self._cursors.get(request.scope.session_id or "")
        return link.can_write and (
            cursor is None or cursor.ring is not request.ring or cursor.position >= request.after
        )

    def _send(self, link: Link, asked: _Asked) -> None:
        request = asked.request
        if request.is_over:
            return
        hook = request.function
        if hook is None:
            tell(link.request("drain", {}), partial(self._drained, asked))
            return
        assert isinstance(hook, RemoteHook)  # noqa: S101 - anything else is answered here
        cursor = self._cursors.get(request.scope.session_id or "")
        if cursor is not None:
            cursor.is_recent(request.scope.origin)
        try:
            params = hook.params(request.arguments) | _about(asked)
        except Exception as error:  # noqa: BLE001 - values may be anything; one question must not end the others
            text = f"{request.hook} of {self.plugin!r} cannot be asked: {type(error).__name__} while it was written"
            request.settle(error=NotSent(text, plugin=self.plugin))
            return
        self._asked[asked.cause] = asked
        asked.future = future = link.request(hook.method, params)
        tell(future, partial(self._answered, asked))

    def _answer_here(self, asked: _Asked, function: Callable[..., Any]) -> None:
        """Let the host's own code answer, for a daemon that cannot be asked."""
        asked.future = work = asyncio.ensure_future(function(*asked.request.arguments))
        work.add_done_callback(partial(self._answered, asked))

    def _answered(self, asked: _Asked, future: asyncio.Future[Any]) -> None:
        self._asked.pop(asked.cause, None)
        request = asked.request
        if future.cancelled():
            request.settle(error=DaemonGone(f"{request.hook} was cancelled", plugin=self.plugin))
        elif (error := future.exception()) is not None:
            request.settle(error=error)
        else:
            hook = request.function
            try:
                answer = future.result()
                request.settle(hook.read(request.arguments, answer) if isinstance(hook, RemoteHook) else answer)
            except Exception as error:  # noqa: BLE001 - whatever the daemon answered must not harm the loop
                request.settle(error=error)

    def _drained(self, asked: _Asked, future: asyncio.Future[Any]) -> None:
        """Take any answer: a daemon that does not know `drain` has read the events before it all the same."""
        request = asked.request
        if not future.cancelled():
            future.exception()
        session_id = request.scope.session_id or ""
        if session_id in self._confirmed:
            self._confirmed[session_id] = max(self._confirmed[session_id], request.after)
        request.settle()

    def _give_up_draining(self, request: FutureRequest) -> None:
        """Wait no more for a daemon that answers no `drain`, now and until its next process."""
        self._drains = False
        request.settle()

    def _expire(self, asked: _Asked, deadline: float) -> None:
        asked.request.settle(error=TimedOut(f"{asked.request.hook} did not answer within {deadline:g} s"))

    def _over(self, asked: _Asked, _: asyncio.Future[Any]) -> None:
        """Let a question go that has its answer, or that nobody waits for any more: then the daemon need not go on."""
        self._asked.pop(asked.cause, None)
        if asked.future is not None and not asked.future.done():
            asked.future.cancel()

    def _drop_all(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for asked in [*waiting, *self._asked.values()]:
            asked.request.settle(error=error)
        self._asked.clear()
        self._scopes.clear()


def _about(asked: _Asked) -> dict[str, Any]:
    scope, timer = asked.request.scope, asked.request.timer
    about: dict[str, Any] = {"session_id": scope.session_id, "cause": asked.cause, "origin": scope.origin}
    if timer is not None:
        about["deadline"] = round(max(0.0, timer.when() - asyncio.get_running_loop().time()), 3)
    return about


def _shared(run: Run, wanted: frozenset[type[Event]]) -> tuple[bytes, int, int]:
    """Return the lines for those who want these types, joined once for all, how many they are, and how many missing."""
    found = run.lines.get(wanted)
    if found is None:
        chosen = run.events
        if len(wanted) < len(run.types):
            chosen = [event for event in run.events if event.__class__ in wanted]
        texts = [_json_of(run, event) for event in chosen]
        found = run.lines[wanted] = (event_lines(texts), len(texts), _count_missing(run, chosen))
    return found


def _json_of(run: Run | None, event: Event) -> bytes:
    """Return an event's JSON for all daemons that read the same run, or that of the word that it is missing."""
    if run is None:
        return encoded(event)
    text = run.lines.get(event.seq)
    if text is None:
        text = _readable_json(event)
        if text is None:
            run.lines.setdefault(_MISSING, set()).add(event.seq)
            text = encoded(dropped_in_place(event))
        run.lines[event.seq] = text
    return text


def _readable_json(event: Event) -> bytes | None:
    """Return an event's JSON; None when there is none that a daemon can read, or it is larger than it takes."""
    try:
        check_ids(event)
        text = encoded(event)
    except EncodeError:  # what is wrong with it is said by the session, which cannot write it down either
        return None
    return text if len(text) + FRAME_BYTES <= LONGEST_LINE else None


def _count_missing(run: Run | None, events: Iterable[Event]) -> int:
    missing = run.lines.get(_MISSING) if run is not None else None
    return sum(event.seq in missing for event in events) if missing else 0
