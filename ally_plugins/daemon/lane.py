"""The lane of this process: hooks never overlap and run in the order in which the host sent things.

One task awaits asynchronous hooks directly, with no task or timer for each; `def` hooks run in one thread, a run of
events at once. One timer watches which call runs, and interrupts it past its deadline. A hook that ignores that for
`GRACE` seconds, or a thread past its deadline, which nothing can stop, is the end of the process: `on_crash` is told
that it is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from ally_plugins.contract.values.errors import EventError, TimedOut
from ally_plugins.contract.values.eventjson import event_from_params
from ally_plugins.contract.values.events import Event, EventsDropped
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.runtime.lanes.thread import HookExit, Worker

from .backlog import Backlog
from .logs import say
from .questions import Call, HookCancelled, Question, TakenBack, returned

__all__ = ["GRACE", "Handlers", "Lane"]

GRACE: Final = 1.0
"""Seconds that an interrupted hook has to end; the same as inline."""

BATCH: Final = 64
"""Events that a lane delivers before it lets the loop do something else: about a millisecond of small hooks."""

_SHORTEST_TICK: Final = 0.01
_LONGEST_TICK: Final = 1.0

_Item = dict[str, Any] | EventsDropped

Handlers = Callable[[str], tuple[tuple[str, Callable[..., Any], bool], ...]]
"""Which hooks hear an event of a type, in their order: name, function, is it asynchronous."""


class OnCrash(Protocol):
    """Is told what went wrong in a hook that nobody waits for, or with `is_final` that the process cannot go on."""

    def __call__(self, hook: str, error: BaseException, event_id: str | None, *, is_final: bool = False) -> None:
        """Take a crash; from the loop's thread only."""


