"""One thread for the synchronous hooks and handlers of one plugin, in the host or in a process of its own.

A daemon thread of our own, not an executor's: an executor joins its threads when the interpreter ends, so that one
plugin that never returns would keep the whole program from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["HookExit", "Worker"]

_Job = tuple["asyncio.Future[Any]", contextvars.Context, Callable[[], Any]]


class HookExit(Exception):
    """Something that is not an Exception, such as SystemExit: `raised`. A future or a task must not carry it."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(f"{type(raised).__name__}: {raised}")
        self.raised = raised

    @classmethod
    def wrap(cls, raised: BaseException) -> Exception:
        """Return an Exception as it is, and anything else wrapped."""
        if isinstance(raised, Exception):
            return raised
        return cls(raised).with_traceback(raised.__traceback__)


class Worker:
    """A thread that runs one function after the other; it starts with the first one and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def ident(self) -> int | None:
        """The thread's identity, None while it has not started."""
        return self._thread.ident if self._thread is not None else None

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in the thread, in the caller's context, and return what it returns.

        What it raises is raised here, SystemExit and KeyboardInterrupt wrapped in `HookExit`, since a future must not
        carry them. Cancelling stops the waiting; the function itself cannot be stopped.
        """
        # With the first function: a plugin whose hooks are all `async def` needs no thread.
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, contextvars.copy_context(), function))
        return await future

    def close(self) -> None:
        """Let the thread end after what it is doing; never waits."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(*job)
            del job  # or what it holds would live until the next one

    def _do(self, future: asyncio.Future[Any], context: contextvars.Context, function: Callable[[], Any]) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - a plugin's sys.exit must not end the thread
            error = HookExit.wrap(raised)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # a future refuses to carry it
        future.set_exception(RuntimeError(f"StopIteration: {error}"))
    else:
        future.set_exception(error)
