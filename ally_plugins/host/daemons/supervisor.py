"""Keeps the process of one daemon running: start, health, restart, stop, and a reason in a sentence for every change.

Launching and the handshake are the opener's; each new state is set on the plugin. One task for each daemon, which
sleeps between health checks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field

from ally_plugins.contract.process_spec import Timing
from ally_plugins.contract.values.errors import CannotExecute, PluginError
from ally_plugins.contract.values.inert import inert
from ally_plugins.runtime.lanes.link import BROKE_PROTOCOL, DaemonError, Link
from ally_plugins.runtime.lanes.plugin import Plugin, RunState
from ally_plugins.runtime.lanes.requests import Crash
from ally_plugins.runtime.lanes.teardown import cancel_task
from ally_plugins.runtime.processes.process import NO_PID, Process

from .lane import RemoteLane

if TYPE_CHECKING:
    from ally_plugins.runtime.processes.process import Exit

__all__ = ["DaemonFailed", "Opener", "OtherProtocol", "RestartPolicy", "StartFailed", "Supervisor"]

_log: Final = logging.getLogger(__name__)

EOF_GRACE: Final = 0.5
"""Seconds that a daemon has to exit at the end of its input, before it gets SIGTERM."""

EXIT_DELAY: Final = 0.2
"""Seconds that a process has to exit after its connection broke, so that its exit code becomes the reason."""


class DaemonFailed(DaemonError):
    """The process of a daemon ended, or had to be ended."""


class StartFailed(DaemonError):
    """A daemon could not be started; with `is_final`, trying again would not help."""

    def __init__(self, message: str, *, is_final: bool = False, is_away: bool = False) -> None:
        super().__init__(message)
        self.is_final: Final = is_final
        self.is_away: Final = is_away
        """Whether there is nobody to start it now, which is no crash of the plugin's."""


class Opener(Protocol):
    """The transport of one daemon: what differs between stdio and sockets.

    Calls come in the order of the methods. Any coroutine may be cancelled, when the process exits or is to stop; the
    supervisor then ends the process and calls `release`.
    """

    async def launch(self) -> Process:
        """Start the process. Raises CannotExecute and StartFailed."""
        ...

    async def handshake(self, process: Process, lost: Callable[[str], None]) -> Link:
        """Wait until the process is ready, and return the link to it; `lost` is called when that breaks later.

        What it offers has been checked by then, and nothing of it is used yet. Raises StartFailed. Cancelled when the
        process ends meanwhile, or is too slow.
        """
        ...

    async def accept_offers(self, link: Link) -> None:
        """Register what the daemon offers, once the lane has the link.

        Raises PluginError when that is not acceptable.
        """

    async def ping(self, link: Link) -> None:
        """Return when the daemon has answered; any exception means that it cannot."""

    def has_read(self, link: Link) -> bool:
        """Say whether the daemon has read, since the last call, of what waited for it then."""
        ...

    async def request_shutdown(self, link: Link, reason: str) -> None:
        """Ask the daemon to end, and wait until it has acknowledged that. May raise anything."""

    def release(self) -> None:
        """Release what was held for the process, which has ended or was not launched; safe to call again."""

    def stderr_tail(self) -> str:
        """Return the end of what it wrote to stderr, as one line; empty when that is nothing."""
        ...


class OtherProtocol(StartFailed):
    """What has been started speaks no version of the protocol that this host does."""


class RestartPolicy(Protocol):
    """When to start again; see `policy.restart`."""

    def failed(self, ran_for: float) -> float | None:
        """Return the seconds to wait after a failure, None to give up."""
        ...

    def reset(self) -> None:
        """Forget all failures."""


