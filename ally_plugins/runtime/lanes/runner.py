"""Runs the hooks of one plugin, one at a time: the part that a lane in the host and one in a daemon's process share.

One task awaits `async def` hooks directly, with no task, timer or future for each; `def` hooks run in one thread. A
hook past its deadline is interrupted, which is to cancel the task while the hook runs in it, and is abandoned when it
has not ended `GRACE` seconds later. A thread cannot be interrupted and is abandoned at once. Where the hooks come from
is the lane's business, and what a crash leads to is that of `on_crash`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.errors import PluginError, TimedOut
from ally_plugins.contract.values.scope import SCOPE, Scope

from .first_step import Begun, run_as
from .marks import HOOK, OBSERVING, UNMARKED, Slot, hook_number
from .requests import Crash, HookCancelled, HookRequest, TakenBack
from .teardown import is_at_work, is_torn_down, kill_task
from .thread import HookExit, Worker

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

__all__ = ["GRACE", "Hooks", "Runner"]

GRACE: Final = 1.0
"""Seconds that an interrupted hook has to end, before it is abandoned."""

Hooks = tuple[tuple[str, Callable[..., Any], bool], ...]
"""The hooks for an event, in the order in which they are called: name, function, is it asynchronous."""

_CANCELLED_ITSELF: Final = "the hook cancelled the task that it runs in"
_NO_NAMES: Final[Mapping[type[Event], str]] = {}


class Runner:
    """Runs what its lane brings it; it lives as long as the lane, from `start` to `close`, and belongs to one loop.

    `work` does what is due and returns when there is no more; the task sleeps then until `wake`. `drop` answers what
    waits, the running request too, when nothing is run any more. `deadline` gives the seconds that a hook has for
    an event. `passes_on` are exceptions that are nobody's crash: they end the task, and the loop with it. `slot` says
    to whoever comes after a crash of the process what ran.
    """

    def __init__(
        self,
        plugin: str,
        work: Callable[[], Awaitable[None]],
        drop: Callable[[], None],
        *,
        on_crash: Callable[[Crash], None],
        deadline: Callable[[str], float],
        passes_on: tuple[type[BaseException], ...],
        slot: Slot = UNMARKED,
    ) -> None:
        self.plugin = plugin
        self.is_abandoned = False
        self.is_open = False
        """Whether hooks are run."""
        self.scope: Scope | None = None
        """What runs now, set by `enter`; the lane sets it to None when its events have been delivered."""
        self.request: HookRequest | None = None
        self._work = work
        self._drop = drop
        self._on_crash = on_crash
        self._deadline = deadline
        self._passes_on = passes_on
        self._slot = slot
        self._hook = ""
        self._names = _NO_NAMES
        self._is_in_thread = False
        self._interruption: asyncio.TimerHandle | None = None
        """The end of the grace of a hook that was cancelled; None again as soon as that hook has ended."""
        self._expected: dict[HookRequest, tuple[float, float]] = {}
        """When the requests that have a deadline are to be answered, by the loop's time, and the seconds they had."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._worker = Worker(f"ally-{plugin}")
        self._context = copy_context()
        """The context of the task."""
        self._task: asyncio.Task[None] | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._seen: tuple[Event | None, str] = (None, "")
        self._seen_at = 0.0

    # --- its life ---

    def start(self) -> None:
        """Begin to work; must be called on the loop that the runner belongs to."""
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._task = self._loop.create_task(self._run(), name=f"ally-lane-{self.plugin}", context=self._context)
        self.is_open = not self.is_abandoned

    @property
    def is_busy(self) -> bool:
        """Whether there is, or may be, something to do."""
        # One that was woken sleeps until its next turn; a watchdog that looks in between must not stop watching.
        return self._sleeper is None or self._sleeper.done()

    @property
    def is_asleep(self) -> bool:
        """Whether nothing runs and nothing has woken the task, so that a hook may begin at once."""
        return self.scope is None and not self.is_busy

    def wake(self) -> None:
        """Say that there is work."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def abandon(self) -> None:
        """Run nothing any more, whatever the running hook does; what waits is answered."""
        # What waits is answered first: the task ends when the hook that runs in it lets it.
        self._shut_down()
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Abandon, wait `GRACE` seconds for the running hook to end, and a tenth of a second more to kill its task.

        Cancelling it only ends the waiting.
        """
        self.abandon()
        task = self._task
        # From within the hook that runs, it would wait for itself.
        if task is not None and task is not asyncio.current_task():
            await asyncio.wait([task], timeout=GRACE)
            if not task.done():
                await kill_task(task)

    async def _run(self) -> None:
        try:
            while not self.is_abandoned:
                try:
                    await self._work()
                except Exception as error:  # noqa: BLE001 - a fault of ours; the plugin must not hang for it
                    self._give_up("lane", error, None)
                else:
                    await self._sleep()
        finally:
            self._shut_down()  # whatever ended it: nobody may wait for a lane that is no more

    async def _sleep(self) -> None:
        if self.is_abandoned:  # while it worked: nobody would wake it any more
            return
        self._sleeper = self._loop.create_future()
        try:
            await self._sleeper
        finally:
            self._sleeper = None

    def _shut_down(self) -> None:
        self.is_abandoned, self.is_open = True, False
        self._drop()
        self._expected.clear()
        if self._alarm is not None:
            self._alarm.cancel()
        self._worker.close()

    # --- what the lane has run ---

    def enter(self, scope: Scope, names: Mapping[type[Event], str] = _NO_NAMES) -> None:
        """Let what is called next run for a scope, in this thread.

        A lane that calls hooks itself moves `scope.event` on, gives the `names` of the hooks by the type of event,
        takes what they raise to `failed`, and calls `ended` after one that was interrupted and returned all the same.
        """
        self.scope, self._names, self._hook = scope, names, ""
        self._slot.marks[HOOK] = OBSERVING
        SCOPE.set(scope)

    def leave(self) -> None:
        """Take note that nothing runs for the scope any more."""
        self.scope = None
        self._slot.marks[HOOK] = 0

    @property
    def current_hook(self) -> str:
        """The hook that runs now, empty when that is not known; may be read in any thread."""
        scope = self.scope
        return self._name(scope.event if scope is not None and self.request is None else None)

    async def observe(self, events: Iterable[tuple[Event, Hooks]]) -> None:
        """Call the hooks of each event, one after the other, for the scope that was entered last.

        `events` gives the next one when the hooks of the one before have ended. What they raise is reported. Cancelling
        the task cancels the hook that runs. Raises what is meant for the task itself.
        """
        for event, hooks in events:
            for hook, function, is_async in hooks:
                if self.is_abandoned:
                    return
                self._hook = hook
                try:
                    if is_async:
                        await function(event)
                    else:
                        await self._call_in_thread(hook, function, (event,))
                except BaseException as error:  # noqa: BLE001 - sorted in `failed`; a plugin may raise anything
                    self.failed(error, event)
                else:
                    if self._interruption is not None:
                        self.ended()

    async def observe_in_thread(self, events: Iterable[tuple[Event, Hooks]]) -> None:
        """Do the same with `def` hooks in the plugin's thread, where `events` is iterated: one switch for all of them.

        Cancelling it stops the waiting; the hook that runs, and no other, goes on to its end.
        """
        later = self._loop.call_soon_threadsafe

        def work() -> None:
            for event, hooks in events:
                for hook, function, _ in hooks:
                    if self.is_abandoned:
                        return
                    self._hook = hook
                    try:
                        _plain(hook, function(event))
                    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                        # On the loop: what a crash leads to (a state, a record) is not made for threads.
                        later(self._report, hook, _fault(error), event)

        self._is_in_thread = True
        try:
            await self._worker.run(work)
        finally:
            self._is_in_thread = False

    def begin(self, request: HookRequest) -> bool:
        """Call the asynchronous hook of a request at once, while the task is asleep, and settle it if it has ended.

        Returns whether nothing is left to do; if not, `serve` goes on where the hook waits.
        """
        task = self._task
        assert task is not None  # noqa: S101 - it is asleep
        self.request = request
        try:
            run_as(task, self._context, self._take_first_step, request)
            if task.cancelling() and not self.is_abandoned:
                self._give_up(request.hook, HookCancelled(_CANCELLED_ITSELF), None)
        finally:
            self.request = None
            self.leave()
        return request.is_over

    def _take_first_step(self, request: HookRequest) -> None:
        self._enter_hook(request)
        function: Callable[..., Any] = request.function  # type: ignore[assignment] # `begin` is for one that has some
        try:
            work = function(*request.arguments)
            if type(work) is not CoroutineType:  # one of another kind: the task awaits it from its beginning
                request.function, request.arguments = lambda: work, ()
                return
            left = Begun(work, work.send(None))
        except StopIteration as end:
            request.settle(end.value)
            return
        except Exception as error:  # noqa: BLE001 - its own, whatever it is
            request.settle(error=error)
            return
        except BaseException as error:  # noqa: BLE001 - `serve` sorts it, as what is raised later
            left = Begun(None, error=error)
        request.function, request.arguments = left, ()

    def _enter_hook(self, request: HookRequest) -> None:
        self.enter(request.scope)
        self._hook = request.hook
        self._slot.marks[HOOK] = hook_number(request.hook)

    async def serve(self, request: HookRequest) -> None:
        """Call the hook of a request, or go on with it, and settle it, unless it is over.

        Cancelling the task cancels the hook. Raises what is meant for the task itself.
        """
        has_begun = type(request.function) is Begun
        if request.function is None or (request.is_over and not has_begun):
            self._expected.pop(request, None)
            request.settle()
            return
        hook = request.hook
        self.request = request
        self._enter_hook(request)
        if request.is_over:  # taken back since it has begun
            self._interrupt(TakenBack(f"{hook} was taken back"), None)
        try:
            if request.is_async:
                result = await request.function(*request.arguments)
            else:
                result = await self._call_in_thread(hook, request.function, request.arguments)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit included
            fault = self._sort(error, None)
            request.settle(error=HookExit.wrap(error if fault is None else fault))
        else:
            if self._interruption is not None:
                self.ended()
            request.settle(result)
        finally:
            self.request = None
            self.leave()
            self._expected.pop(request, None)

    async def _call_in_thread(self, hook: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self._is_in_thread = True
        try:
            return await self._worker.run(lambda: _plain(hook, function(*arguments)))
        finally:
            self._is_in_thread = False

    # --- deadlines ---

    def expect(self, request: HookRequest, deadline: float) -> None:
        """Settle a request with TimedOut after `deadline` seconds, whether its hook runs by then or not.

        One timer serves all requests, and goes off once for the many that were quicker: a timer
        for each makes a gate cost 6 µs more.
        """
        ends = self._loop.time() + deadline
        self._expected[request] = ends, deadline
        if ends < self._alarm_at:
            self._set_alarm(ends)

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = self._loop.call_at(when, self._expire, when), when

    def take_back(self, request: HookRequest) -> None:
        """Interrupt the hook of a request that nobody waits for any more (a thread has until its deadline)."""
        if request is self.request and not self._is_in_thread:
            self._interrupt(TakenBack(f"{request.hook} was taken back"), None)

    def check(self, now: float) -> bool:
        """Interrupt a hook that has had one event for longer than its deadline; return whether it was.

        `now` is the loop's time. Called by the watchdog.
        """
        scope = self.scope  # another one in the next moment, where a thread is at it
        event = scope.event if scope is not None and self.request is None else None
        hook = self._name(event) if event is not None else ""
        # By the hook too: an event may have two, and each has the whole deadline.
        if event is None or event is not self._seen[0] or hook != self._seen[1]:
            self._seen, self._seen_at = (event, hook), now
            return False
        seconds = self._deadline(hook)
        if now - self._seen_at < seconds:
            return False
        self._seen_at = now
        self._interrupt(TimedOut(f"{hook} took longer than {seconds:g} s"), event)
        return True

    def _expire(self, now: float) -> None:
        self._alarm, self._alarm_at = None, math.inf
        # A copy: whoever is answered is called at once, and may bring a request.
        for request, (ends, deadline) in list(self._expected.items()):
            if ends <= now:
                self._expected.pop(request, None)
                error = TimedOut(f"{request.hook} did not answer within {deadline:g} s")
                request.settle(error=error)
                if request is self.request:
                    self._interrupt(error, None)
        if self._expected:
            self._set_alarm(min(ends for ends, _ in self._expected.values()))

    def _interrupt(self, error: Exception, event: Event | None) -> None:
        """Cancel the running hook. For a request its caller counts the crash; for an event it is reported here."""
        if self.is_abandoned or self._interruption is not None or self._task is None:
            return  # its grace decides
        hook = self._name(event)
        if self._is_in_thread:
            self._give_up(hook, error, event)
            return
        if event is not None:
            self._report(hook, error, event)
        if self.is_abandoned:  # that was one crash too many
            return
        self._interruption = self._loop.call_later(GRACE, self._give_up, hook, error, event)
        self._task.cancel()

    def ended(self) -> None:
        """Take the interruption of a hook that has ended back, so that timeouts in later ones work."""
        if self._interruption is not None:
            self._interruption.cancel()
            self._interruption = None
            if self._task is not None:
                self._task.uncancel()

    # --- failures ---

    def failed(self, error: BaseException, event: Event | None) -> None:
        """Report what a hook raised for an event, if no interruption led to it. Raises what is meant for the task."""
        fault = self._sort(error, event)
        if fault is not None:
            self._report(self._name(event), fault, event)

    def _sort(self, error: BaseException, event: Event | None) -> BaseException | None:
        """Return what the hook has done wrong, None when it was interrupted. Raises what is meant for the task itself.

        KeyboardInterrupt is the person's where one is there: it ends the lane and goes on to the loop. (In the plugin's
        own thread it can only be the plugin's, and is a crash.)
        """
        if isinstance(error, self._passes_on):
            raise error
        if isinstance(error, GeneratorExit) and not is_at_work(self._task):
            raise error  # the coroutine is being closed
        was_interrupted = self._interruption is not None
        self.ended()
        if isinstance(error, asyncio.CancelledError) and self._task is not None and self._task.cancelling():
            if self.is_abandoned or is_torn_down():
                raise error
            if not was_interrupted:
                own = HookCancelled(_CANCELLED_ITSELF).with_traceback(error.__traceback__)
                self._give_up(self._name(event), own, event)
                raise error
        return None if was_interrupted else _fault(error)  # whatever the hook made of its interruption

    def _name(self, event: Event | None) -> str:
        return self._hook or (self._names.get(event.__class__, "") if event is not None else "")

    def _report(self, hook: str, error: BaseException, event: Event | None) -> None:
        if not self.is_abandoned:
            self._on_crash(Crash(self.plugin, hook, error, event))

    def _give_up(self, hook: str, error: Exception, event: Event | None) -> None:
        if not self.is_abandoned:
            self._on_crash(Crash(self.plugin, hook, error, event, is_final=True))
            self.abandon()


def _plain(hook: str, result: Any) -> Any:
    """Return what a `def` hook returned; a coroutine would be awaited by nobody."""
    if inspect.iscoroutine(result):
        result.close()
        raise PluginError(f"{hook} returned a coroutine that nobody awaits; write `async def {hook}`")
    return result


def _fault(error: BaseException) -> BaseException:
    """Return what a hook raised as its crash names it: a bare CancelledError would be taken for one of ours."""
    raised = error.raised if isinstance(error, HookExit) else error
    if isinstance(raised, asyncio.CancelledError):
        return HookCancelled("the hook raised CancelledError").with_traceback(raised.__traceback__)
    return raised
