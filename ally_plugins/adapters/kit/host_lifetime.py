"""Starting a host for the first agent that uses it and stopping it after the last, unless it runs already."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import ref

from attrs import define, field

from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.lanes.loopthread import LoopThread
from ally_plugins.runtime.lanes.teardown import finished

from .cross_loop_lock import CrossLoopLock

if TYPE_CHECKING:
    from ally_plugins.host.host import Host  # noqa: TC004 - nobody reads it at run time

__all__ = ["HostLifetime"]


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

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the host running while entered: starts one that does not run, and stops that one with its last user.

        Entering while it starts or stops waits for that. The last to leave on the loop that the host was started on
        waits for those that use it from other loops. A cancellation while it stops is raised once it has stopped.
        Raises what the host's start raises.
        """
        is_used = await self._enter()
        try:
            yield
        finally:
            if is_used:
                await self._leave()

    async def _enter(self) -> bool:
        """Return whether this user is counted: the host was started here, and stops with the last of them."""
        if not self._is_owned and self.host.loop is not None:
            return False
        async with self._changing:
            if self.host.loop is None:
                await self._start(self.host)
            elif not self._is_owned:  # the host author started it meanwhile
                return False
            with self._lock:
                self._users[asyncio.get_running_loop()] += 1
        return True

    async def _start(self, host: Host) -> None:
        self._is_owned = True
        try:
            if threading.current_thread() is threading.main_thread():
                self._home = asyncio.get_running_loop()
                await host.start()
            else:
                self._home, self._thread = None, LoopThread("host", "async with Host(...) as host:")
                await finished(asyncio.to_thread(self._thread.start, host.start(), None))
        except BaseException:
            await self._stop(host)
            raise

    async def _stop(self, host: Host) -> None:
        try:
            if self._thread is None:
                await host.stop()
            else:
                await asyncio.to_thread(self._thread.stop, host.stop(), None)
        finally:
            self._is_owned, self._home, self._thread = False, None, None

    async def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            self._users[loop] -= 1
            if not self._users[loop]:
                del self._users[loop]
            if self._others_left is not None and not self._users:
                self._others_left.set_result(None)
            if not self._is_last(loop):
                return
        async with self._changing:
            with self._lock:
                if not (self._is_owned and self._is_last(loop)):  # others came, or have stopped it, meanwhile
                    return
                others = self._others_left = Future() if self._users else None
            await finished(self._stop_after(others))

    def _is_last(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether it is for this loop to stop the host."""
        return not self._users if self._home is None else loop is self._home and not self._users[loop]

    async def _stop_after(self, others: Future[None] | None) -> None:
        if others is not None:
            await asyncio.wrap_future(others)
            self._others_left = None
        await self._stop(self.host)
