"""The lane of this process: hooks never overlap and run in the order in which the host sent things.

Its runner runs them as the host runs those of its inline plugins; of `def` hooks, a run of events at once. What cannot
be interrupted is the end of the process: `on_crash` is given a crash that is final.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.eventjson import event_from_params
from ally_plugins.contract.values.events import Event, EventsDropped
from ally_plugins.contract.values.scope import Scope
from ally_plugins.runtime.lanes.requests import Crash, HookRequest, TakenBack
from ally_plugins.runtime.lanes.runner import Hooks, Runner
from ally_plugins.runtime.lanes.watchdog import Watchdog

from .backlog import Backlog
from .logs import write_stderr

__all__ = ["AnsweredRequest", "ProcessLane"]

BATCH: Final = 64
"""Events that a lane delivers before it lets the loop do something else: about a millisecond of small hooks."""

OBSERVE: Final = 30.0
"""Seconds that a hook has for an event where the host names no deadline."""

_Item = dict[str, Any] | EventsDropped


class AnsweredRequest(HookRequest):
    """One whose result or error `answer` gets, once."""

    __slots__ = ("_answer", "_is_over")

    def __init__(
        self,
        hook: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...],
        is_async: bool,  # noqa: FBT001 - see HookRequest
        scope: Scope,
        answer: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.hook = hook
        self.function = function
        self.arguments = arguments
        self.is_async = is_async
        self.scope = scope
        self._answer = answer
        self._is_over = False

    @property
    @override
    def is_over(self) -> bool:
        """Whether it was answered or taken back."""
        return self._is_over

    def take_back(self) -> None:
        """Drop the answer: the host has cancelled the request."""
        self._is_over = True

    @override
    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the answer, unless nobody waits for it."""
        if not self._is_over:
            self._is_over = True
            self._answer(result, error)


