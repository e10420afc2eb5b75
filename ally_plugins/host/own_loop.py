"""The event loop that a host and its sessions belong to, and the refusal of calls from another one or from a fork.

Without the check a call on another loop would not fail: it would wait for a future that is never set on its loop, until
some deadline, or for ever. Who runs on another loop and means it has the call carried over by `run`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from threading import get_ident
from typing import Any, Final, TypeVar

from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.forks import OwnProcess

__all__ = ["OwnLoop"]

LOOK: Final = 1.0
"""Seconds between two looks at whether a loop that was given a call still runs: it may stop without a word."""

T = TypeVar("T")


class OwnLoop:
    """The loop that runs where this is made. Its owner calls `check` first in each public coroutine."""

    __slots__ = ("_thread", "_thread_name", "loop", "process")

    def __init__(self) -> None:
        self.loop: Final = asyncio.get_running_loop()
        self.process: Final = OwnProcess.own()
        self._thread: Final = get_ident()
        self._thread_name: Final = threading.current_thread().name

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on this loop."""
        # A thread runs one loop at a time. This is a fifth of `get_running_loop`, which asks for the process's id.
        return get_ident() == self._thread and self.loop.is_running() and self.process.is_here

    def check(self, call: str, owner: object) -> None:
        """Return when the caller runs on this loop.

        Raises HostError, which names the call, its owner, both loops and the ways out; a gate that raises has not
        allowed anything.
        """
        self.process.check(call, owner)  # first: the main thread of a fork looks like the loop's own
        if get_ident() != self._thread or not self.loop.is_running():
            raise HostError(f"{call}() was called {self._found()}, but {owner!r} belongs to {self._expected()}")

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call on this loop, whatever loop the caller runs on, and return what it returns.

        It runs in a copy of the caller's context. Cancelling cancels it and does not wait for its end. Raises HostError
        in a fork, and when the loop does not run or has stopped meanwhile: nobody knows then what came of the call.
        """
        if self.is_here:
            return await call
        if not (self.process.is_here and self.loop.is_running()):
            call.close()
            self.process.check("run", self)
            raise HostError(f"the event loop of thread {self._thread_name!r} does not run, and the host is on it")
        future = asyncio.run_coroutine_threadsafe(call, self.loop)
        here = asyncio.wrap_future(future)
        try:
            while not here.done():
                # Not `wait_for`, which cancels what it has waited for.
                await asyncio.wait((here,), timeout=LOOK)
                if not (here.done() or self.loop.is_running()):
                    raise HostError(f"the event loop of thread {self._thread_name!r} has stopped, and the host with it")
        finally:
            here.cancel()  # nothing once it is done
            if self.loop.is_running():
                future.cancel()
        if here.cancelled():
            raise HostError(f"the event loop of thread {self._thread_name!r} ends, and has cancelled the call")
        return here.result()

    def _found(self) -> str:
        name = threading.current_thread().name
        return f"on the event loop of thread {name!r}" if get_ident() != self._thread else "on another event loop"

    def _expected(self) -> str:
        if self.loop.is_closed():
            return f"one of thread {self._thread_name!r} that has been closed; make another host on this loop"
        return (
            f"that of thread {self._thread_name!r}; use"
            f" asyncio.run_coroutine_threadsafe(..., host.loop), or a BlockingHost from plain threads"
        )
