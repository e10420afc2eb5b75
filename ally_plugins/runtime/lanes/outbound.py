"""The half of `Outbound` that both ends share: a call runs on the loop that the plugin belongs to, whoever makes it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ally_plugins.contract.values.errors import UnavailableRefused
from ally_plugins.runtime.forks import OwnProcess

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["LoopCalls"]

R = TypeVar("R")


class LoopCalls:
    """Carries one plugin's calls to the loop on which it was made, from any other loop or thread."""

    def __init__(self, plugin: str) -> None:
        self._name = plugin
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._process = OwnProcess.own()

    def run_blocking(self, call: Coroutine[Any, Any, R], timeout: float | None) -> R:
        """Run a call on the loop from another thread, and wait for it; `timeout` is in seconds.

        Raises what the call raises, RuntimeError on the loop's own thread, and TimeoutError, which cancels the call.
        """
        if threading.get_ident() == self._thread and self._process.is_here:
            call.close()
            message = "a blocking call on the loop's own thread would wait for itself; use `await ally...` there"
            raise RuntimeError(message)
        future = self._submit(call)
        try:
            return future.result(timeout)
        except BaseException:  # TimeoutError and KeyboardInterrupt leave the call running otherwise
            future.cancel()
            if self._loop.is_closed() and inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
                call.close()  # the loop ended before it came to the call
            raise

    def carry(self, call: Coroutine[Any, Any, R]) -> Coroutine[Any, Any, R]:
        """Return what awaits a call here, or on the plugin's loop when this is another thread.

        No coroutine of its own in between where none is needed: each costs as much as a step of the bus.
        """
        is_own = threading.get_ident() == self._thread and self._process.is_here
        return call if is_own else self._carry_over(call)

    async def _carry_over(self, call: Coroutine[Any, Any, R]) -> R:
        return await asyncio.wrap_future(self._submit(call))

    def _submit(self, call: Coroutine[Any, Any, R]) -> Future[R]:
        if not self._process.is_here:
            call.close()
            text = f"the host of {self._name!r} runs in the process of which this one is a fork; call it there"
            raise UnavailableRefused(text, plugin=self._name)
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError as error:  # the loop is closed
            call.close()
            raise UnavailableRefused(f"the host of {self._name!r} has stopped", plugin=self._name) from error