class Lane:
    """The lane of the plugin in this process; it lives as long as the plugin, and belongs to one loop."""

    def __init__(
        self,
        plugin: str,
        handlers: Handlers,
        deadlines: Mapping[str, float],
        *,
        on_crash: OnCrash,
        on_handled: Callable[[str], None],
    ) -> None:
        self.plugin = plugin
        self.backlog = Backlog(plugin)
        self._handlers = handlers
        self._deadlines = deadlines
        self._on_crash = on_crash
        self._on_handled = on_handled
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(f"ally-{plugin}")
        self._call: Call | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick = min(_LONGEST_TICK, max(_SHORTEST_TICK, min([*deadlines.values(), 30.0]) / 10))
        self._is_closing = False
        self._task = self._loop.create_task(self._work(), name=f"ally-lane-{plugin}")

    # --- what comes from the host ---

    def add_event(self, params: dict[str, Any]) -> None:
        """Deliver an event after what came before."""
        self.backlog.add_event(params)
        self._wake()

    def ask(self, question: Question, *, is_first: bool = False) -> None:
        """Ask a question after what came before, or with `is_first` after the hook that runs now."""
        if self._is_closing:
            question.settle(error=TakenBack("the plugin is being stopped"))
            return
        question.ends = self._loop.time() + question.deadline
        self.backlog.add_question(question, is_first=is_first)
        self._wake()

    def take_back(self, question: Question) -> None:
        """Do not ask a question any more; interrupt a hook that works on it (a thread has until its deadline)."""
        question.is_over = True
        call = self._call
        if call is not None and call.question is question and call.is_async:
            self._interrupt(call, TakenBack(f"{call.hook} was taken back"))

    async def close(self) -> None:
        """Call nothing any more. A hook that runs is cancelled and has `GRACE` seconds to end."""
        self._is_closing = True
        running = self._call.question if self._call is not None else None
        for question in [*self.backlog.clear(), *([running] if running is not None else [])]:
            question.settle(error=TakenBack("the plugin is being stopped"))
        self._worker.close()
        self._task.cancel()
        await asyncio.wait([self._task], timeout=GRACE)
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    # --- the task ---

    async def _work(self) -> None:
        try:
            while not self._is_closing:
                await self._work_off()
                self._sleeper = self._loop.create_future()
                await self._sleeper
                self._sleeper = None
        except Exception as error:  # noqa: BLE001 - a fault of ours; the plugin must not hang for it
            self._on_crash("lane", error, None, is_final=True)

    async def _work_off(self) -> None:
        done = 0
        while self.backlog and not self._is_closing:
            item = self.backlog.take()
            if isinstance(item, Question):
                await self._serve(item)
            else:
                await self._deliver(item)
            done += 1
            if done % BATCH == 0:
                await asyncio.sleep(0)

    async def _serve(self, question: Question) -> None:
        if question.is_over:
            return
        if question.function is None:
            question.settle()
            return
        call = Call(question.hook, question.ends, is_async=question.is_async, question=question)
        try:
            result = await self._run(call, question.scope, question.function, question.arguments)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            question.settle(error=error)
        else:
            question.settle(result)

    async def _deliver(self, item: _Item) -> None:
        handlers = self._handlers_of(item)
        if handlers and not any(is_async for _, _, is_async in handlers):
            await self._deliver_in_thread([item, *self.backlog.take_events(BATCH, self._is_for_thread)])
            return
        event = self._read(item) if handlers else None
        if event is not None:
            scope = _scope_of(self.plugin, event)
            for hook, function, is_async in handlers:
                call = Call(hook, self._loop.time() + self._deadline(hook), is_async=is_async, event=event)
                try:
                    await self._run(call, scope, function, (event,))
                except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                    self._crashed(call, error)
        self._handled(item)

    async def _deliver_in_thread(self, items: list[_Item]) -> None:
        """Hand a run of events to the thread: one switch for all of them."""
        later = self._loop.call_soon_threadsafe

        def deliver() -> None:
            for item, event in events:
                if event is not None:
                    SCOPE.set(_scope_of(self.plugin, event))
                    for hook, function, _ in self._handlers_of(item):
                        ends = self._loop.time() + self._deadline(hook)
                        self._call = call = Call(hook, ends, is_async=False, event=event)
                        try:
                            returned(hook, function(event))
                        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                            later(self._crashed, call, error)
                later(self._handled, item)

        events = [(item, self._read(item)) for item in items]
        self._watch()
        try:
            await self._worker.run(deliver)
        finally:
            self._call = None

    def _handlers_of(self, item: _Item) -> tuple[tuple[str, Callable[..., Any], bool], ...]:
        event_type = item.get("event_type") if isinstance(item, dict) else item.type
        return self._handlers(event_type) if isinstance(event_type, str) else ()

    def _is_for_thread(self, params: dict[str, Any]) -> bool:
        return not any(is_async for _, _, is_async in self._handlers_of(params))

    # --- one call ---

    async def _run(self, call: Call, scope: Scope, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call a hook and return what it returns. Raises what it raises, as an Exception, or why it was interrupted."""
        SCOPE.set(scope)
        self._call = call
        self._watch()
        try:
            if call.is_async:
                return await function(*arguments)
            return await self._worker.run(lambda: returned(call.hook, function(*arguments)))
        except BaseException as error:
            meant = self._sorted(call, error)
            if meant is error:
                raise
            raise meant from error
        finally:
            self._call = None
            if call.interruption is not None:
                self._task.uncancel()  # or a timeout in a later hook would take this for its own

    def _sorted(self, call: Call, error: BaseException) -> BaseException:
        """Return what an error of a hook means: an interruption, the lane's end, or the hook's own fault."""
        if call.interruption is not None:
            return call.interruption
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)) and self._is_closing:
            return error
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled_by_hook(call)
        # A plugin's sys.exit must not end the loop.
        return error if isinstance(error, Exception) else HookExit(error)

    def _cancelled_by_hook(self, call: Call) -> HookCancelled:
        if not self._task.cancelling():
            return HookCancelled("the hook raised CancelledError")
        while self._task.uncancel():
            pass
        error = HookCancelled("the hook cancelled the task that it runs in")
        self._on_crash(call.hook, error, call.event_id, is_final=True)
        return error

    def _read(self, item: _Item) -> Event | None:
        if isinstance(item, EventsDropped):
            return item
        try:
            return event_from_params(item)
        except EventError as error:
            say(f"an event could not be read: {error}")  # the host's fault, and no crash of the plugin's
            return None

    def _handled(self, item: _Item) -> None:
        offset = item.get("offset") if isinstance(item, dict) else None
        if isinstance(offset, str):
            self._on_handled(offset)

    def _crashed(self, call: Call, error: BaseException) -> None:
        """Report a hook that nobody waits for; an interruption was reported when it was made."""
        if error is not call.interruption:
            self._on_crash(call.hook, error, call.event_id)

    def _deadline(self, hook: str) -> float:
        return self._deadlines.get(hook) or self._deadlines.get("observe", 30.0)

    # --- deadlines ---

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick, self._look)

    def _look(self) -> None:
        self._timer = None
        call = self._call
        if self._sleeper is None:
            self._watch()
        if call is None or self._loop.time() < call.ends:
            return
        if call.interruption is not None:
            self._on_crash(call.hook, call.interruption, call.event_id, is_final=True)
            return
        seconds = self._deadline(call.hook) if call.question is None else call.question.deadline
        error = TimedOut(f"{call.hook} took longer than {seconds:g} s")
        if call.question is not None:
            call.question.settle(error=error)
        if call.is_async:
            if call.question is None:
                self._on_crash(call.hook, error, call.event_id)
            self._interrupt(call, error)
        else:
            self._on_crash(call.hook, error, call.event_id, is_final=True)

    def _interrupt(self, call: Call, error: Exception) -> None:
        if call.interruption is None:
            call.interruption = error
            call.ends = self._loop.time() + GRACE
            self._task.cancel()


def _scope_of(plugin: str, event: Event) -> Scope:
    return Scope(plugin, event.session_id, event.origin, frozenset((plugin,)), event)
