"""Starting a host for the first agent that uses it and stopping it after the last, unless it runs already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import ref

from attrs import define, field

from ally_plugins.contract.values.errors import HostError

if TYPE_CHECKING:
    from ally_plugins.host.host import Host  # noqa: TC004 - nobody reads it at run time

__all__ = ["HostLifetime"]


@define(eq=False)
class HostLifetime:
    """Whether one host was started here, and its users. Lives as long as the host object, over any number of starts."""

    _host: ref[Host]
    _users: int = field(init=False, default=0)
    _is_owned: bool = field(init=False, default=False)  # from the beginning of its start to the end of its stop
    _changing: asyncio.Lock = field(init=False, factory=asyncio.Lock)
    _loop: asyncio.AbstractEventLoop | None = field(init=False, default=None)  # the one that the lock belongs to

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

        Entering while it starts or stops waits for that. A cancellation while it stops is raised once it has stopped.
        Raises HostError for a host that runs on another event loop, and what its start raises.
        """
        is_used = await self._enter()
        try:
            yield
        finally:
            if is_used:
                await self._leave()

    async def _enter(self) -> bool:
        """Return whether this user is counted: the host was started here, and stops with the last of them."""
        host, loop = self.host, asyncio.get_running_loop()
        if self._is_owned:
            self._check_loop(self._loop, loop)
        elif host.loop is not None:
            self._check_loop(host.loop, loop)
            return False
        elif self._loop is not loop:
            self._changing, self._loop = asyncio.Lock(), loop
        async with self._changing:
            if host.loop is None:
                await self._start(host)
            if not self._is_owned:  # the host author started it meanwhile
                self._check_loop(host.loop, loop)
                return False
            self._users += 1
        return True

    async def _start(self, host: Host) -> None:
        self._is_owned = True
        try:
            await host.start()
        except BaseException:
            self._is_owned = False
            raise

    async def _leave(self) -> None:
        self._users -= 1
        if self._users:
            return
        async with self._changing:
            if not self._users and self._is_owned:
                try:
                    await _finish(self.host.stop())
                finally:
                    self._is_owned = False

    def _check_loop(self, its: object, loop: asyncio.AbstractEventLoop) -> None:
        if its is not loop:
            raise HostError(
                f"the host {self.host.app!r} runs on another event loop; run the agent on that one, or give it a host"
                " of its own"
            )


async def _finish(ending: Coroutine[Any, Any, None]) -> None:
    """Await a stop to its end; a cancellation is raised only then."""
    task = asyncio.ensure_future(ending)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
