"""A lane carries events to one plugin and keeps its hooks from overlapping.

One task for each plugin takes events from the sessions' rings, in order of `seq`, and answers requests (gates,
transforms, lifecycle) after the events that were emitted before them. An asynchronous hook is awaited right in the
task: no task, timer or future for each event. The watchdog looks from outside which event a lane is at, and
interrupts one that stays there past its deadline; what does not react to the interruption is abandoned.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.contract.values.errors import PluginError, TimedOut
from ally_plugins.contract.values.events import Event
from ally_plugins.contract.values.scope import SCOPE, Scope

from .cursor import Cursor
from .observers import Observers, is_own
from .requests import Crash, HookCancelled, HookExit, Request
from .teardown import is_at_work, is_torn_down, put_down
from .thread import Worker

if TYPE_CHECKING:
    from .ring import Ring, Run

__all__ = ["BATCH", "GRACE", "Crash", "HookCancelled", "Lane", "Request"]

BATCH: Final = 512
"""Events that a lane delivers before it lets the loop do something else: about 40 µs of no-op hooks."""

GRACE: Final = 1.0
"""Seconds that an interrupted hook has to end, before it is abandoned and its plugin quarantined."""


@define(eq=False)
class _Interruption:
    """A cancellation of ours that has not been taken back, and the place that the hook was at."""

    request: Request | None
    scope: Scope | None
    event: Event | None
    error: TimedOut


class Lane:
    """The lane of one plugin; it lives from the plugin's start to its stop, and belongs to one loop."""

    def __init__(
        self,
        plugin: str,
        observers: Observers,
        *,
        on_crash: Callable[[Crash], None],
        deadline: Callable[[str], float],
    ) -> None:
        self.plugin = plugin
        self.observers = observers
        self.delivered = 0
        self.dropped = 0
        self._on_crash = on_crash
        self._deadline = deadline
        self._worker = Worker(f"ally-{plugin}")
        self._cursors: dict[str, Cursor] = {}
        self._told: dict[str, None] = {}
        """The sessions that may have events for it; a host has many that are idle."""
        self._requests: deque[Request] = deque()
        self._current: Request | None = None
        self._scope: Scope | None = None
        self._hook = ""
        self._held = frozenset((plugin,))
        self._since_pause = 0
        self._batch: list[Event] = []
        self._in_thread = False
        self._interruption: _Interruption | None = None
        self._is_closing = False
        self._is_abandoned = False
        self._sleeper: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen: object = None
        self._seen_at = 0.0

    # --- what the session and the dispatcher call ---

    def start(self) -> None:
        """Begin to work; must be called on the loop that the lane belongs to."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name=f"ally-lane-{self.plugin}")

    @property
    def is_open(self) -> bool:
        """Whether the lane takes events and requests."""
        return self._task is not None and not self._is_closing and not self._is_abandoned

    @property
    def is_busy(self) -> bool:
        """Whether something is being delivered or waits."""
        return self._scope is not None or self._sleeper is None

    def attach(self, session_id: str, ring: Ring) -> None:
        """Carry a session's events from here on."""
        self._cursors[session_id] = Cursor(ring, ring.head)

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events."""
        self._cursors.pop(session_id, None)
        self._told.pop(session_id, None)

    def position(self, session_id: str) -> int | None:
        """Return the number of the last event of a session that was delivered, None when it is not attached."""
        cursor = self._cursors.get(session_id)
        return None if cursor is None else cursor.position

    def has_heard(self, session_id: str, number: int) -> bool:
        """Say whether every event of a session up to this number was delivered."""
        return (self.position(session_id) or 0) >= number

    def recent_origin(self, session_id: str) -> tuple[str, ...]:
        """Return the longest chain of plugins that led to what was lately delivered in a session."""
        cursor = self._cursors.get(session_id)
        return () if cursor is None else cursor.recent_origin

    def is_at(self, scope: Scope) -> bool:
        """Say whether the hook that the scope belongs to is the one that runs now."""
        return scope is self._scope or (self._current is not None and scope is self._current.scope)

    def tell(self, session_id: str) -> bool:
        """Say that a session has emitted; a lane that sleeps goes on sleeping when it hears nothing of that kind."""
        cursor = self._cursors.get(session_id)
        if cursor is None or (self._sleeper is not None and self._passes_over(cursor)):
            return False
        self._told[session_id] = None
        self._awake()
        return True

    def _awake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _passes_over(self, cursor: Cursor) -> bool:
        """Go on after events that nobody here hears, without the task; say whether that was all of them."""
        if cursor.recent_origin:  # they count for what the plugin may still answer
            return False
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
        loop = asyncio.get_running_loop()
        cursor = self._cursors.get(session_id) if session_id is not None else None
        request = Request(
            hook, function, arguments, is_async, loop.create_future(),
            scope or Scope(self.plugin, session_id, held=frozenset((self.plugin,))),
            cursor.ring if cursor else None, cursor.ring.head if cursor else 0,
        )  # fmt: skip
        if not self.is_open:
            request.settle(error=TimedOut(f"the lane of {self.plugin!r} is closed"))
            return request.future
        if deadline is not None:
            request.timer = loop.call_later(deadline, self._expire, request, deadline)
        request.future.add_done_callback(partial(self._taken_back, request))
        self._requests.append(request)
        self._awake()
        return request.future

    def change_observers(self, observers: Observers) -> None:
        """Hear by another table from the next event on; what the plugin works at now goes on to its end."""
        self.observers = observers
        if not self._in_thread and self._scope is not None:  # a thread looks by itself, for each event
            now = self._scope.event
            at = next((i for i, event in enumerate(self._batch) if event is now), -1)
            self._batch[at + 1 :] = [event for event in self._batch[at + 1 :] if observers.wants(event)]

    def check(self, now: float) -> None:
        """Interrupt a delivery that has not moved on since its deadline; `now` is the loop's time."""
        event = self._scope.event if self._scope is not None else None
        if event is None or self._current is not None or event is not self._seen:
            self._seen, self._seen_at = event, now
        elif now - self._seen_at >= self._deadline(self._hook_of(event)):
            self._seen_at = now
            hook = self._hook_of(event)
            error = TimedOut(f"{hook} took longer than {self._deadline(hook):g} s")
            self._interrupt(hook, error, event)

    def abandon(self) -> None:
        """Deliver nothing any more, whatever the running hook does; what waits is answered."""
        self._let_go_of_all()
        if self._task is not None:
            self._task.cancel()
        self._awake()

    def _let_go_of_all(self) -> None:
        self._is_abandoned = True
        self._batch.clear()
        for request in [*self._requests, *([self._current] if self._current else [])]:
            request.settle(error=TimedOut(f"the plugin {self.plugin!r} was stopped"))
        self._requests.clear()
        self._worker.close()

    async def close(self) -> None:
        """End the lane's task; what waits is answered with TimedOut. Waits `GRACE` for a hook, and a tenth more."""
        self._is_closing = True
        self.abandon()
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task], timeout=GRACE)
            if not self._task.done():
                await put_down(self._task)

    # --- the task ---

    async def _work(self) -> None:
        try:
            while not self._is_abandoned:
                try:
                    if self._requests:
                        await self._serve(self._requests[0])
                    elif not await self._deliver_waiting():
                        await self._sleep()
                except Exception as error:  # noqa: BLE001 - a fault of ours; the plugin must not hang for it
                    self._give_up("lane", error, None)
        finally:
            self._let_go_of_all()  # whatever ended it: nobody may wait for a lane that is no more

    async def _sleep(self) -> None:
        self._since_pause = 0
        self._sleeper = asyncio.get_running_loop().create_future()
        try:
            await self._sleeper
        finally:
            self._sleeper = None

    async def _deliver_waiting(self) -> bool:
        """Deliver one batch of each session that has events; say whether there is more to do."""
        for session_id in list(self._told):
            self._told.pop(session_id, None)
            cursor = self._cursors.get(session_id)
            if cursor is not None and (before := cursor.position) < cursor.ring.head:
                await self._deliver(session_id, cursor, cursor.ring.head)
                if cursor.position < cursor.ring.head:
                    self._told[session_id] = None
                self._since_pause += cursor.position - before
                if self._since_pause >= BATCH:  # after less, the lane will sleep soon enough
                    self._since_pause = 0
                    await asyncio.sleep(0)
            if self._requests:
                break
        return bool(self._told or self._requests)

    async def _serve(self, request: Request) -> None:
        cursor = self._cursors.get(request.scope.session_id or "")
        if cursor is not None and cursor.ring is request.ring:
            while cursor.position < request.after and not self._is_abandoned:
                await self._deliver(request.scope.session_id or "", cursor, request.after)
        if self._is_abandoned:
            return
        self._requests.popleft()  # not before: whatever ends the lane answers what is in there
        if request.is_over:
            return
        self._current = request
        if cursor is not None:
            cursor.is_recent(request.scope.origin)
        try:
            request.settle(await self._call(request))
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit included
            self._raise_what_is_not_the_plugins(error, None)
            is_cancel = isinstance(error, asyncio.CancelledError)
            request.settle(error=HookCancelled("the hook raised CancelledError") if is_cancel else HookExit.wrap(error))
        finally:
            # Here the hook has ended, so that what it did with an interruption no longer matters.
            self._was_interrupted()
            self._current = None

    async def _call(self, request: Request) -> Any:
        function = request.function
        if function is None:
            return None
        SCOPE.set(request.scope)
        if request.is_async:
            return await function(*request.arguments)
        self._in_thread = True
        try:
            return await self._worker.run(lambda: _plain(request.hook, function(*request.arguments)))
        finally:
            self._in_thread = False

    # --- delivery ---

    async def _deliver(self, session_id: str, cursor: Cursor, until: int) -> None:
        while (run := cursor.ring.read(cursor.position, BATCH, until)) is None:
            await self._tell_dropped(session_id, cursor)
        end = cursor.position + len(run.events)
        try:
            if cursor.recent_origin:
                cursor.grow_old(run)
            if run.is_plain:
                await self._deliver_run(run.events, run.types, Scope(self.plugin, session_id))
            else:
                await self._deliver_caused(session_id, cursor, run)
        finally:
            self._scope = None
            cursor.position = end

    async def _deliver_caused(self, session_id: str, cursor: Cursor, run: Run) -> None:
        """Deliver events, some of which plugins led to: one scope for each stretch with the same chain."""
        events = [event for event in run.events if not is_own(event, self.plugin)]
        cursor.is_recent(max((event.origin for event in events if self.observers.wants(event)), key=len, default=()))
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
        if not wanted or self._is_abandoned:
            return
        scope.held = self._held
        self._scope = scope
        SCOPE.set(scope)
        if wanted.isdisjoint(observers.several):
            # A copy of its own, so that `abandon` can end the loop below from outside.
            batch = events.copy() if len(wanted) == len(types) else [e for e in events if e.__class__ in wanted]
            await self._deliver_fast(batch, observers.single, scope, is_uniform=len(wanted) == 1)
        else:
            batch = [event for event in events if observers.wants(event)]
            await (self._deliver_in_thread if observers.is_all_sync else self._deliver_mixed)(batch, scope)

    async def _deliver_fast(
        self, batch: list[Event], single: Mapping[type[Event], Any], scope: Scope, *, is_uniform: bool
    ) -> None:
        """Await one asynchronous hook for each event, with nothing else in the loop: 80 ns an event (benchmarks)."""
        self._batch = batch
        self.delivered += len(batch)
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
            except BaseException as error:  # noqa: BLE001 - sorted in _failed; a plugin may raise anything
                self._failed(error, scope.event)
            else:
                return

    async def _deliver_mixed(self, batch: list[Event], scope: Scope) -> None:
        self._batch = batch
        self.delivered += len(batch)
        for event in batch:
            scope.event = event
            for hook, function, is_async in self.observers.handlers(event.__class__):
                if self._is_abandoned:
                    return
                self._hook = hook
                try:
                    if is_async:
                        await function(event)
                    else:
                        self._in_thread = True
                        await self._worker.run(partial(_call_plain, hook, function, event))
                except BaseException as error:  # noqa: BLE001 - sorted in _failed; a plugin may raise anything
                    self._failed(error, event)
                finally:
                    self._in_thread = False
        self._hook = ""

    async def _deliver_in_thread(self, batch: list[Event], scope: Scope) -> None:
        """Hand a whole batch to the plugin's thread: one switch for all of it, not one an event."""
        self._batch = batch
        self.delivered += len(batch)
        loop = asyncio.get_running_loop()
        observers = self.observers

        def deliver() -> None:
            for event in batch:
                scope.event = event
                if self.observers is not observers and not self.observers.wants(event):
                    continue  # it was taken from the plugin meanwhile
                for hook, function, _ in observers.handlers(event.__class__):
                    self._hook = hook
                    try:
                        _plain(hook, function(event))
                    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                        loop.call_soon_threadsafe(self._report, hook, error, event)
            self._hook = ""

        self._in_thread = True
        try:
            await self._worker.run(deliver)
        finally:
            self._in_thread = False

    async def _tell_dropped(self, session_id: str, cursor: Cursor) -> None:
        event = cursor.skip_dropped(self.plugin, session_id)
        self.dropped += event.count
        await self._deliver_run([event], frozenset((event.__class__,)), Scope(self.plugin, session_id))

    # --- failures ---

    def _hook_of(self, event: Event) -> str:
        handlers = self.observers.handlers(event.__class__)
        return self._hook or (handlers[0][0] if handlers else "ally_event")

    def _failed(self, error: BaseException, event: Event | None) -> None:
        """Take what a hook raised: go on after a crash or our own interruption, raise what is not the plugin's."""
        if not self._raise_what_is_not_the_plugins(error, event):
            self._report(self._hook_of(event) if event is not None else self._hook, error, event)

    def _raise_what_is_not_the_plugins(self, error: BaseException, event: Event | None) -> bool:
        """Raise the error if it is meant for the lane itself; say whether it came of an interruption.

        KeyboardInterrupt is the person's: it ends the lane and goes on to the loop. (In the plugin's own thread it can
        only be the plugin's, and is a crash.)
        """
        if isinstance(error, KeyboardInterrupt):
            raise error
        if isinstance(error, GeneratorExit) and not is_at_work(self._task):
            raise error  # the coroutine is being closed
        if self._was_interrupted():  # whatever the hook made of it
            return True
        if isinstance(error, asyncio.CancelledError) and self._is_cancelled():
            if not (self._is_abandoned or is_torn_down()):
                hook = self._hook_of(event) if event is not None else self._current.hook if self._current else ""
                self._give_up(hook, HookCancelled("the hook cancelled the task that it runs in"), event)
            raise error
        return False

    def _is_cancelled(self) -> bool:
        """Say whether the lane's task was cancelled, other than by an interruption that is not yet taken back."""
        ours = 1 if self._interruption is not None else 0
        return self._is_abandoned or (self._task is not None and self._task.cancelling() > ours)

    def _report(self, hook: str, error: BaseException, event: Event | None) -> None:
        if not self._is_abandoned:
            self._on_crash(Crash(self.plugin, hook, error, event))

    def _taken_back(self, request: Request, future: asyncio.Future[Any]) -> None:
        """Nobody waits for the answer any more: interrupt a hook that works on it (a thread has until its deadline)."""
        if future.cancelled() and request is self._current and not self._in_thread:
            self._interrupt(request.hook, TimedOut(f"{request.hook} was taken back"), None)

    def _expire(self, request: Request, deadline: float) -> None:
        error = TimedOut(f"{request.hook} did not answer within {deadline:g} s")
        request.settle(error=error)
        if request is self._current:
            self._interrupt(request.hook, error, None)

    def _interrupt(self, hook: str, error: TimedOut, event: Event | None) -> None:
        if self._is_abandoned:
            return
        if self._in_thread or self._task is None:
            self._give_up(hook, error, event)
            return
        if self._interruption is not None:
            if self._is_still_at(self._interruption):
                return  # its grace decides
            self._was_interrupted()  # that hook swallowed its cancellation, but it did end
        if event is not None:
            self._on_crash(Crash(self.plugin, hook, error, event))
        if self._is_abandoned:  # that was one crash too many
            return
        self._interruption = here = _Interruption(self._current, self._scope, event, error)
        self._task.cancel()
        asyncio.get_running_loop().call_later(GRACE, self._check_reaction, here, hook)

    def _is_still_at(self, place: _Interruption) -> bool:
        if place.request is not None:
            return self._current is place.request
        return self._scope is place.scope and place.scope is not None and place.scope.event is place.event

    def _check_reaction(self, place: _Interruption, hook: str) -> None:
        if self._interruption is not place or self._is_abandoned:
            return
        if self._is_still_at(place):
            self._give_up(hook, place.error, place.event)
        else:
            self._was_interrupted()  # it swallowed the cancellation, but it did end

    def _give_up(self, hook: str, error: Exception, event: Event | None) -> None:
        self._on_crash(Crash(self.plugin, hook, error, event, is_final=True))
        self.abandon()

    def _was_interrupted(self) -> bool:
        """Say whether an interruption was under way here, and take it back so that later timeouts in hooks work."""
        place, self._interruption = self._interruption, None
        if place is None:
            return False
        if self._task is not None:
            self._task.uncancel()
        return self._is_still_at(place)


def _call_plain(hook: str, function: Callable[..., Any], event: Event) -> None:
    _plain(hook, function(event))


def _plain(hook: str, result: Any) -> Any:
    """Return what a `def` hook returned; a coroutine would be awaited by nobody."""
    if inspect.iscoroutine(result):
        result.close()
        raise PluginError(f"{hook} returned a coroutine that nobody awaits; write `async def {hook}`")
    return result
