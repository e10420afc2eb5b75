"""A lane carries events to one plugin and keeps its hooks from overlapping.

It takes events from the sessions' rings, in order of `seq`, and answers requests (gates, transforms, lifecycle) after
the events that were emitted before them. Its runner runs the hooks, in one task for each plugin; the watchdog,
which is a timer, looks which event a lane is at.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.errors import TimedOut
from ally_plugins.contract.values.events import EventsDropped
from ally_plugins.contract.values.scope import Scope
from ally_plugins.journal.receipts import Receipts, numbers_of
from ally_plugins.policy.hook_times import HookTimes

from .cursor import Cursor
from .marks import UNMARKED, Slot
from .observers import Handler, Observers, is_own
from .requests import Answer, Crash, FutureRequest
from .runner import Hooks, Runner

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

    from .requests import HookRequest
    from .ring import EventRun, Ring

__all__ = ["BATCH", "SEVERAL", "Lane"]

BATCH: Final = 512
"""Events that a lane delivers before it lets the loop do something else: about 40 µs of no-op hooks."""


SEVERAL: Final = "events"
"""What stands for the hook in the times of events that different hooks took one after the other."""


class Lane:
    """The lane of one plugin; it lives from the plugin's start to its stop, and belongs to one loop."""

    def __init__(
        self,
        plugin: str,
        observers: Observers,
        *,
        on_crash: Callable[[Crash], None],
        deadline: Callable[[str], float],
        slot: Slot = UNMARKED,
        times: HookTimes | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        self.plugin = plugin
        self.observers = observers
        self.delivered = 0
        self.dropped = 0
        self._times = times if times is not None else HookTimes()
        self._receipts = receipts if receipts is not None else Receipts()
        self._numbers: Sequence[int] = ()
        """The events of the run that is delivered, by their numbers."""
        self._runner = Runner(
            plugin,
            self._work,
            self._drop,
            on_crash=on_crash,
            deadline=deadline,
            passes_on=(KeyboardInterrupt,),
            slot=slot,
        )
        self._cursors: dict[str, Cursor] = {}
        self._pending_sessions: dict[str, None] = {}
        """The sessions that may have events for it, in the order of their turns; a host has many that are idle."""
        self._requests: deque[FutureRequest] = deque()
        self._held = frozenset((plugin,))
        self._since_pause = 0
        self._batch: list[Event] = []
        """What `_deliver_fast` delivers; `_cut_short` may replace it meanwhile, for which the loop there looks."""

    # --- what the session and the dispatcher call ---

    def start(self) -> None:
        """Begin to work; must be called on the loop that the lane belongs to."""
        self._runner.start()

    @property
    def is_open(self) -> bool:
        """Whether the lane takes events and requests."""
        return self._runner.is_open

    @property
    def is_busy(self) -> bool:
        """Whether something is being delivered or waits."""
        return self._runner.is_busy

    @property
    def current_hook(self) -> str:
        """The hook that runs now; may be read in any thread."""
        return self._runner.current_hook

    def attach(self, session_id: str, ring: Ring, after: int | None = None) -> None:
        """Carry a session's events from here on, or from behind the one with this number."""
        self._cursors[session_id] = Cursor(ring, ring.head if after is None else after)

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events."""
        self._cursors.pop(session_id, None)
        self._pending_sessions.pop(session_id, None)

    def position(self, session_id: str) -> int | None:
        """Return the number of the last event of a session that was delivered, None when it is not attached."""
        cursor = self._cursors.get(session_id)
        if cursor is None:
            return None
        if not self._runner.is_busy:
            self._passes_over(cursor)  # it is not woken for what no hook takes
        return cursor.position

    def has_handled(self, session_id: str, number: int) -> bool:
        """Return whether the plugin has handled every event of a session up to this number."""
        return (self.position(session_id) or 0) >= number

    def recent_origin(self, session_id: str) -> tuple[str, ...]:
        """Return the longest chain of plugins that led to what was lately delivered in a session."""
        cursor = self._cursors.get(session_id)
        return () if cursor is None else cursor.recent_origin

    def is_at(self, scope: Scope) -> bool:
        """Return whether the hook that the scope belongs to is the one that runs now."""
        return scope is self._runner.scope

    def notify(self, session_id: str) -> bool:
        """Take note that a session has emitted, and wake the lane unless none of its hooks takes such events.

        Returns whether the watchdog has to look at the lane now. Must be called on the lane's loop.
        """
        cursor = self._cursors.get(session_id)
        if cursor is None or (not self._runner.is_busy and self._passes_over(cursor)):
            return False
        self._pending_sessions[session_id] = None
        self._runner.wake()
        return True

    def _passes_over(self, cursor: Cursor) -> bool:
        """Skip events that no hook here takes, without waking the task; return whether that was all of them."""
        if cursor.recent_origin:  # they count for what the plugin may still answer
            return False
        if not self.observers.types:  # it has gates and the like, and no hook for any event
            cursor.position = cursor.ring.head
            return True
        run = cursor.ring.read(cursor.position, BATCH)
        if run is None or not run.is_plain or not run.types.isdisjoint(self.observers.types):
            return False
        cursor.position += len(run.events)
        return cursor.position >= cursor.ring.head

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
        """Ask the lane to call a function after the events emitted so far in a session; None calls nothing.

        The future has the result, the function's own exception, or TimedOut after `deadline` seconds; it is never done
        later than that. Cancelling it takes the request back, and interrupts the function if it runs already.
        """
        cursor = self._cursors.get(session_id) if session_id is not None else None
        # The head as it is now: the hook comes after what was emitted before this call, and waits for nothing later.
        request = FutureRequest(
            hook, function, arguments, is_async, scope or Scope(self.plugin, session_id, held=self._held),
            Answer(self._taken_back),
            cursor.ring if cursor else None, cursor.ring.head if cursor else 0,
        )  # fmt: skip
        if not self.is_open:
            request.settle(error=TimedOut(f"the lane of {self.plugin!r} is closed"))
            return request.future
        if is_async and function is not None and self._is_next(cursor):
            if cursor is not None:
                cursor.remember_origin(request.scope.origin)
            if self._runner.begin(request):
                return request.future
        if deadline is not None:
            self._runner.expect(request, deadline)
        self._requests.append(request)
        self._runner.wake()
        return request.future

    def _is_next(self, cursor: Cursor | None) -> bool:
        """Return whether a request has nothing to wait for: no hook, no other request, and no event of its session."""
        if self._requests or not self._runner.is_asleep:
            return False
        return cursor is None or cursor.position >= cursor.ring.head or self._passes_over(cursor)

    def _taken_back(self, future: Answer) -> None:
        request = self._runner.request
        if isinstance(request, FutureRequest) and request.future is future:
            self._runner.take_back(request)

    def change_observers(self, observers: Observers) -> None:
        """Use another table of hooks from the next event on; a hook that runs now goes on to its end."""
        self.observers = observers
        self._batch[:] = [event for event in self._cut_short() if self._still_wanted(event)]

    def _still_wanted(self, event: Event) -> bool:
        """Return whether an event of the run is still to be delivered, though its observers have changed."""
        if self.observers.wants(event):
            return True
        self._numbers = [number for number in self._numbers if number != event.seq]
        return False

    def check(self, now: float) -> None:
        """Interrupt a delivery that has not moved on since its deadline; `now` is the loop's time."""
        if self._runner.check(now):
            self._cut_short()  # so that whoever delivers sees when the hook has ended, though it raises nothing

    def _cut_short(self) -> list[Event]:
        """Let whoever delivers the batch look here again after the event that it is at; return what is left."""
        batch, now = self._batch, self._runner.scope.event if self._runner.scope is not None else None
        at = next((i for i, event in enumerate(batch) if event is now), -1)
        self._batch = batch[at + 1 :]
        # An iterator of a list looks at its length in each step, so this ends the loop that is at it.
        del batch[at + 1 :]
        return self._batch

    def abandon(self) -> None:
        """Deliver nothing any more, whatever the running hook does; what waits is answered."""
        self._runner.abandon()

    async def close(self) -> None:
        """End the lane's task; what waits is answered with TimedOut.

        Waits `GRACE` seconds for the running hook, and a tenth of a second more. Cancelling it only ends the waiting.
        """
        await self._runner.close()

    def _drop(self) -> None:
        self._batch.clear()
        running = self._runner.request
        waiting: list[HookRequest] = [*self._requests, *([running] if running is not None else [])]
        for request in waiting:
            request.settle(error=TimedOut(f"the plugin {self.plugin!r} was stopped"))
        self._requests.clear()

    # --- the task ---

    async def _work(self) -> None:
        while not self._runner.is_abandoned:
            if self._requests:
                await self._serve(self._requests[0])
            elif not await self._deliver_waiting():
                break
        self._since_pause = 0

    async def _deliver_waiting(self) -> bool:
        """Deliver one batch of each session that has events; return whether there is more to do."""
        for session_id in list(self._pending_sessions):
            # Before the delivery: what is emitted during it puts the session in again, behind the others.
            self._pending_sessions.pop(session_id, None)
            cursor = self._cursors.get(session_id)
            if cursor is not None and (before := cursor.position) < cursor.ring.head:
                await self._deliver(session_id, cursor, cursor.ring.head)
                if cursor.position < cursor.ring.head:
                    self._pending_sessions[session_id] = None
                self._since_pause += cursor.position - before
                if self._since_pause >= BATCH:  # after less, the lane will sleep soon enough
                    self._since_pause = 0
                    await asyncio.sleep(0)
            if self._requests:  # it need not wait for the events of the other sessions
                break
        return bool(self._pending_sessions or self._requests)

    async def _serve(self, request: FutureRequest) -> None:
        cursor = self._cursors.get(request.scope.session_id or "")
        # A session that was closed and opened again has another ring, in which the number means nothing.
        if cursor is not None and cursor.ring is request.ring:
            while cursor.position < request.after and not self._runner.is_abandoned:
                await self._deliver(request.scope.session_id or "", cursor, request.after)
        if self._runner.is_abandoned:
            return
        self._requests.popleft()  # not before: whatever ends the lane answers what is in there
        if cursor is not None and not request.is_over:
            cursor.remember_origin(request.scope.origin)
        await self._runner.serve(request)

    # --- delivery ---

    async def _deliver(self, session_id: str, cursor: Cursor, until: int) -> None:
        if not (cursor.recent_origin or self.observers.types):
            cursor.position = until
            return
        while (run := cursor.ring.read(cursor.position, BATCH, until)) is None:
            await self._deliver_dropped(session_id, cursor)
        end = cursor.position + len(run.events)
        try:
            if cursor.recent_origin:
                cursor.age_origin(run)
            if run.is_plain:
                await self._deliver_run(run.events, run.types, Scope(self.plugin, session_id))
            else:
                await self._deliver_caused(session_id, cursor, run)
        finally:
            self._runner.leave()
            # After a cancellation too: what may have been delivered is not delivered again.
            cursor.position = end

    async def _deliver_caused(self, session_id: str, cursor: Cursor, run: EventRun) -> None:
        """Deliver events, some of which plugins led to: one scope for each stretch with the same chain."""
        events = [event for event in run.events if not is_own(event, self.plugin)]
        cursor.remember_origin(
            max((event.origin for event in events if self.observers.wants(event)), key=len, default=())
        )
        start = 0
        for i in range(1, len(events) + 1):
            if i == len(events) or events[i].origin != events[start].origin:
                stretch = events[start:i]
                scope = Scope(self.plugin, session_id, stretch[0].origin)
                await self._deliver_run(stretch, frozenset([e.__class__ for e in stretch]), scope)
                start = i

    async def _deliver_run(self, events: list[Event], types: frozenset[type[Event]], scope: Scope) -> None:
        observers = self.observers
        wanted = types & observers.types
        if not wanted or self._runner.is_abandoned:
            return
        scope.held = self._held
        start, before = time.perf_counter(), self.delivered
        try:
            await self._deliver_wanted(observers, wanted, events, types, scope)
        finally:
            # One look at the clock for all of a run: they share what it took.
            if number := self.delivered - before:
                took = time.perf_counter() - start
                hook = observers.only_hook(next(iter(wanted))) if len(wanted) == 1 else None
                self._times.add(hook or SEVERAL, took / number, number)
                # Up to the one that it ended at; where events were lost, the one that says so has the number of one.
                if scope.event is not None and scope.event.__class__ is not EventsDropped:
                    begun = bisect_right(self._numbers, scope.event.seq)
                    self._receipts.add(scope.session_id or "", hook, took, self._numbers[:begun])

    async def _deliver_wanted(
        self,
        observers: Observers,
        wanted: frozenset[type[Event]],
        events: list[Event],
        types: frozenset[type[Event]],
        scope: Scope,
    ) -> None:
        if wanted.isdisjoint(observers.several):
            # A copy of its own, so that it can be cut short.
            self._batch = events.copy() if len(wanted) == len(types) else [e for e in events if e.__class__ in wanted]
            self.delivered += len(self._batch)
            self._numbers = numbers_of(self._batch)
            self._runner.enter(scope, observers.names)
            await self._deliver_fast(observers.single, scope, is_uniform=len(wanted) == 1)
        else:
            batch = [event for event in events if observers.wants(event)]
            self.delivered += len(batch)
            self._numbers = numbers_of(batch)
            self._runner.enter(scope)
            observe = self._runner.observe_in_thread if observers.is_all_sync else self._runner.observe
            await observe(self._at_each(batch, observers, scope))

    def _at_each(self, batch: list[Event], observers: Observers, scope: Scope) -> Iterator[tuple[Event, Hooks]]:
        for event in batch:
            scope.event = event
            if self.observers is observers or self._still_wanted(event):  # else it was taken from the plugin
                yield event, observers.handlers(event.__class__)

    async def _deliver_fast(self, single: Mapping[type[Event], Handler], scope: Scope, *, is_uniform: bool) -> None:
        """Await one asynchronous hook for each event, with nothing else in the loop: 80 ns an event (benchmarks)."""
        batch = self._batch
        iterator = iter(batch)
        only = single[batch[0].__class__] if is_uniform else None
        while True:
            try:
                if only is not None:
                    for event in iterator:
                        scope.event = event
                        await only(event)
                else:
                    for event in iterator:
                        scope.event = event
                        await single[event.__class__](event)
            except BaseException as error:  # noqa: BLE001 - sorted in `failed`; a plugin may raise anything
                self._runner.failed(error, scope.event)
            else:
                if self._batch is batch:
                    return
                self._runner.ended()
                batch = self._batch  # it was cut short
                iterator = iter(batch)

    async def _deliver_dropped(self, session_id: str, cursor: Cursor) -> None:
        event = cursor.skip_dropped(self.plugin, session_id)
        self.dropped += event.count
        await self._deliver_run([event], frozenset((event.__class__,)), Scope(self.plugin, session_id))