@define(eq=False)
class Supervisor:
    """The supervisor of one daemon; it lives from the plugin's start to its stop, and belongs to one loop."""

    plugin: Plugin
    lane: RemoteLane
    opener: Opener
    timing: Timing
    restarts: RestartPolicy
    on_running: Callable[[], None] = field(default=lambda: None)
    """Called when the daemon has become ready, after what waited for it was written."""
    on_gone: Callable[[], None] = field(default=lambda: None)
    """Called when its process has failed or is about to be stopped."""
    take_over: Callable[[], Awaitable[None]] | None = field(init=False, default=None)
    """Awaited once, when the first process has shown itself fit: it stops what ran in its place until then.

    One that does not come so far is not started again, and is nobody that others know of.
    """
    process: Process | None = field(init=False, default=None)
    _is_away: bool = field(init=False, default=False)
    """Whether what has failed was out of reach, and did not fail itself."""
    started: int = field(init=False, default=0)
    """How often a process was started."""
    _task: asyncio.Task[None] | None = field(init=False, default=None)
    _settled: asyncio.Event = field(init=False, factory=asyncio.Event)
    _restart_now: asyncio.Event = field(init=False, factory=asyncio.Event)
    _link: Link | None = field(init=False, default=None)
    _is_shutdown_requested: bool = field(init=False, default=False)
    """Whether the process that runs has been asked to end."""
    _broken: asyncio.Future[str] | None = field(init=False, default=None)

    async def start(self) -> None:
        """Start the process and wait until it is ready, or the first try has failed; the plugin's state says which.

        Cancelling stops the waiting; the process goes on starting until `stop`.
        """
        self._settled.clear()
        self._restart_now.clear()
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name=f"ally-daemon-{self.plugin.name}")
        await self._settled.wait()

    async def stop(self, reason: str) -> None:
        """Ask the daemon to end, then end it, with everything that it has started; safe to call twice.

        Cancelling leaves it to the end of the host to kill the process.
        """
        task, self._task = self._task, None
        if task is not None:
            if self.plugin.state in {RunState.RUNNING, RunState.STARTING, RunState.BACKOFF}:
                self.plugin.set_state(RunState.STOPPING, reason)
            task.cancel()
            # Not `await task`, which would raise its cancellation here.
            await asyncio.wait([task])
        # Also after the task: its own end of the process may have been cancelled half way.
        await self._end(reason, graceful=True)

    def restart(self, reason: str) -> None:
        """End the process and start it again at once, also out of a backoff; returns before that is done.

        Nothing happens when it was stopped or given up.
        """
        if self._task is None or self._task.done():
            return
        # It was asked for: failures from before do not count against the new process.
        self.restarts.reset()
        self._settled.clear()
        self._restart_now.set()
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(reason)

    def describe(self) -> Mapping[str, Any]:
        """Return its process as JSON values."""
        pid = self.process.pid if self.process is not None and self.process.pid != NO_PID else None
        return {"pid": pid, "restarts": max(0, self.started - 1)}

    async def settled(self) -> None:
        """Wait until it runs, or has failed to. Cancelling stops the waiting."""
        await self._settled.wait()

    # --- the task ---

    async def _supervise(self) -> None:
        try:
            while True:
                failure, ran_for = await self._run_once()
                if failure is None:  # a restart was requested
                    continue
                if self.take_over is not None:
                    self.plugin.set_state(RunState.FAILED, str(failure))
                    return
                if (delay := self._next_try(failure, ran_for)) is None:
                    return
                # Not `wait_for`, which until Python 3.12 loses a cancellation that comes just after the restart.
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._restart_now.wait()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - becomes the reason of the state; other daemons go on
            _log.exception("the supervisor of %r failed", self.plugin.name)
            self.plugin.set_state(
                RunState.FAILED, f"its supervisor failed with {type(error).__name__}; this is a fault of ours"
            )
        finally:
            self._settled.set()

    def _next_try(self, failure: PluginError, ran_for: float) -> float | None:
        """Count a failure and say how long to wait, None when it is over."""
        plugin = self.plugin
        if isinstance(failure, StartFailed) and failure.is_final:
            plugin.set_state(RunState.FAILED, f"{failure}; see `ally-plugins info {plugin.name}`")
            _log.error("the plugin %r did not start: %s", plugin.name, inert(plugin.masked(str(failure))))
            return None
        # A worker or a server that is away says nothing about the plugin: no number of such failures is its quarantine.
        if not self._is_away:
            plugin.crashed(Crash(plugin.name, "process", failure))
        # The crash may have been one too many, and that state stays.
        if plugin.state == RunState.QUARANTINED:
            return None
        delay = self.restarts.failed(ran_for)
        if delay is None:
            plugin.set_state(RunState.FAILED, f"{failure}; it was started again often enough; "
                             f"try `ally-plugins restart {plugin.name}`")  # fmt: skip
            return None
        plugin.set_state(RunState.BACKOFF, f"{failure}; it starts again in {_describe_wait(delay)}")
        self._settled.set()
        return delay

    async def _run_once(self) -> tuple[PluginError | None, float]:
        """Run one process from start to end; return why it failed (None: it was to restart) and how long it ran."""
        loop = asyncio.get_running_loop()
        began, ready = loop.time(), None
        self._restart_now.clear()
        self._is_shutdown_requested = False
        self._broken = loop.create_future()
        self.plugin.set_state(RunState.STARTING, "")
        self.started += 1
        try:
            self.process = process = await self.opener.launch()
            await self._bring_up(process, began)
            ready = loop.time()
            self._settled.set()
            reason = await self._watch(process, began)
            failure: PluginError | None = None if self._restart_now.is_set() else DaemonFailed(reason)
        except CannotExecute as error:
            failure, reason = StartFailed(str(error), is_final=error.is_final), str(error)
        except PluginError as error:
            failure, reason = error, str(error)
        process_away = self.process is not None and self.process.is_away
        self._is_away = process_away or (isinstance(failure, StartFailed) and failure.is_away)
        if failure is None:
            self.plugin.set_state(RunState.STOPPING, reason)
        await self._end(reason, graceful=failure is None)
        return failure, 0.0 if ready is None else loop.time() - ready

    async def _bring_up(self, process: Process, began: float) -> None:
        """Bring a fresh process to `running`."""
        link = await self._unless_exited(process, began, self.opener.handshake(process, self._lost))
        self._link = link
        # Before the lane has the link: what it offers has the names that the other one's tools have until it ends.
        if (take_over := self.take_over) is not None:
            self.take_over = None
            await take_over()
        self.lane.connect(link)
        await self._unless_exited(process, began, self.opener.accept_offers(link))
        if self.plugin.state == RunState.STARTING:  # its hooks may have put it into quarantine meanwhile
            self.plugin.set_state(RunState.RUNNING, "")
        self.lane.is_ready = True
        self.lane.wake()
        self.on_running()

    async def _unless_exited(self, process: Process, began: float, work: Awaitable[Any]) -> Any:
        """Wait for a step of the start, unless the process ends or takes too long."""
        task = asyncio.ensure_future(work)
        # For each step by itself: the handshake, and what follows from its answer.
        limit = self.timing.startup_timeout
        try:
            await asyncio.wait([task, process.exited], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if process.exited.done():  # its last messages may still be in the pipe
                await asyncio.wait([task], timeout=EXIT_DELAY)
            elif not _is_conclusive(task):  # the connection broke first: most likely the process is about to exit
                await asyncio.wait([process.exited], timeout=EXIT_DELAY if task.done() else 0)
            if process.exited.done() and not _is_conclusive(task):
                raise StartFailed(self._describe_exit(process.exited.result(), began, "before it was ready"))
            if not task.done():
                raise StartFailed(f"was not ready within {limit:g} s{self._stderr_suffix()}")
            return task.result()
        finally:
            await cancel_task(task)

    async def _watch(self, process: Process, began: float) -> str:
        """Wait until the process exits, breaks its connection, fails its health checks or is to restart; return why."""
        assert self._broken is not None  # noqa: S101 - made at the start of this run
        health = asyncio.ensure_future(self._check_health())
        try:
            ends: list[asyncio.Future[Any]] = [process.exited, self._broken, health]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done() and not self._restart_now.is_set():
                # The host itself ended it, and the exit that follows from that says less.
                if self._broken.result().startswith(BROKE_PROTOCOL):
                    return self._broken.result() + self._stderr_suffix()
                # It most likely exits, and the exit code is the better reason.
                await asyncio.wait([process.exited], timeout=EXIT_DELAY)
        finally:
            await cancel_task(health)
        if self._restart_now.is_set():
            return self._broken.result() if self._broken.done() else "it is to start again"
        if process.exited.done():
            return self._describe_exit(process.exited.result(), began)
        return (self._broken.result() if self._broken.done() else health.result()) + self._stderr_suffix()

    async def _check_health(self) -> str:
        """Ping it at intervals; return a sentence when it does not answer.

        A ping waits behind the events before it: a daemon that does not get to it, but reads on, is healthy.
        """
        timing, missed = self.timing, 0
        while True:
            await asyncio.sleep(timing.ping_interval if not missed else 0)  # a timeout was wait enough
            link = self._link
            assert link is not None  # noqa: S101 - it runs
            # Not for its answer: the look after the ping compares with this one.
            self.opener.has_read(link)
            try:
                async with asyncio.timeout(timing.ping_timeout):
                    await self.opener.ping(link)
            except Exception:  # noqa: BLE001 - whatever it was, there is no answer
                missed = 0 if self.opener.has_read(link) else missed + 1
                if missed >= timing.ping_retries:
                    return f"did not answer {missed} health checks of {timing.ping_timeout:g} s each"
            else:
                missed = 0

    def _lost(self, reason: str) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(reason)

    async def _end(self, reason: str, *, graceful: bool) -> None:
        """End the process and everything that it has started; when this is cancelled, `stop` does the rest."""
        link, process = self._link, self.process
        if process is None:
            self.lane.disconnect(reason)
            self.opener.release()  # a launch that has failed may have left something
            return
        asks_first = link is not None and graceful and not self._is_shutdown_requested and not process.exited.done()
        if link is not None and asks_first:
            self._is_shutdown_requested = True  # only once: `stop` may come here again after a cancelled restart
            await self._request_shutdown(link, process, reason)
        # After `shutdown` was answered: until then its answers and acknowledgements count.
        self.lane.disconnect(reason)
        if self.take_over is None:
            self.on_gone()
        if link is not None:
            link.close(reason)
        if asks_first:  # most exit at the end of their input; SIGTERM is for the others
            await asyncio.wait([process.exited], timeout=min(EOF_GRACE, self.timing.shutdown_grace))
        # No grace for one that failed: it hangs, or nothing but its children is left.
        await process.stop(self.timing.shutdown_grace if graceful else 0.0)
        self.process = self._link = None
        self.opener.release()

    async def _request_shutdown(self, link: Link, process: Process, reason: str) -> None:
        """Ask it to end, and wait for its answer, or until it has ended without one."""
        request = asyncio.ensure_future(self.opener.request_shutdown(link, reason))
        try:
            ends: list[asyncio.Future[Any]] = [request, process.exited]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([request], timeout=EXIT_DELAY)  # its answer may still be in the pipe
        finally:
            await cancel_task(request)

    def _describe_exit(self, end: Exit, began: float, when: str = "") -> str:
        seconds = asyncio.get_running_loop().time() - began
        return f"{end.description} after {seconds:.1f} s{f' {when}' if when else ''}{self._stderr_suffix()}"

    def _stderr_suffix(self) -> str:
        tail = self.opener.stderr_tail()
        return f", stderr ends: {tail}" if tail else ""


def _describe_wait(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2f} s"  # noqa: PLR2004 - the first wait is shorter


def _is_conclusive(task: asyncio.Future[Any]) -> bool:
    """Say whether a step's outcome is a better reason than the exit code: it succeeded, or failed for good."""
    if not task.done() or task.cancelled():
        return False
    error = task.exception()
    return error is None or (isinstance(error, StartFailed) and error.is_final)
