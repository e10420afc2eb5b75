"""The lane of a daemon: events and requests go out in order, as lines that all daemons share.

There is no task for each daemon: the fan-out wakes the lanes, each picks what its daemon subscribes to from the run of
events, and writes it at once. An event is encoded once for all daemons; those with the same subscriptions share the
joined bytes too. A daemon that does not read stops its own lane, which then falls behind the ring like any other. That
hooks do not overlap is up to the daemon, which gets everything in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.codec import encoded
from ally_plugins.contract.values.errors import EncodeError, TimedOut
from ally_plugins.contract.values.eventjson import check_ids
from ally_plugins.contract.values.events import ContextThreshold, Event, PluginEvent, dropped_in_place
from ally_plugins.contract.values.scope import Scope
from ally_plugins.journal.receipts import Receipts, numbers_of
from ally_plugins.runtime.lanes.cursor import Cursor
from ally_plugins.runtime.lanes.deadlines import SharedTimer
from ally_plugins.runtime.lanes.link import DaemonGone, Link, NotSent, RemoteHook, call_when_done
from ally_plugins.runtime.lanes.observers import Observers, is_own
from ally_plugins.runtime.lanes.requests import Answer, FutureRequest
from ally_plugins.wire.eventlines import FRAME_BYTES, event_lines

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.ring import EventRun, Ring

__all__ = ["RemoteLane"]

BATCH: Final = 512
"""Events that are joined into one write; with the write's own limit it bounds what waits for a slow daemon."""

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Bytes of one event, which may carry a tool's whole output; a larger one is replaced by EVENTS_DROPPED."""

_MISSING: Final = "missing"
"""The key under which a run keeps the numbers of events without a JSON form, or too large: EVENTS_DROPPED is sent."""

DRAIN_LIMIT: Final = 30.0
"""Seconds that `Session.drained` waits for a daemon: as long as one hook may take."""

HANDOVER: Final = 5.0
"""Seconds that one which takes the place of another waits for it; as long as `ally_stop` may take."""

_numbers: Final = count(1)


class _PendingRequest(FutureRequest):
    """A gate, transform or drain without an answer yet; the daemon names `cause` in the calls that it makes for it.

    `due_at` is when TimedOut is its answer, on the loop's clock, `limit` seconds after it was made; `sent` is the
    future of what was sent for it.
    """

    __slots__ = ("cause", "due_at", "limit", "sent")

    cause: str
    due_at: float | None
    limit: float | None
    sent: asyncio.Future[Any] | None


_CHOSEN: Final = frozenset({PluginEvent, ContextThreshold})
"""Types of which a plugin receives some events and others not."""