class ProcessLane:
    """The lane of the plugin in this process; it lives as long as the plugin, and belongs to one loop.

    `hooks_of` returns the hooks for an event type. `on_handled` is called with the offset of each durable event,
    `on_observed` with each event, the hook where it was one alone, and the seconds that it took.
    """

    def __init__(
        self,
        plugin: str,
        hooks_of: Callable[[str], Hooks],
        deadlines: Mapping[str, float],
        *,
        on_crash: Callable[[Crash], None],
        on_handled: Callable[[str], None],
        on_observed: Callable[[Event, str | None, float], None],
    ) -> None:
        self.plugin = plugin
        self.backlog = Backlog(plugin)
        self._hooks_of_type = hooks_of
        self._held = frozenset((plugin,))
        self._deadlines = deadlines
        self._on_handled = on_handled
        self._on_observed = on_observed
        self._loop = asyncio.get_running_loop()
        # Nothing is passed on: Ctrl-C is the host's business, and a KeyboardInterrupt here the plugin's.
        self._runner = Runner(plugin, self._work, self._drop, on_crash=on_crash, deadline=self._deadline, passes_on=())
        self._watchdog = Watchdog(lambda: (self._runner,), lambda: min([*deadlines.values(), OBSERVE]))
        self._runner.start()

    # --- what comes from the host ---

    def add_event(self, params: dict[str, Any]) -> None:
        """Deliver an event after what came before."""
        self.backlog.add_event(params)
        self._wake()

    def submit(self, request: HookRequest, deadline: float | None, *, is_first: bool = False) -> None:
        """Answer a request after what came before, or with `is_first` after the hook that runs now.

        It is answered with TimedOut after `deadline` seconds, and with TakenBack when the lane is closed.
        """
        # A request that crossed the end of the lane: no turn would come for it.
        if not self._runner.is_open:
            request.settle(error=_stopped())
            return
        is_next = not self.backlog and self._runner.is_asleep
        if is_next and request.is_async and request.function is not None and self._runner.begin(request):
            return
        if deadline is not None:
            self._runner.expect(request, deadline)
        self.backlog.add_request(request, is_first=is_first)
        self._wake()

    def take_back(self, request: AnsweredRequest) -> None:
        """Do not answer a request any more; interrupt a hook that works on it (a thread has until its deadline)."""
        # First, so that what the interrupted hook raises is no answer any more.
        request.take_back()
        self._runner.take_back(request)

    async def close(self) -> None:
        """Call nothing any more. A hook that runs is cancelled and has `GRACE` seconds to end.

        Cancelling it only ends the waiting.
        """
        await self._runner.close()
        self._watchdog.close()

    def _wake(self) -> None:
        self._runner.wake()
        self._watchdog.arm()

    def _drop(self) -> None:
        # The running one too: a hook that ignores its cancellation would leave the host without an answer.
        running = self._runner.request
        for request in [*self.backlog.clear(), *([running] if running is not None else [])]:
            request.settle(error=_stopped())

    # --- the task ---

    async def _work(self) -> None:
        done = 0
        while self.backlog:
            item = self.backlog.take()
            # Not `isinstance(item, HookRequest)`: of an abstract class, that takes half a microsecond for each item.
            if isinstance(item, (dict, EventsDropped)):
                await self._deliver(item)
            else:
                await self._runner.serve(item)
            done += 1
            if done % BATCH == 0:
                await asyncio.sleep(0)

    async def _deliver(self, item: _Item) -> None:
        hooks = self._hooks_of(item)
        if hooks and self._is_for_thread(item):
            items = [item, *self.backlog.take_events(BATCH, self._is_for_thread)]
            read = [(each, self._read(each)) for each in items]  # here: the thread would contend for the interpreter
            await self._runner.observe_in_thread(self._at_each(read))
            self._runner.leave()
            return
        event = self._read(item) if hooks else None
        if event is not None:
            self._enter(event)
            start = time.perf_counter()
            await self._runner.observe(((event, hooks),))
            self._observed(event, hooks, time.perf_counter() - start)
            self._runner.leave()
        # Also one that no hook wants or that cannot be read: a durable event would come again for ever.
        self._handled(item)

    def _at_each(self, items: list[tuple[_Item, Event | None]]) -> Iterator[tuple[Event, Hooks]]:
        for item, event in items:
            if event is not None:
                self._enter(event)
                hooks, start = self._hooks_of(item), time.perf_counter()
                yield event, hooks
                self._loop.call_soon_threadsafe(self._observed, event, hooks, time.perf_counter() - start)
            # Reached when the hooks of the event have ended; not for a lane that is abandoned, whose event comes again.
            self._loop.call_soon_threadsafe(self._handled, item)

    def _observed(self, event: Event, hooks: Hooks, seconds: float) -> None:
        self._on_observed(event, hooks[0][0] if len(hooks) == 1 else None, seconds)

    def _enter(self, event: Event) -> None:
        self._runner.enter(Scope(self.plugin, event.session_id, event.origin, self._held, event))

    def _hooks_of(self, item: _Item) -> Hooks:
        event_type = item.get("event_type") if isinstance(item, dict) else item.type
        return self._hooks_of_type(event_type) if isinstance(event_type, str) else ()

    def _is_for_thread(self, item: _Item) -> bool:
        return not any(is_async for _, _, is_async in self._hooks_of(item))

    def _read(self, item: _Item) -> Event | None:
        if isinstance(item, EventsDropped):
            return item
        try:
            return event_from_params(item)
        except EventError as error:
            write_stderr(f"an event could not be read: {error}")  # the host's fault, and no crash of the plugin's
            return None

    def _handled(self, item: _Item) -> None:
        offset = item.get("offset") if isinstance(item, dict) else None
        if isinstance(offset, str):
            self._on_handled(offset)

    def _deadline(self, hook: str) -> float:
        return self._deadlines.get(hook) or self._deadlines.get("observe", OBSERVE)


def _stopped() -> TakenBack:
    return TakenBack("the plugin is being stopped")
