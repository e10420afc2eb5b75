"""Starting a host for the first agent that uses it and stopping it after the last, unless it runs already."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final
from weakref import ref

from attrs import define, field

from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.lanes.cross_loop_lock import CrossLoopLock
from ally_plugins.runtime.lanes.loopthread import LoopThread
from ally_plugins.runtime.lanes.teardown import finished

if TYPE_CHECKING:
    from ally_plugins.host.host import Host  # noqa: TC004 - nobody reads it at run time

__all__ = ["HostLifetime", "HostUse"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class HostUse:
    """One user of a host, from `HostLifetime.enter` to `leave`, which may be on another loop and in another thread."""

    _lifetime: HostLifetime
    _loop: asyncio.AbstractEventLoop
    _start_id: str | None
    """The start of the host that counts this user, None where somebody else has started it."""

    async def leave(self) -> None:
        """Stop a host that was started here, after its last user. A second call does nothing.

        The last of those that have entered on the loop that the host was started on waits for those that use it from
        other loops. A cancellation while the host stops is raised once it has stopped.
        """
        # Before the `await`, so that a second call has nothing to leave.
        start_id, self._start_id = self._start_id, None
        if start_id is not None:
            await self._lifetime.leave(start_id, self._loop)


@define(eq=False)
class HostLifetime:
    """Whether one host was started here, and its users. Lives as long as the host object, over any number of starts.

    Users may run on any loop. A host that the main thread starts runs on its loop there. Another thread may be a web
    server's, whose loop ends with the request that it serves: a host that is started there has a thread of its own.
    """

    _host: ref[Host]
    _is_owned: bool = field(init=False, default=False)  # from the beginning of its start to the end of its stop
    _home: asyncio.AbstractEventLoop | None = field(init=False, default=None)
    """The loop that it was started on, None in a thread of its own."""
    _thread: LoopThread | None = field(init=False, default=None)
    _start_id: str | None = field(init=False, default=None)
    _users: Counter[asyncio.AbstractEventLoop] = field(init=False, factory=Counter)
    _others_left: Future[None] | None = field(init=False, default=None)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)  # for the users
    _changing: CrossLoopLock = field(init=False, factory=CrossLoopLock)

    @property
    def host(self) -> Host:
        """The host. Raises HostError when it was garbage collected: this holds a weak reference."""
        host = self._host()
        if host is None:
            raise HostError("the host is gone; keep it as long as agents use it")
        return host

    async def enter(self) -> HostUse:
        """Start a host that does not run, and return what keeps it running until that is left.

        Entering while it starts or stops waits for that. Raises what the host's start raises; after that, and when it
        is cancelled, nobody has entered.
        """
        return HostUse(self, asyncio.get_running_loop(), await self._enter())

    async def _enter(self) -> str | None:
        """Return the start that counts this user, None where the host was not started here."""
        host = self.host
        # Without the lock: a host that its author runs is never started or stopped here.
        if host.loop is not None and not self._owns(host):
            return None
        async with self._changing:
            if host.loop is None:
                await self._start(host)
            elif not self._owns(host):  # its author has started it meanwhile
                return None
            with self._lock:
                self._users[asyncio.get_running_loop()] += 1
            return self._start_id

    def _owns(self, host: Host) -> bool:
        """Return whether the host was started here, or is about to be; its author may have stopped it since."""
        return self._is_owned and self._start_id in {None, host.services.host_id}

    async def _start(self, host: Host) -> None:
        if self._is_owned:  # its author has stopped it, and those that used it then have nothing to leave
            await self._stop(host)
        # Before the start, so that a run that comes meanwhile waits for it and does not take it for the author's.
        self._is_owned = True
        try:
            if threading.current_thread() is threading.main_thread():
                self._home = asyncio.get_running_loop()
                await host.start()
            else:
                self._home, self._thread = None, LoopThread("host", "async with Host(...) as host:")
                # To its end although this is cancelled: a start in a thread goes on, and `_stop` below needs it whole.
                await finished(asyncio.to_thread(self._thread.start, host.start(), None))
            self._start_id = host.services.host_id
        except BaseException:
            await self._stop(host)
            raise

    async def _stop(self, host: Host) -> None:
        stop = host.stop if self._owns(host) else _do_nothing
        try:
            if self._thread is None:
                await stop()
            else:
                await asyncio.to_thread(self._thread.stop, stop(), None)
        finally:
            self._is_owned, self._home, self._thread, self._start_id = False, None, None, None
            with self._lock:
                self._users.clear()

    async def leave(self, start_id: str, loop: asyncio.AbstractEventLoop) -> None:
        """Count off a user of one start of the host, who has entered on a loop; see `HostUse.leave`."""
        with self._lock:
            # Its start is over: the author has stopped that host, and others may use another start of it.
            if start_id != self._start_id:
                return
            self._users[loop] -= 1
            if not self._users[loop]:
                # No entry of 0, so that `not self._users` says that nobody is left.
                del self._users[loop]
            if self._others_left is not None and not self._users:
                self._others_left.set_result(None)
            if not self._is_last(loop):
                return
        # A host is stopped on the loop that it was started on; one with a thread of its own from anywhere.
        if self._home is None or self._home is asyncio.get_running_loop():
            await self._leave_last(start_id, loop)
        elif (own_loop := self.host.services.loop) is not None:
            try:
                await finished(own_loop.run(self._leave_last(start_id, loop)))
            except HostError as error:
                _log.warning("the host is not stopped: %s", error)

    def _is_last(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether it is for this loop to stop the host."""
        return not self._users if self._home is None else loop is self._home and not self._users[loop]

    async def _leave_last(self, start_id: str, loop: asyncio.AbstractEventLoop) -> None:
        async with self._changing:
            with self._lock:
                if start_id != self._start_id or not self._is_last(loop):  # others came, or have stopped it, meanwhile
                    return
                # With `_changing` held: nobody new can enter while the rest leaves.
                others = self._others_left = Future() if self._users else None
            # A host that has begun to stop stops: half-stopped, it would neither run nor start again.
            await finished(self._stop_after(others))

    async def _stop_after(self, others: Future[None] | None) -> None:
        if others is not None:
            await asyncio.wrap_future(others)
            self._others_left = None
        await self._stop(self.host)


async def _do_nothing() -> None:
    pass