class RemoteLane:
    """The lane of one daemon; it lives from the plugin's start to its stop, through every restart of the process."""

    def __init__(self, plugin: str, observers: Observers, receipts: Receipts | None = None) -> None:
        self.plugin = plugin
        self.observers = observers
        self._receipts = receipts if receipts is not None else Receipts()
        self.delivered = 0
        self.dropped = 0
        self.link: Link | None = None
        self.was_active: Callable[[str, int], bool] | None = None
        """Returns whether the plugin was active in a session at an event; None: it always is."""
        self.is_ready = False
        """Whether events may flow: the daemon has answered `initialize`."""
        self._cursors: dict[str, Cursor] = {}
        self._confirmed: dict[str, int] = {}
        self._unsent: deque[_PendingRequest] = deque()
        self._pending: dict[str, _PendingRequest] = {}
        self._scopes: dict[str, Scope] = {}
        self._is_open = False
        self._drains = True
        self._end_reason = ""
        """How the last process ended; empty until one has."""
        self._timer = SharedTimer(self._expire_due)
        """Strikes when the first of the requests is due, or before: a timer for each would cost more than a write."""

    # --- as any lane: what the session and the dispatcher call ---

    def start(self) -> None:
        """Accept events from now on; they wait until the daemon is connected."""
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether the lane takes events and requests; the process may be starting again meanwhile."""
        return self._is_open

    @property
    def is_busy(self) -> bool:
        """Whether the watchdog has to look: never, since deadlines of events are kept in the daemon."""
        return False

    def attach(self, session_id: str, ring: Ring, after: int | None = None) -> None:
        """Carry a session's events from here on, or from behind the one with this number."""
        # Before its first event: the journal then keeps the JSON that daemons get, which is made once.
        ring.keeps_json = True
        position = ring.head if after is None else after
        self._cursors[session_id] = Cursor(ring, position)
        self._confirmed[session_id] = position

    def change_observers(self, observers: Observers) -> None:
        """Deliver these events from the next one on."""
        self.observers = observers

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events."""
        self._cursors.pop(session_id, None)
        self._confirmed.pop(session_id, None)

    def position(self, session_id: str) -> int | None:
        """Return the number of the last event of a session that was written, None when it is not attached."""
        cursor = self._cursors.get(session_id)
        return None if cursor is None else cursor.position

    def has_handled(self, session_id: str, number: int) -> bool:
        """Say whether the daemon has confirmed every event of a session up to this number."""
        return self._confirmed.get(session_id, 0) >= number

    def recent_origin(self, session_id: str) -> tuple[str, ...]:
        """Return the longest chain of plugins that led to what was lately delivered in a session."""
        cursor = self._cursors.get(session_id)
        return () if cursor is None else cursor.recent_origin

    def is_at(self, scope: Scope) -> bool:
        """Say whether the scope is that of a pending request."""
        return any(pending.scope is scope for pending in self._pending.values())

    def wake(self) -> None:
        """Write what is due in all sessions, while the daemon reads."""
        self._bring_up_to_date(self._cursors)

    def notify(self, session_id: str) -> bool:
        """Write what is due in a session that has emitted; return false: the watchdog has nothing to do for it."""
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
        # Oldest first, and none past one that still waits for its events: a plugin is called in order.
        while self._unsent and self._may_send(link, self._unsent[0]):
            self._send(link, self._unsent.popleft())

    def check(self, now: float) -> None:
        """Do nothing: a daemon that hangs fails its health checks."""

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
        """Send a hook to the daemon after the events emitted so far in a session; None waits until those are handled.

        The future gets the answer, TimedOut after `deadline` seconds, DaemonGone, or NotSent. Cancelling it withdraws
        the request and sends the daemon a `$/cancel`.
        """
        cursor = self._cursors.get(session_id) if session_id is not None else None
        # Held by itself: no call that the hook makes may wait for the hook to end.
        scope = scope or Scope(self.plugin, session_id, held=frozenset((self.plugin,)))
        pending = _PendingRequest(
            hook, function, arguments, is_async, scope, Answer(),
            cursor.ring if cursor else None, cursor.ring.head if cursor else 0,
        )  # fmt: skip
        pending.cause = f"q{next(_numbers)}"
        pending.due_at = pending.limit = pending.sent = None
        if not self._is_open:
            pending.settle(error=TimedOut(f"the lane of {self.plugin!r} is closed"))
        elif function is None:
            self._drain(pending, session_id or "", cursor)
        else:
            pending.future.take_back = partial(self._withdraw, pending)
            pending.limit = deadline
            if not isinstance(function, RemoteHook):
                self._answer_in_host(pending, function)
            elif self.link is None and self._end_reason:
                # The process has just ended; its plugin's state, which the dispatcher looks at first, is to change.
                pending.settle(error=DaemonGone(self._end_reason, plugin=self.plugin))
            else:
                if deadline is not None:
                    loop = asyncio.get_running_loop()
                    pending.due_at = loop.time() + deadline
                    self._timer.strike_by(loop, pending.due_at)
                self._queue(pending, session_id)
        return pending.future

    def _queue(self, pending: _PendingRequest, session_id: str | None) -> None:
        """Send a request behind the events of its session and the requests before it, now where that can be."""
        self._unsent.append(pending)
        # Not the events of other sessions: those are carried for their own sake, and there may be hundreds.
        self._bring_up_to_date(() if session_id is None else (session_id,))

    def _drain(self, pending: _PendingRequest, session_id: str, cursor: Cursor | None) -> None:
        if cursor is None or self._needs_no_confirmation(session_id, cursor):
            pending.settle()
            return
        pending.timer = asyncio.get_running_loop().call_later(DRAIN_LIMIT, self._give_up_draining, pending)
        self._queue(pending, session_id)

    def _expire_due(self, now: float) -> float | None:
        """Answer the requests that are due, and return when the next is."""
        waiting = []
        for pending in (*self._unsent, *self._pending.values()):
            if pending.due_at is not None and not pending.is_over:
                if pending.due_at <= now:
                    self._expire(pending)
                else:
                    waiting.append(pending.due_at)
        return min(waiting, default=None)

    async def hand_over(self) -> dict[str, int]:
        """Write nothing more and return the number of the last event that was written, by session.

        Waits until the process has handled those and answered what it was asked, `HANDOVER` seconds at most: the one
        that takes its place goes on behind them, so that it misses no event and none comes twice. Cancelling stops the
        waiting; the lane stays as it is, and only `close` is left to it.
        """
        self.wake()
        link, self.is_ready = self.link, False
        waiting: list[asyncio.Future[Any]] = [each.future for each in self._pending.values()]
        if link is not None and self._drains:
            waiting.append(link.request("drain", {}))
        if waiting:
            done, _ = await asyncio.wait(waiting, timeout=HANDOVER)
            for future in done:
                if not future.cancelled():
                    future.exception()  # looked at, or asyncio logs it as never retrieved
        return {session_id: cursor.position for session_id, cursor in self._cursors.items()}

    def abandon(self) -> None:
        """Deliver nothing any more; what is pending gets TimedOut."""
        self._is_open = False
        self._fail_all(TimedOut(f"the plugin {self.plugin!r} was stopped"))

    async def close(self) -> None:
        """Close the lane; what is pending gets TimedOut. Never waits."""
        self.abandon()

    # --- what the supervisor calls ---

    def connect(self, link: Link) -> None:
        """Use this link from now on; events flow once `is_ready` is set and the lane is woken."""
        # A new process may answer `drain`, though the one before did not.
        self.link, self.is_ready, self._drains = link, False, True

    def disconnect(self, reason: str) -> None:
        """Forget the link; pending requests get DaemonGone, events wait for the next process."""
        self.link, self.is_ready = None, False
        self._end_reason = f"the process of {self.plugin!r} {reason}"
        self._fail_all(DaemonGone(self._end_reason, plugin=self.plugin))
        for session_id, cursor in self._cursors.items():
            self._confirmed[session_id] = cursor.position  # what the process had not handled is lost with it

    # --- what the daemon's own calls need ---

    def note(self, cause: str, scope: Scope) -> None:
        """Keep the scope of a tool call, action, task or durable event that the daemon may name as a cause."""
        self._scopes[cause] = scope

    def note_origin(self, session_id: str, chain: tuple[str, ...]) -> None:
        """Note the chain of origin of an event that was delivered from the journal, past this lane."""
        cursor = self._cursors.get(session_id)
        if cursor is not None:
            cursor.remember_origin(chain)

    def forget(self, cause: str) -> None:
        """Forget a cause whose work has ended; calls that still name it get the scope of an unknown one."""
        self._scopes.pop(cause, None)

    def scope_of(self, cause: str | None, session_id: str | None) -> Scope:
        """Return the scope that a call of the daemon is made in, by the cause that it names.

        Without a cause, or with an unknown one, the call may react to anything that was delivered lately: the longest
        chain of origin is assumed, and the plugins of all pending requests are held.
        """
        if cause is not None:
            if (pending := self._pending.get(cause)) is not None:
                return pending.scope
            if (scope := self._scopes.get(cause)) is not None:
                return scope
            if (scope := self._scope_of_event(cause)) is not None:
                return scope
        held = frozenset[str]().union(*(pending.scope.held for pending in self._pending.values()))
        return Scope(self.plugin, session_id, self.recent_origin(session_id or ""), held)

    def was_delivered(self, event_id: str) -> bool:
        """Say whether this is the id of an event that was delivered, or passed over, in a session of the lane."""
        return self._find_event(event_id) is not None

    def _find_event(self, event_id: str) -> tuple[str, Cursor, int] | None:
        """Return the session, its cursor and the number in an event's id; None when there is no such event."""
        session_id, _, number = event_id.rpartition(":")
        cursor = self._cursors.get(session_id)
        # 18 digits always fit into 64 bits. `isdigit` alone accepts digits of other scripts, as `int` does.
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

    def _deliver_run(self, link: Link, run: EventRun, cursor: Cursor) -> None:
        if cursor.recent_origin:
            cursor.age_origin(run)
        wanted = run.types & self.observers.types
        if not wanted:
            return
        # Lines that daemons share hold every event of their types: what is chosen one by one is in none.
        if run.is_plain and link.takes_lines and wanted.isdisjoint(_CHOSEN) and self.was_active is None:
            lines, numbers, missing = _shared(run, wanted)
            link.write(lines)
            self.delivered += len(numbers) + missing
            self.dropped += missing
            self._receipts.add(run.events[0].session_id, None, None, numbers)
            return
        events = [e for e in run.events if self.observers.wants(e) and not is_own(e, self.plugin)]
        if (was_active := self.was_active) is not None:
            events = [event for event in events if was_active(event.session_id, event.seq)]
        if events:
            if not run.is_plain:
                cursor.remember_origin(max((event.origin for event in events), key=len))
                cursor.keep_chains(events)
            self._write(link, events, run)
            self._receipts.add(events[0].session_id, None, None, numbers_of(_readable(run, events)))

    def _write(self, link: Link, events: list[Event], run: EventRun | None = None) -> None:
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
        return self.has_handled(session_id, cursor.ring.head)

    # --- requests ---

    def _may_send(self, link: Link, request: _PendingRequest) -> bool:
        """Say whether the events before a request have been written, and more may be."""
        cursor = self._cursors.get(request.scope.session_id or "")
        return link.can_write and (
            cursor is None or cursor.ring is not request.ring or cursor.position >= request.after
        )

    def _send(self, link: Link, request: _PendingRequest) -> None:
        if request.is_over:
            return
        hook = request.function
        if hook is None:
            call_when_done(link.request("drain", {}), partial(self._drained, request))
            return
        assert isinstance(hook, RemoteHook)  # noqa: S101 - anything else is answered here
        cursor = self._cursors.get(request.scope.session_id or "")
        if cursor is not None:
            # A call that names no cause may react to this request, as to an event that was delivered.
            cursor.remember_origin(request.scope.origin)
        try:
            params = hook.params(request.arguments)
        except Exception as error:  # noqa: BLE001 - values may be anything, and the other requests have to be sent
            text = f"{request.hook} of {self.plugin!r} cannot be asked: {type(error).__name__} while it was written"
            request.settle(error=NotSent(text, plugin=self.plugin))
            return
        _add_envelope(params, request)
        self._pending[request.cause] = request
        request.sent = sent = link.request(hook.method, params)
        call_when_done(sent, partial(self._answered, request))

    def _answer_in_host(self, request: _PendingRequest, function: Callable[..., Any]) -> None:
        """Run the host's own code for a hook, for a plugin whose daemon has no hooks (see `bridge_services`)."""
        if request.limit is not None:
            request.timer = asyncio.get_running_loop().call_later(request.limit, self._expire, request)
        request.sent = work = asyncio.ensure_future(function(*request.arguments))
        work.add_done_callback(partial(self._answered, request))

    def _answered(self, request: _PendingRequest, future: asyncio.Future[Any]) -> None:
        self._pending.pop(request.cause, None)
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

    def _drained(self, request: _PendingRequest, future: asyncio.Future[Any]) -> None:
        """Settle a drain, whatever the answer: one that has no `drain` has still read the events before it."""
        if not future.cancelled():
            # Looked at, or asyncio logs it as never retrieved.
            future.exception()
        session_id = request.scope.session_id or ""
        if session_id in self._confirmed:
            self._confirmed[session_id] = max(self._confirmed[session_id], request.after)
        request.settle()

    def _give_up_draining(self, request: FutureRequest) -> None:
        """Settle a drain that is not answered in time; the process is sent no other."""
        self._drains = False
        request.settle()

    def _expire(self, request: _PendingRequest) -> None:
        request.settle(error=TimedOut(f"{request.hook} did not answer within {request.limit:g} s"))
        self._withdraw(request)

    def _withdraw(self, request: _PendingRequest, _: object = None) -> None:
        """Forget a request that has no answer and needs none, and cancel it there."""
        self._pending.pop(request.cause, None)
        if request.sent is not None and not request.sent.done():
            request.sent.cancel()

    def _fail_all(self, error: Exception) -> None:
        unsent, self._unsent = self._unsent, deque()
        pending, self._pending = self._pending, {}
        self._timer.cancel()
        for request in [*unsent, *pending.values()]:
            request.settle(error=error)
            self._withdraw(request)
        self._scopes.clear()


def _add_envelope(params: dict[str, Any], request: _PendingRequest) -> None:
    scope = request.scope
    params["session_id"], params["cause"], params["origin"] = scope.session_id, request.cause, scope.origin
    if request.due_at is not None:
        # What is left of it: the request may have waited for a daemon that did not read.
        params["deadline"] = round(max(0.0, request.due_at - asyncio.get_running_loop().time()), 3)


def _shared(run: EventRun, wanted: frozenset[type[Event]]) -> tuple[bytes, Sequence[int], int]:
    """Return the lines of these types, joined once for all daemons, their events' numbers, and how many are missing."""
    found = run.lines.get(wanted)
    if found is None:
        chosen = run.events
        if len(wanted) < len(run.types):
            chosen = [event for event in run.events if event.__class__ in wanted]
        texts = [_json_of(run, event) for event in chosen]
        found = run.lines[wanted] = (
            event_lines(texts),
            numbers_of(_readable(run, chosen)),
            _count_missing(run, chosen),
        )
    return found


def _json_of(run: EventRun | None, event: Event) -> bytes:
    """Return an event's JSON, or that of the EVENTS_DROPPED in its place; made once for all daemons on a run."""
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
    """Return an event's JSON; None when it has none that a daemon can read, or is larger than one accepts."""
    try:
        check_ids(event)
        text = encoded(event)
    except EncodeError:  # logged by the session, which cannot journal it either
        return None
    return text if len(text) + FRAME_BYTES <= LONGEST_LINE else None


def _readable(run: EventRun, events: list[Event]) -> list[Event]:
    """Return those that were sent as they are, once their JSON was made."""
    missing = run.lines.get(_MISSING)
    return [event for event in events if event.seq not in missing] if missing else events


def _count_missing(run: EventRun | None, events: Iterable[Event]) -> int:
    missing = run.lines.get(_MISSING) if run is not None else None
    return sum(event.seq in missing for event in events) if missing else 0
